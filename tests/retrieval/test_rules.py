"""Who may be on a list, lists of different people, and people who are shown only so often."""

from __future__ import annotations

import numpy as np
import pytest

from befriend.data.attributes import Attributes
from befriend.errors import CallError
from befriend.retrieval.rules import Eligible, Rules, diverse
from tests.conftest import make_log

DAY = 86_400
LOG = make_log([(0, "m", 1, 0), (2, "m", 0, 5 * DAY), (3, "m", 4, 9 * DAY)])
CITY = Attributes(np.array([[1], [1], [2], [0], [2]], np.int32), {"city": ("a", "b")}, np.zeros((5, 0), np.float32), ())


@pytest.mark.parametrize(
    ("rules", "user", "excluded"),
    [
        (Rules(), 0, []),
        (Rules(min_age_days=5), 0, [3, 4]),
        (Rules(only=frozenset({101, 103, 999})), 0, [0, 2, 4]),
        (Rules(same=("city",)), 0, [2, 3, 4]),
        (Rules(different=("city",)), 0, [0, 1, 3]),
        (Rules(different=("city",)), 3, [0, 1, 2, 3, 4]),  # whose own is not known
        (Rules(same=("city",)), 99, [0, 1, 2, 3, 4]),
        (Rules(same=("city",), min_age_days=5), 2, [0, 1, 3, 4]),
        (Rules(exclude=frozenset({100, 104, 999})), 0, [0, 4]),
        (Rules(cap=2), 0, [1, 4]),
        (Rules(cap=2, exclude=frozenset({"100"})), 0, [0, 1, 4]),
    ],
)
def test_only_those_who_may_are_left(rules: Rules, user: int, excluded: list[int]) -> None:
    shown = np.array([1, 2, 0, 0, 3])
    assert (
        np.flatnonzero(~Eligible(rules, LOG, LOG.first_seen, CITY, shown).allows(user, 10 * DAY)).tolist() == excluded
    )


def test_an_attribute_that_there_is_not_is_named() -> None:
    with pytest.raises(CallError, match=r"no categorical attribute town\. Attributes: city"):
        Eligible(Rules(same=("town",)), LOG, LOG.first_seen, CITY, np.zeros(5, np.int64))


def test_rules_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(CallError, match="the log has nobody"):
        Eligible(Rules(only=frozenset({"999"})), LOG, LOG.first_seen, CITY, np.zeros(5, np.int64))
    for wrong in ({"cap": 0}, {"cap": 1.5}, {"diversity": 7}, {"min_age_days": float("nan")}, {"min_age_days": -1}):
        with pytest.raises(CallError, match=f"{next(iter(wrong))} is "):
            Rules(**wrong)  # type: ignore[arg-type]


POOL = np.array([[0, 1, 2, 3, -1]])
SCORES = np.array([[4.0, 3.0, 2.0, 0.0, -np.inf]], np.float32)
VECTORS = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)


def test_people_alike_do_not_stand_side_by_side() -> None:
    def listed(d: float, k: int = 3) -> list[int]:
        return diverse(POOL, SCORES, k, d, VECTORS)[0].tolist()

    assert listed(0.0) == [0, 1, 2]
    # After 0, relevance of 1 is .75 and of 2 is .5; at one half, .375 - .5 against .25 - 0.
    assert listed(0.5) == [0, 2, 1]
    assert listed(0.0, k=6) == [0, 1, 2, 3, -1, -1]
