"""Drift measures of two windows of events match values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from befriend.data.event_log import EventLog
from befriend.monitoring.drift_measures import DriftMeasure, LogWindow, comparison_windows, drift_measures, psi
from befriend.monitoring.monitoring_settings import DriftSettings
from tests.conftest import make_log, random_log


def whole_log(log: EventLog, tokens: np.ndarray | None = None) -> LogWindow:
    return LogWindow(log, np.arange(log.num_events), tokens)


def measures_by_name(before: LogWindow, now: LogWindow) -> dict[str, DriftMeasure]:
    return {measure.name: measure for measure in drift_measures(before, now)}


def test_psi_matches_the_value_computed_by_hand() -> None:
    p, q = np.array([0.5, 0.5]), np.array([0.8, 0.2])
    assert psi(p, q) == pytest.approx(0.3 * math.log(1.6) + 0.3 * math.log(2.5))
    assert psi(p, p) == 0


def test_equal_windows_have_no_drift() -> None:
    log = random_log()
    tokens = np.arange(log.num_users) % 4
    measures = measures_by_name(whole_log(log, tokens), whole_log(log, tokens))
    assert set(measures) == {"actions", "first tokens", "contacts a user", "seconds between events", "answered pairs",
                         "acts of newcomers", "repeated contacts"}  # fmt: skip
    assert all(measure.value == 0 and measure.verdict(DriftSettings()) == "ok" for measure in measures.values())


def test_shares_of_answers_newcomers_and_repeats_match_values_computed_by_hand() -> None:
    """Users 0 and 1 write to each other, 0 twice; user 2 joins and writes to 0 without an answer."""
    log = make_log([(0, "a", 1, 10), (1, "a", 0, 20), (0, "a", 1, 30), (2, "a", 0, 40)])
    measures = measures_by_name(whole_log(log), LogWindow(log, np.array([2, 3]), None))
    shares = {name: (measure.before.get("share"), measure.now.get("share")) for name, measure in measures.items()}
    assert shares["answered pairs"] == (0.6667, 0.0)  # ordered pairs 01, 10, 20; then 01, 20
    assert shares["acts of newcomers"] == (1.0, 0.5)  # in the second window, user 0 is no newcomer
    assert shares["repeated contacts"] == (0.25, 0.0)


def test_labels_absent_from_both_windows_do_not_count() -> None:
    log = make_log([(0, "a", 1, 0), (0, "b", 1, 5), (0, "c", 1, 10), (1, "a", 0, 20), (1, "b", 0, 30)])
    measures = measures_by_name(LogWindow(log, np.array([0, 1]), None), LogWindow(log, np.array([3, 4]), None))
    assert measures["actions"].value == 0


def test_degrees_and_gaps_match_values_computed_by_hand() -> None:
    before = make_log([(0, "a", 1, 0), (0, "a", 2, 10), (0, "a", 3, 20)])
    now = make_log([(0, "a", 1, 0), (0, "a", 1, 100), (0, "a", 1, 200)])
    measures = measures_by_name(whole_log(before), whole_log(now))
    assert measures["contacts a user"].value == pytest.approx(0.25)  # degrees 3, 1, 1, 1 and 1, 1
    assert measures["seconds between events"].value == 1  # gaps 10, 10 and 100, 100
    assert measures["contacts a user"].verdict(DriftSettings()) == "ok"  # not significant with so few users


def test_shuffled_targets_are_severe_drift() -> None:
    """Shuffled targets are not answered, but every user acts as often as before."""
    rng = np.random.default_rng(0)
    pairs = [(a, b) for a in range(0, 40, 2) for b in (a + 1,)]
    events = []
    for k in range(1000):
        a, b = pairs[rng.integers(len(pairs))]
        events.append((a, "m", b, 10 * k) if rng.random() < 0.5 else (b, "m", a, 10 * k))
    log = make_log(events)
    shuffled = [
        (a, "m", int(target), second)
        for (a, _, _, second), target in zip(events, rng.permutation([event[2] for event in events]), strict=True)
    ]
    measures = measures_by_name(
        whole_log(log), whole_log(make_log([event for event in shuffled if event[0] != event[2]]))
    )
    verdicts = {name: measure.verdict(DriftSettings()) for name, measure in measures.items()}
    assert verdicts["answered pairs"] == verdicts["contacts a user"] == "severe"
    assert verdicts["actions"] == "ok"


def test_new_events_are_compared_with_as_many_events_before_them() -> None:
    before = make_log([(0, "a", 1, t) for t in range(100)])
    now = make_log([(0, "a", 1, t) for t in range(130)])
    window_before, window_now, description = comparison_windows(before, now, min_events=30)
    assert (window_before.tolist(), window_now.tolist()) == (list(range(70, 100)), list(range(100, 130)))
    assert description.startswith("30 events since")
    window_before, window_now, description = comparison_windows(before, now, min_events=31)
    assert (window_before.tolist(), window_now.tolist()) == (list(range(90, 100)), list(range(117, 130)))
    assert description.startswith("the last 10% of both logs")
