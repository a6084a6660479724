"""The protocol: what is asked, what is visible, who may be listed."""

from __future__ import annotations

import numpy as np
import pytest

from befriend.data.histories import Histories
from befriend.data.log import EventLog
from befriend.data.split import SEGMENTS, Split, split_by_time
from befriend.evaluation.protocol import DAY, HIDDEN, Questions, Request, ask, ranks, requests
from befriend.evaluation.regimes import REGIMES, Regime
from tests.conftest import make_log, random_log

NOON = 100 * DAY + DAY // 2


def asked(log: EventLog, regime: Regime, size: int = 3000) -> tuple[Split, Questions, list[Request]]:
    split = split_by_time(log.timestamp, 0.8, 0.9)
    questions = ask(log, split, "test", size, regime)
    found = [request for request, _, _ in requests(log, Histories.of(log), {regime: questions}, size=7)]
    return split, questions, found


def rows(found: list[Request]) -> list[tuple[int, int, int, int, list[int]]]:
    return [
        (int(r.user[b]), int(r.visible[b]), int(r.horizon[b]), int(r.action[b]), r.excluded(b).tolist())
        for r in found
        for b in range(len(r))
    ]


def tiny() -> EventLog:
    """Test events: 0 -> 1 (repeat), 1 -> 0 (reply), 2 -> 0 (new) at three noons in a row."""
    train = [(0, "ask", 1, k) for k in range(24)] + [(2, "ask", 1, 30), (1, "ask", 2, 31), (0, "ask", 3, 32)]
    test = [(0, "ask", 1, NOON), (3, "tell", 0, NOON + DAY), (2, "ask", 0, NOON + 2 * DAY)]
    return make_log(train + test)


def test_streaming_knows_all_before_the_event_and_its_action() -> None:
    _, questions, found = asked(tiny(), "streaming")
    assert [SEGMENTS[k] for k in questions.segment] == ["repeat", "reply", "new"]
    ask_, tell = 0, 1
    assert rows(found) == [
        (0, 27, NOON, ask_, []),
        (3, 28, NOON + DAY, tell, []),
        (2, 29, NOON + 2 * DAY, ask_, []),
        (2, 29, NOON + 2 * DAY, ask_, [1]),  # the list `new`: without 2's contact
    ]


def test_live_is_streaming_without_the_action_and_shares_its_requests() -> None:
    log = tiny()
    _, questions, found = asked(log, "live")
    _, _, streaming = asked(log, "streaming")
    assert rows(found) == [(user, visible, horizon, HIDDEN, out) for user, visible, horizon, _, out in rows(streaming)]
    both = list(requests(log, Histories.of(log), {"streaming": questions, "live": questions}, size=7))
    assert [[regime for regime, _ in regimes] for _, _, regimes in both] == [["streaming", "live"]]
    ((request, events, ((_, one), (_, other))),) = both
    assert request.regime.tolist() == [0] * 4 + [1] * 4
    assert events[one].tolist() == events[other].tolist() == questions.events[questions.row_event].tolist()
    assert request.visible[one].tolist() == request.visible[other].tolist()


def test_a_first_contact_with_somebody_findable_who_has_no_event_is_first_ever() -> None:
    """3 wrote something at 25 and has no event before the last one; 4 wrote nothing."""
    events = [(0, "ask", 1, k) for k in range(18)] + [(0, "ask", 3, 30), (1, "ask", 4, 31)]
    log = make_log(events)
    split = split_by_time(log.timestamp, 0.8, 0.9)
    since = log.first_seen.copy()
    since[3] = 25
    found = ask(log, split, "test", 100, "streaming", since)
    assert [SEGMENTS[k] for k in found.segment] == ["first ever", "cold"]
    assert found.row_is_new.tolist() == [False, True, False] and not found.scored_new.any()
    without = ask(log, split, "test", 100, "streaming")
    assert [SEGMENTS[k] for k in without.segment] == ["cold", "cold"] and not without.row_is_new.any()
    frozen = ask(log, split, "test", 100, "frozen", np.where(since == 25, 30, since))
    assert [SEGMENTS[k] for k in frozen.segment] == ["cold", "cold"]  # what they wrote came later


def test_daily_knows_all_before_the_day_and_not_the_action() -> None:
    _, _, found = asked(tiny(), "daily")
    midnight = NOON - DAY // 2
    # Never before the part's first event, and nothing of the same day.
    assert rows(found) == [
        (0, 27, NOON, HIDDEN, []),
        (3, 28, midnight + DAY, HIDDEN, []),
        (2, 29, midnight + 2 * DAY, HIDDEN, []),
        (2, 29, midnight + 2 * DAY, HIDDEN, [1]),
    ]


def test_frozen_knows_what_came_before_the_part_but_excludes_at_request_time() -> None:
    log = make_log([*[(0, "a", 1, k) for k in range(18)], (2, "a", 3, 20), (3, "a", 0, 21), (0, "a", 2, 22)])
    split, _, found = asked(log, "frozen")
    assert split.test_start == 18
    assert [(user, visible, horizon) for user, visible, horizon, _, _ in rows(found)] == [
        (2, 18, 20),  # a cold event: no second list
        (3, 18, 20),
        (3, 18, 20),
        (0, 18, 20),
    ]
    _, questions, found = asked(
        make_log([*[(0, "a", 1, k) for k in range(18)], (1, "a", 0, 20), (2, "a", 1, 21), (2, "a", 0, 22)]), "frozen"
    )
    assert [SEGMENTS[k] for k in questions.segment] == ["reply", "new", "new"]
    # 2 joined after the horizon, yet the contact made since is taken off the second list.
    assert [excluded for user, _, _, _, excluded in rows(found) if user == 2] == [[], [], [], [1]]


@pytest.mark.parametrize("regime", REGIMES)
def test_nothing_at_or_after_the_horizon_is_visible(regime: Regime) -> None:
    log = random_log()
    _, questions, found = asked(log, regime)
    for request in found:
        assert (request.horizon <= log.timestamp[questions.events].max()).all()
        inside = request.visible < log.num_events
        assert (log.timestamp[request.visible[inside]] >= request.horizon[inside]).all()
        assert (log.timestamp[request.visible - 1] < request.horizon).all()
    every = np.concatenate([request.visible for request in found])
    assert (np.diff(every) >= 0).all()


def test_evaluated_events_are_evenly_spaced_contacts() -> None:
    log = random_log(events=1000)
    _, questions, _ = asked(log, "streaming", size=30)
    assert len(questions.events) == 25  # every ceil(100 / 30) = 4th of 100
    assert set(np.diff(questions.events)) == {4}
    views = make_log([(0, "view", 1, k) if k % 2 else (0, "ask", 1, k) for k in range(100)], {"view": "signal"})
    _, questions, _ = asked(views, "streaming")
    assert questions.events.tolist() == [90, 92, 94, 96, 98]


def test_a_blocked_pair_is_excluded_from_every_list_of_either() -> None:
    events = [(0, "ask", 1, k) for k in range(17)] + [(2, "block", 0, 18), (2, "ask", 1, 19), (0, "ask", 1, 20)]
    _, _, found = asked(make_log(events, {"block": "exclude"}), "streaming")
    assert [(user, excluded) for user, _, _, _, excluded in rows(found)] == [(2, [0]), (2, [0]), (0, [2])]


def test_rank_is_the_place_on_the_list_or_infinite() -> None:
    lists = np.array([[4, 7, 9], [4, 7, -1]])
    assert ranks(lists, np.array([9, 5])).tolist() == [3, np.inf]
