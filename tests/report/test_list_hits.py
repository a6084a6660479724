"""Hit rates and their ranges, on lists made by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from befriend.analysis.evaluate_settings import EvaluateSettings
from befriend.report.list_hits import (
    FEW_EVENTS,
    MANY_EVENTS,
    NO_EVENT,
    HitRate,
    activity_masks,
    hit_rates,
    rule_with_most_hits,
)

SETTINGS = EvaluateSettings(bootstrap=2000)


def test_rates_are_shares_of_lists_and_the_gain_is_paired() -> None:
    """Six lists of three users: the ranker hits four, the rule two, one of them another list."""
    users = np.array([0, 0, 1, 1, 2, 2])
    served, rule = np.array([1, 1, 1, 1, 0, 0], bool), np.array([1, 0, 0, 0, 1, 0], bool)
    masks = {"first": users == 0, "others": users > 0, "nobody": users > 9}
    rates, groups = cast(Any, hit_rates(users, served, rule, masks, SETTINGS))
    assert [rate.share for rate in rates] == pytest.approx([4 / 6, 2 / 6, 2 / 6], abs=1e-6)
    assert (groups["first"].num_lists, groups["first"].served, groups["first"].rule.share) == (2, HitRate(1, 1, 1), 0.5)
    assert (groups["others"].num_lists, groups["others"].served.share, groups["others"].rule.share) == (4, 0.5, 0.25)
    assert (groups["nobody"].num_lists, groups["nobody"].served, groups["nobody"].rule) == (0, None, None)


def test_ranges_are_wider_for_lists_of_the_same_users() -> None:
    """200 lists, half of them hits: of 200 users, or of 20 users with ten lists each that are all hits or all not."""
    hits = np.arange(200) >= 100
    (single, _, gain), _ = hit_rates(np.arange(200), hits, hits, {}, SETTINGS)
    (shared, _, _), _ = hit_rates(np.arange(200) // 10, hits, hits, {}, SETTINGS)
    # the standard error of a share of one half is .5 / sqrt(number of users)
    for rate, num_users in ((single, 200), (shared, 20)):
        half_width = 1.96 * 0.5 / num_users**0.5
        assert rate.high - 0.5 == pytest.approx(half_width, rel=0.15)
        assert 0.5 - rate.low == pytest.approx(half_width, rel=0.15)
    assert gain == HitRate(0, 0, 0)  # equal lists: the difference is certain


def test_groups_by_events_are_none_1_to_19_and_20_or_more() -> None:
    masks = activity_masks(np.array([0, 1, 2, 3, 4]))  # 0, 1-4, 5-19, 20-99, 100+
    assert {name: np.flatnonzero(mask).tolist() for name, mask in masks.items()} == {
        NO_EVENT: [0],
        FEW_EVENTS: [1, 2],
        MANY_EVENTS: [3, 4],
    }


def test_the_best_rule_is_the_one_with_the_most_hits_and_no_model() -> None:
    metrics = {
        "both": {"hit@10": 0.9, "ndcg@10": 0.9},
        "boosted": {"hit@10": 0.8, "ndcg@10": 0.8},
        "popularity": {"hit@10": 0.3, "ndcg@10": 0.1},
        "last-active": {"hit@10": 0.3, "ndcg@10": 0.2},
        "ppr": {"hit@10": 0.2, "ndcg@10": 0.25},
    }
    run = cast(Any, SimpleNamespace(metrics_by_model=lambda kind, regime: metrics if regime == "live" else {}))
    assert rule_with_most_hits(run, "live") == "last-active"
    assert rule_with_most_hits(run, "daily") is None
