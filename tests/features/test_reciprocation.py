"""Which events were answered within a number of days."""

from __future__ import annotations

import numpy as np
import pytest

from befriend.features.reciprocation import answered
from tests.conftest import make_log

DAY = 86_400


@pytest.mark.parametrize(("days", "expected"), [(2.0, [True, False, False, False]), (9.0, [True, True, True, False])])
def test_an_event_is_answered_by_a_later_one_in_the_opposite_direction_within_the_days(
    days: float, expected: list[bool]
) -> None:
    log = make_log([(0, "m", 1, 0), (1, "m", 2, DAY), (1, "m", 0, 2 * DAY), (0, "m", 1, 5 * DAY), (2, "m", 1, 8 * DAY)])
    assert answered(log, np.array([0, 1, 2, 4]), days).tolist() == expected


def test_answered_events_equal_those_of_brute_force() -> None:
    rng = np.random.default_rng(0)
    events = sorted(
        ((int(a), int((a + 1 + b) % 8), int(second)) for a, b, second in rng.integers([8, 7, 400], size=(300, 3))),
        key=lambda row: row[2],
    )
    log = make_log([(a, "m", b, second) for a, b, second in events])
    second, is_answered = log.timestamp, answered(log, np.arange(300), 50 / DAY)
    for event in range(300):
        is_reply = (log.actor == log.target[event]) & (log.target == log.actor[event]) & (np.arange(300) > event)
        assert is_answered[event] == (is_reply & (second - second[event] <= 50)).any()
