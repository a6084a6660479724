"""Exposure: coverage, Gini index and shares of groups match values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from befriend.analysis.exposure import exposure_by_group, measure_exposure
from befriend.data.split import Split
from befriend.evaluation.protocol import EvalQueries
from befriend.features.histories import Histories
from tests.conftest import make_log


def test_coverage_and_gini_match_values_computed_by_hand() -> None:
    lists = {"one": np.array([[0, -1], [0, -1]]), "all": np.array([[0, 1], [2, 3]])}
    by_model = measure_exposure(lists, np.array([True, True, True, True, False])).rows_by_key("model", named=True)
    assert by_model["one"][0]["users_covered"] == 0.25
    assert by_model["one"][0]["exposure_gini"] == 0.75
    assert by_model["all"][0]["users_covered"] == 1
    assert by_model["all"][0]["exposure_gini"] == 0


def test_shares_of_newcomers_match_values_computed_by_hand() -> None:
    """Users 0 to 2 have events in the training part, 3 joins later. Test events: 1 contacts 3, then 1 contacts 2."""
    log = make_log([(0, "a", 1, 10), (0, "a", 2, 20), (3, "a", 0, 30), (1, "a", 3, 40), (1, "a", 2, 50)])
    split = Split(t_validation=30, t_test=40, validation_start=2, test_start=3, events=5)
    queries = EvalQueries(
        events=np.array([3, 4]), is_sampled=np.array([True, True]), segment=np.array([2, 2], np.int8), cutoff=np.array([40, 50]),
        row_event=np.array([0, 0, 1, 1]), row_excludes_contacts=np.array([False, True, False, True]),
    )  # fmt: skip
    lists = {"model": np.array([[0, 1], [2, 3], [0, 1], [0, -1]])}
    table = exposure_by_group(log, Histories.of(log), split, queries, lists)
    by_training = {row["group"]: row for row in table.filter(by="joined").iter_rows(named=True)}
    newcomers, seen = by_training["unseen in training"], by_training["seen in training"]
    assert (newcomers["candidates"], newcomers["contacted"], newcomers["shown"]) == pytest.approx(
        (1 / 4, 1 / 2, 1 / 3), abs=1e-6
    )
    assert (seen["candidates"], seen["contacted"], seen["shown"]) == pytest.approx((3 / 4, 1 / 2, 2 / 3), abs=1e-6)
    by_activity = {row["group"]: row for row in table.filter(by="events").iter_rows(named=True)}
    assert by_activity["1-4"]["shown"] == 1  # no user has five events
    assert sum(row["contacted"] for row in by_activity.values()) == 1
