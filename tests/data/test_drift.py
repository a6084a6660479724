"""Differences between two windows of events, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from befriend.config import DriftSettings
from befriend.data.drift import Measure, Window, measures, psi, windows
from befriend.data.log import EventLog
from tests.conftest import make_log, random_log


def whole(log: EventLog, tokens: np.ndarray | None = None) -> Window:
    return Window(log, np.arange(log.num_events), tokens)


def found(before: Window, now: Window) -> dict[str, Measure]:
    return {measure.name: measure for measure in measures(before, now)}


def test_the_stability_index_by_hand() -> None:
    p, q = np.array([0.5, 0.5]), np.array([0.8, 0.2])
    assert psi(p, q) == pytest.approx(0.3 * math.log(1.6) + 0.3 * math.log(2.5))
    assert psi(p, p) == 0


def test_equal_windows_do_not_differ() -> None:
    log = random_log()
    tokens = np.arange(log.num_users) % 4
    told = found(whole(log, tokens), whole(log, tokens))
    assert set(told) == {"actions", "first tokens", "contacts a user", "seconds between events", "answered pairs",
                         "acts of newcomers", "repeated contacts"}  # fmt: skip
    assert all(measure.value == 0 and measure.verdict(DriftSettings()) == "ok" for measure in told.values())


def test_shares_of_answers_newcomers_and_repeats_by_hand() -> None:
    """0 and 1 write to each other, 0 twice; 2 joins and writes to nobody's answer."""
    log = make_log([(0, "a", 1, 10), (1, "a", 0, 20), (0, "a", 1, 30), (2, "a", 0, 40)])
    told = found(whole(log), Window(log, np.array([2, 3]), None))
    answered, newcomers, repeated = (told[n] for n in ("answered pairs", "acts of newcomers", "repeated contacts"))
    assert (answered.before, answered.now) == ({"share": 0.6667}, {"share": 0.0})  # 01, 10, 20; then 01, 20
    assert (newcomers.before, newcomers.now) == ({"share": 1.0}, {"share": 0.5})  # in the second, 0 was there before
    assert (repeated.before, repeated.now) == ({"share": 0.25}, {"share": 0.0})


def test_labels_that_neither_window_has_do_not_count() -> None:
    log = make_log([(0, "a", 1, 0), (0, "b", 1, 5), (0, "c", 1, 10), (1, "a", 0, 20), (1, "b", 0, 30)])
    told = found(Window(log, np.array([0, 1]), None), Window(log, np.array([3, 4]), None))
    assert told["actions"].value == 0


def test_degrees_and_gaps_by_hand() -> None:
    one = make_log([(0, "a", 1, 0), (0, "a", 2, 10), (0, "a", 3, 20)])
    two = make_log([(0, "a", 1, 0), (0, "a", 1, 100), (0, "a", 1, 200)])
    told = found(whole(one), whole(two))
    assert told["contacts a user"].value == pytest.approx(0.25)  # 3, 1, 1, 1 beside 1, 1
    assert told["seconds between events"].value == 1  # 10, 10 beside 100, 100
    assert told["contacts a user"].verdict(DriftSettings()) == "ok"  # it may well be chance


def test_shuffled_targets_are_severe() -> None:
    """Who answers whom is gone, though everybody acts as often as before."""
    rng = np.random.default_rng(0)
    pairs = [(a, b) for a in range(0, 40, 2) for b in (a + 1,)]
    events = []
    for k in range(1000):
        a, b = pairs[rng.integers(len(pairs))]
        events.append((a, "m", b, 10 * k) if rng.random() < 0.5 else (b, "m", a, 10 * k))
    log = make_log(events)
    shuffled = [
        (a, "m", int(t), s) for (a, _, _, s), t in zip(events, rng.permutation([e[2] for e in events]), strict=True)
    ]
    told = found(whole(log), whole(make_log([e for e in shuffled if e[0] != e[2]])))
    verdicts = {name: measure.verdict(DriftSettings()) for name, measure in told.items()}
    assert verdicts["answered pairs"] == verdicts["contacts a user"] == "severe"
    assert verdicts["actions"] == "ok"


def test_what_came_since_is_compared_with_as_long_before() -> None:
    before = make_log([(0, "a", 1, t) for t in range(100)])
    now = make_log([(0, "a", 1, t) for t in range(130)])
    one, two, said = windows(before, now, least=30)
    assert (one.tolist(), two.tolist()) == (list(range(70, 100)), list(range(100, 130)))
    assert said.startswith("30 events since")
    one, two, said = windows(before, now, least=31)
    assert (one.tolist(), two.tolist()) == (list(range(90, 100)), list(range(117, 130)))
    assert said.startswith("the last 10% of both logs")
