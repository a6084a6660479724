"""The evaluation protocol: which events are queried, what is visible, and who is excluded."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from befriend.data.event_log import DAY, EventLog
from befriend.data.regimes import REGIMES, Regime
from befriend.data.split import SEGMENTS, Split, split_by_time
from befriend.evaluation.protocol import (
    UNKNOWN_ACTION,
    EvalQueries,
    RequestBatch,
    make_eval_queries,
    make_requests,
    target_ranks,
)
from befriend.features.histories import Histories
from tests.conftest import make_log, random_log

NOON = 100 * DAY + DAY // 2


def queries_and_requests(
    log: EventLog, regime: Regime, size: int = 3000
) -> tuple[Split, EvalQueries, list[RequestBatch]]:
    split = split_by_time(log.timestamp, 0.8, 0.9)
    queries = make_eval_queries(log, split, "test", size, regime)
    requests = [request for request, _, _ in make_requests(log, Histories.of(log), {regime: queries}, batch_events=7)]
    return split, queries, requests


def request_rows(requests: list[RequestBatch]) -> list[tuple[int, int, int, int, list[int]]]:
    """(user, num_visible, cutoff, action, excluded users) of each request."""
    return [
        (int(r.user[k]), int(r.num_visible[k]), int(r.cutoff[k]), int(r.action[k]), r.excluded(k).tolist())
        for r in requests
        for k in range(len(r))
    ]


def tiny_log() -> EventLog:
    """Test events: 0 -> 1 (repeat), 3 -> 0 (reply), 2 -> 0 (new), at noon of three consecutive days."""
    train = [(0, "ask", 1, k) for k in range(24)] + [(2, "ask", 1, 30), (1, "ask", 2, 31), (0, "ask", 3, 32)]
    test = [(0, "ask", 1, NOON), (3, "tell", 0, NOON + DAY), (2, "ask", 0, NOON + 2 * DAY)]
    return make_log(train + test)


def test_first_contacts_beside_the_sample_have_new_lists_only() -> None:
    log = random_log(users=60, events=2000)
    split = split_by_time(log.timestamp, 0.5, 0.9)
    few, many = (make_eval_queries(log, split, "test", 10, "daily", None, n) for n in (0, 1000))
    in_sample = np.isin(many.events[many.row_event], few.events)
    assert np.array_equal(many.events[many.row_event][in_sample], few.events[few.row_event])
    assert np.array_equal(many.row_excludes_contacts[in_sample], few.row_excludes_contacts)
    assert many.row_excludes_contacts[~in_sample].all() and (~in_sample).sum() > 10
    start, end = split.part("test")
    contacts = [k for k in range(log.num_events) if log.is_contact[k]]
    pairs = {k: frozenset((int(log.actor[k]), int(log.target[k]))) for k in contacts}
    since = {pairs[k]: int(log.timestamp[k]) for k in reversed(contacts)}
    first = [k for k in contacts if start <= k < end and log.timestamp[k] == since[pairs[k]]]
    first = [k for k in first if log.first_seen[log.target[k]] < many.cutoff[many.events == k][0]]
    assert many.events[many.row_event[many.row_excludes_contacts]].tolist() == first
    sample, rows = many.sample()
    assert np.array_equal(rows, in_sample)
    for field in dataclasses.fields(few):
        assert np.array_equal(getattr(sample, field.name), getattr(few, field.name)), field.name
    five = make_eval_queries(log, split, "test", 1, "daily", None, 5)
    assert len(five.events) <= 6 and set(five.events[1:].tolist()) < set(first)
    batches = list(make_requests(log, Histories.of(log), {"daily": many}, batch_events=7))
    assert np.concatenate([events for _, events, _ in batches]).tolist() == many.events[many.row_event].tolist()


def test_streaming_sees_all_events_before_the_event_and_its_action() -> None:
    _, queries, requests = queries_and_requests(tiny_log(), "streaming")
    assert [SEGMENTS[k] for k in queries.segment] == ["repeat", "reply", "new"]
    ask, tell = 0, 1
    assert request_rows(requests) == [
        (0, 27, NOON, ask, []),
        (3, 28, NOON + DAY, tell, []),
        (2, 29, NOON + 2 * DAY, ask, []),
        (2, 29, NOON + 2 * DAY, ask, [1]),  # list `new` excludes the contact of user 2
    ]


def test_live_is_streaming_without_the_action_and_shares_its_batches() -> None:
    log = tiny_log()
    _, queries, live = queries_and_requests(log, "live")
    _, _, streaming = queries_and_requests(log, "streaming")
    assert request_rows(live) == [
        (user, num_visible, cutoff, UNKNOWN_ACTION, excluded)
        for user, num_visible, cutoff, _, excluded in request_rows(streaming)
    ]
    batches = list(make_requests(log, Histories.of(log), {"streaming": queries, "live": queries}, batch_events=7))
    assert [[regime for regime, _ in regimes] for _, _, regimes in batches] == [["streaming", "live"]]
    ((request, events, ((_, streaming_rows), (_, live_rows))),) = batches
    assert request.regime.tolist() == [0] * 4 + [1] * 4
    assert events[streaming_rows].tolist() == events[live_rows].tolist() == queries.events[queries.row_event].tolist()
    assert request.num_visible[streaming_rows].tolist() == request.num_visible[live_rows].tolist()


def test_a_first_contact_with_a_cold_start_user_is_first_ever() -> None:
    """User 3 writes a text at 25 and has no event before the second last; user 4 writes nothing."""
    events = [(0, "ask", 1, k) for k in range(18)] + [(0, "ask", 3, 30), (1, "ask", 4, 31)]
    log = make_log(events)
    split = split_by_time(log.timestamp, 0.8, 0.9)
    eligible_since = log.first_seen.copy()
    eligible_since[3] = 25
    queries = make_eval_queries(log, split, "test", 100, "streaming", eligible_since)
    assert [SEGMENTS[k] for k in queries.segment] == ["first ever", "cold"]
    assert queries.row_excludes_contacts.tolist() == [False, True, False] and not queries.is_scored_new_list.any()
    without = make_eval_queries(log, split, "test", 100, "streaming")
    assert [SEGMENTS[k] for k in without.segment] == ["cold", "cold"] and not without.row_excludes_contacts.any()
    frozen = make_eval_queries(log, split, "test", 100, "frozen", np.where(eligible_since == 25, 30, eligible_since))
    assert [SEGMENTS[k] for k in frozen.segment] == ["cold", "cold"]  # the text came after the cutoff


def test_daily_sees_all_events_before_the_day_and_no_action() -> None:
    _, _, requests = queries_and_requests(tiny_log(), "daily")
    midnight = NOON - DAY // 2
    # The cutoff is midnight, but never before the first event of the part.
    assert request_rows(requests) == [
        (0, 27, NOON, UNKNOWN_ACTION, []),
        (3, 28, midnight + DAY, UNKNOWN_ACTION, []),
        (2, 29, midnight + 2 * DAY, UNKNOWN_ACTION, []),
        (2, 29, midnight + 2 * DAY, UNKNOWN_ACTION, [1]),
    ]


def test_frozen_sees_events_before_the_part_but_excludes_contacts_until_the_request() -> None:
    log = make_log([*[(0, "a", 1, k) for k in range(18)], (2, "a", 3, 20), (3, "a", 0, 21), (0, "a", 2, 22)])
    split, _, requests = queries_and_requests(log, "frozen")
    assert split.test_start == 18
    assert [(user, num_visible, cutoff) for user, num_visible, cutoff, _, _ in request_rows(requests)] == [
        (2, 18, 20),  # a cold event: no second list
        (3, 18, 20),
        (3, 18, 20),
        (0, 18, 20),
    ]
    _, queries, requests = queries_and_requests(
        make_log([*[(0, "a", 1, k) for k in range(18)], (1, "a", 0, 20), (2, "a", 1, 21), (2, "a", 0, 22)]), "frozen"
    )
    assert [SEGMENTS[k] for k in queries.segment] == ["reply", "new", "new"]
    # User 2 joined after the cutoff, yet its contact made since is excluded from the list `new`.
    assert [excluded for user, _, _, _, excluded in request_rows(requests) if user == 2] == [[], [], [], [1]]


@pytest.mark.parametrize("regime", REGIMES)
def test_nothing_at_or_after_the_cutoff_is_visible(regime: Regime) -> None:
    log = random_log()
    _, queries, requests = queries_and_requests(log, regime)
    for request in requests:
        assert (request.cutoff <= log.timestamp[queries.events].max()).all()
        has_later = request.num_visible < log.num_events
        assert (log.timestamp[request.num_visible[has_later]] >= request.cutoff[has_later]).all()
        assert (log.timestamp[request.num_visible - 1] < request.cutoff).all()
    num_visible = np.concatenate([request.num_visible for request in requests])
    assert (np.diff(num_visible) >= 0).all()


def test_evaluation_queries_are_evenly_spaced_contact_events() -> None:
    log = random_log(events=1000)
    _, queries, _ = queries_and_requests(log, "streaming", size=30)
    assert len(queries.events) == 25  # every ceil(100 / 30) = 4th of 100
    assert set(np.diff(queries.events)) == {4}
    views = make_log([(0, "view", 1, k) if k % 2 else (0, "ask", 1, k) for k in range(100)], {"view": "signal"})
    _, queries, _ = queries_and_requests(views, "streaming")
    assert queries.events.tolist() == [90, 92, 94, 96, 98]


def test_a_block_excludes_the_two_users_from_each_others_lists() -> None:
    events = [(0, "ask", 1, k) for k in range(17)] + [(2, "block", 0, 18), (2, "ask", 1, 19), (0, "ask", 1, 20)]
    _, _, requests = queries_and_requests(make_log(events, {"block": "exclude"}), "streaming")
    assert [(user, excluded) for user, _, _, _, excluded in request_rows(requests)] == [(2, [0]), (2, [0]), (0, [2])]


def test_the_rank_of_a_target_counts_from_1_and_is_infinite_off_the_list() -> None:
    lists = np.array([[4, 7, 9], [4, 7, -1]])
    assert target_ranks(lists, np.array([9, 5])).tolist() == [3, np.inf]
