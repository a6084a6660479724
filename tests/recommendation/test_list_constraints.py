"""Constraints on lists: who may be listed, how diverse a list is, and how often a user may be listed."""

from __future__ import annotations

import numpy as np
import pytest

from befriend.data.attributes import Attributes
from befriend.errors import CallError
from befriend.recommendation.list_constraints import ConstraintFilter, ListConstraints, diversify
from tests.conftest import make_log

DAY = 86_400
LOG = make_log([(0, "m", 1, 0), (2, "m", 0, 5 * DAY), (3, "m", 4, 9 * DAY)])
CITY = Attributes(np.array([[1], [1], [2], [0], [2]], np.int32), {"city": ("a", "b")}, np.zeros((5, 0), np.float32), ())


@pytest.mark.parametrize(
    ("constraints", "user", "excluded"),
    [
        (ListConstraints(), 0, []),
        (ListConstraints(min_age_days=5), 0, [3, 4]),
        (ListConstraints(only=frozenset({101, 103, 999})), 0, [0, 2, 4]),
        (ListConstraints(same_attributes=("city",)), 0, [2, 3, 4]),
        (ListConstraints(different_attributes=("city",)), 0, [0, 1, 3]),
        (ListConstraints(different_attributes=("city",)), 3, [0, 1, 2, 3, 4]),  # the city of the user is missing
        (ListConstraints(same_attributes=("city",)), 99, [0, 1, 2, 3, 4]),
        (ListConstraints(same_attributes=("city",), min_age_days=5), 2, [0, 1, 3, 4]),
        (ListConstraints(exclude=frozenset({100, 104, 999})), 0, [0, 4]),
        (ListConstraints(cap=2), 0, [1, 4]),
        (ListConstraints(cap=2, exclude=frozenset({"100"})), 0, [0, 1, 4]),
    ],
)
def test_constraints_exclude_candidates(constraints: ListConstraints, user: int, excluded: list[int]) -> None:
    times_listed = np.array([1, 2, 0, 0, 3])
    list_filter = ConstraintFilter(constraints, LOG, LOG.first_seen, CITY, times_listed)
    assert np.flatnonzero(~list_filter.allowed_mask(user, 10 * DAY)).tolist() == excluded


def test_an_unknown_attribute_is_named_in_the_error() -> None:
    with pytest.raises(CallError, match=r"no categorical attribute town\. Attributes: city"):
        ConstraintFilter(ListConstraints(same_attributes=("town",)), LOG, LOG.first_seen, CITY, np.zeros(5, np.int64))


def test_invalid_constraints_raise_an_error() -> None:
    with pytest.raises(CallError, match="names no user of the log"):
        ConstraintFilter(ListConstraints(only=frozenset({"999"})), LOG, LOG.first_seen, CITY, np.zeros(5, np.int64))
    for invalid in ({"cap": 0}, {"cap": 1.5}, {"diversity": 7}, {"min_age_days": float("nan")}, {"min_age_days": -1}):
        with pytest.raises(CallError, match=f"{next(iter(invalid))} is "):
            ListConstraints(**invalid)  # type: ignore[arg-type]


POOL = np.array([[0, 1, 2, 3, -1]])
SCORES = np.array([[4.0, 3.0, 2.0, 0.0, -np.inf]], np.float32)
VECTORS = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)


def test_diversity_moves_similar_candidates_apart() -> None:
    def listed(diversity: float, k: int = 3) -> list[int]:
        return diversify(POOL, SCORES, k, diversity, VECTORS)[0].tolist()

    assert listed(0.0) == [0, 1, 2]
    # After 0, candidate 1 has relevance .75 and 2 has .5; at diversity one half, .375 - .5 against .25 - 0.
    assert listed(0.5) == [0, 2, 1]
    assert listed(0.0, k=6) == [0, 1, 2, 3, -1, -1]
