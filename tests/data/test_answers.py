"""Which events were answered, and in time."""

from __future__ import annotations

import numpy as np
import pytest

from befriend.data.answers import answered
from tests.conftest import make_log

DAY = 86_400


@pytest.mark.parametrize(("days", "expected"), [(2.0, [True, False, False, False]), (9.0, [True, True, True, False])])
def test_an_answer_comes_later_from_the_other_side_and_in_time(days: float, expected: list[bool]) -> None:
    log = make_log([(0, "m", 1, 0), (1, "m", 2, DAY), (1, "m", 0, 2 * DAY), (0, "m", 1, 5 * DAY), (2, "m", 1, 8 * DAY)])
    assert answered(log, np.array([0, 1, 2, 4]), days).tolist() == expected


def test_against_brute_force() -> None:
    rng = np.random.default_rng(0)
    events = sorted(
        ((int(a), int((a + 1 + b) % 8), int(t)) for a, b, t in rng.integers([8, 7, 400], size=(300, 3))),
        key=lambda e: e[2],
    )
    log = make_log([(a, "m", b, t) for a, b, t in events])
    t, found = log.timestamp, answered(log, np.arange(300), 50 / DAY)
    for e in range(300):
        back = (log.actor == log.target[e]) & (log.target == log.actor[e]) & (np.arange(300) > e)
        assert found[e] == (back & (t - t[e] <= 50)).any()
