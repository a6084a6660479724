"""The time split and the segments of events, checked by hand on small logs."""

from __future__ import annotations

import numpy as np

from befriend.data.split import SEGMENTS, segments, split_by_time
from tests.conftest import make_log


def segment_names(codes: np.ndarray) -> list[str]:
    return [SEGMENTS[k] for k in codes]


def test_parts_begin_at_the_timestamps_of_events_at_the_given_shares() -> None:
    split = split_by_time(np.arange(100, 110), 0.8, 0.9)
    assert (split.t_validation, split.t_test) == (108, 109)
    assert [split.part(name) for name in ("train", "validation", "test")] == [(0, 8), (8, 9), (9, 10)]


def test_events_of_one_second_stay_in_one_part() -> None:
    split = split_by_time(np.array([1, 2, 3, 4, 5, 6, 7, 9, 9, 9]), 0.8, 0.9)
    assert split.part("train") == (0, 7)
    assert split.part("validation") == (7, 7)
    assert split.part("test") == (7, 10)


def test_the_segment_of_an_event_depends_only_on_events_before_its_second() -> None:
    log = make_log(
        [
            (0, "a", 1, 1),
            (1, "a", 0, 2),
            (0, "a", 1, 3),
            (2, "a", 0, 4),
            (2, "a", 0, 4),
            (1, "a", 2, 5),
            (3, "a", 0, 6),
            (0, "a", 4, 6),
        ]
    )
    codes = segments(log, np.arange(8), log.timestamp)
    assert segment_names(codes) == ["cold", "reply", "repeat", "new", "new", "new", "new", "cold"]


def test_a_target_without_event_before_the_cutoff_is_cold_even_if_it_is_a_contact() -> None:
    log = make_log([(0, "a", 1, 10), (0, "a", 1, 20)])
    assert segment_names(segments(log, np.array([1]), np.array([20]))) == ["repeat"]
    assert segment_names(segments(log, np.array([1]), np.array([10]))) == ["cold"]


def test_a_signal_makes_no_contact() -> None:
    log = make_log([(0, "view", 1, 1), (0, "ask", 1, 2), (1, "view", 0, 3), (0, "ask", 1, 4)], {"view": "signal"})
    assert segment_names(segments(log, np.array([1, 3]), log.timestamp[[1, 3]])) == ["new", "repeat"]
