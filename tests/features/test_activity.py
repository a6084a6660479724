"""Activity and pair features at a cutoff, against sums over the events themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from befriend.data.event_log import EventLog
from befriend.features.activity import (
    INCOMING_HALF_LIVES,
    MAX_AGE_SECONDS,
    MIN_DECAYED_SUM,
    NUM_PAIR_FEATURES,
    NUM_USER_FEATURES,
    OUTGOING_HALF_LIVES,
    PAIR_HALF_LIVES,
    Activity,
)
from befriend.features.histories import Histories
from tests.conftest import make_log, random_log

T0 = 1_600_000_000
DAY = 86_400


def make_activity(log: EventLog) -> Activity:
    return Activity.of(log, Histories.of(log))


def single(value: int) -> torch.Tensor:
    return torch.tensor([value])


def test_user_features_match_values_computed_by_hand() -> None:
    log = make_log([(0, "hi", 1, T0), (1, "hi", 0, T0 + DAY), (2, "hi", 0, T0 + 2 * DAY), (0, "hi", 2, T0 + 9 * DAY)])
    a = make_activity(log)
    cutoff = T0 + 3 * DAY
    entry = a.last_entries(single(0), single(3))
    features = a.user_features(entry, single(3), single(cutoff))[0]
    assert features.shape == (NUM_USER_FEATURES,)
    received = sum(2.0 ** -(age * DAY / INCOMING_HALF_LIVES[2]) for age in (2, 1))  # half-life of a day
    expected = {
        0: 1.0,
        1: math.log1p(DAY),  # last received a day ago
        2: math.log1p(1),  # the latest event of all
        4: math.log1p(3 * DAY),  # last active three days ago
        5: math.log1p(3),
        7: math.log1p(3 * DAY),  # first event three days ago
        8: math.log1p(1),  # one event done
        9: math.log1p(2),  # two received
        10 + 2: math.log(received + MIN_DECAYED_SUM),
        10 + len(INCOMING_HALF_LIVES) + 1: math.log(2.0 ** -(3 * DAY / OUTGOING_HALF_LIVES[1]) + MIN_DECAYED_SUM),
    }
    for k, value in expected.items():
        assert features[k].item() == pytest.approx(value, abs=1e-4), k


def test_an_event_that_never_happened_has_the_largest_age_whatever_later_events() -> None:
    events = [(0, "hi", 1, T0), (0, "hi", 1, T0 + DAY)]
    for log in (make_log(events), make_log([*events, (1, "hi", 0, T0 + 3 * DAY), (2, "hi", 0, T0 + 4 * DAY)])):
        a = make_activity(log)
        features = a.user_features(a.last_entries(single(0), single(2)), single(2), single(T0 + 2 * DAY))[0]
        never_received = [math.log1p(MAX_AGE_SECONDS), math.log1p(2), 0]
        assert features[1:4].tolist() == pytest.approx(never_received)
        assert features[4:7].tolist() == pytest.approx([math.log1p(DAY), math.log1p(1), 1])


def test_pair_features_match_values_computed_by_hand() -> None:
    log = make_log([(0, "hi", 1, T0), (1, "hi", 0, T0 + DAY), (0, "hi", 2, T0 + 2 * DAY)])
    a = make_activity(log)
    end = a.histories.end_offsets(single(0), single(3))
    entry = a.last_pair_entries(single(0), single(1), single(3))
    features = a.pair_features(entry, end, single(3), single(T0 + 3 * DAY))[0]
    assert features.shape == (NUM_PAIR_FEATURES,)
    decayed = sum(2.0 ** -(age * DAY / PAIR_HALF_LIVES[1]) for age in (3, 2))
    for k, value in {
        0: math.log1p(2 * DAY),  # received from 1 two days ago
        3: math.log1p(3 * DAY),  # done to 1 three days ago
        6: math.log1p(1),  # one later entry in the history of 0
        8: 1.0,  # the last entry is incoming
        9: math.log1p(1),
        10: math.log1p(1),
        11 + 1: math.log(decayed + MIN_DECAYED_SUM),
    }.items():
        assert features[k].item() == pytest.approx(value, abs=1e-4), k


def test_a_user_before_the_first_event_has_no_entry_and_no_activity() -> None:
    a = make_activity(make_log([(0, "hi", 1, T0), (2, "hi", 0, T0 + 10)]))
    assert a.last_entries(single(2), single(1)).item() == -1
    features = a.user_features(single(-1), single(1), single(T0 + 5))[0]
    assert features[0] == 0 and features[3] == 0 and features[6] == 0  # no entry, no incoming event, no outgoing event
    assert a.last_pair_entries(single(0), single(2), single(1)).item() == -1
    assert a.edge_types(single(-1)).item() == 0


def test_signals_count_as_activity_but_not_as_contact_and_blocks_as_neither() -> None:
    events = [(0, "view", 1, T0), (0, "block", 2, T0 + 10)]
    a = make_activity(make_log(events, {"view": "signal", "block": "exclude"}))
    features = a.user_features(a.last_entries(single(0), single(2)), single(2), single(T0 + 100))[0]
    assert features[4].item() == pytest.approx(math.log1p(100), abs=1e-5)  # active at the view, not at the block
    assert features[8] == 0  # no contact event done


def test_user_features_equal_sums_over_the_events_at_random_cutoffs() -> None:
    log = random_log(users=12, events=300, seed=3)
    a, rng = make_activity(log), np.random.default_rng(0)
    for _ in range(50):
        user, num_visible = int(rng.integers(12)), int(rng.integers(1, 300))
        cutoff = int(log.timestamp[num_visible - 1]) + int(rng.integers(1, 10_000))
        events = np.arange(num_visible)
        entry = a.last_entries(single(user), single(num_visible))
        features = a.user_features(entry, single(num_visible), single(cutoff))[0].numpy()
        inbound, outbound = (events[side[:num_visible] == user] for side in (log.target, log.actor))
        for k, half_life in enumerate(INCOMING_HALF_LIVES):
            total = (2.0 ** -((cutoff - log.timestamp[inbound]) / half_life)).sum()
            assert features[10 + k] == pytest.approx(math.log(total + MIN_DECAYED_SUM), abs=1e-3)
        assert features[9] == pytest.approx(math.log1p(len(inbound)), abs=1e-5)
        if len(outbound):
            assert features[5] == pytest.approx(math.log1p(num_visible - outbound[-1]), abs=1e-5)


def test_recent_distinct_entries_are_the_latest_entry_with_each_neighbor() -> None:
    log = random_log(users=8, events=200, seed=1)
    a, h = make_activity(log), Histories.of(log)
    for user in range(8):
        for num_visible in (1, 20, 111, 200):
            end = h.end_offsets(single(user), single(num_visible))
            entry = a.recent_distinct_entries(end, single(user), single(num_visible), 200)
            is_entry = entry >= 0
            window = h.user_entries(user, num_visible)
            history = h.other_user[window].tolist()
            neighbors = h.other_user[entry[is_entry]].tolist()
            assert sorted(neighbors) == sorted(set(history))
            assert (entry[is_entry].diff() < 0).all() and entry.shape[1] == len(neighbors)
            for latest, neighbor in zip(entry[is_entry].tolist(), neighbors, strict=True):
                assert latest == window.start + len(history) - 1 - history[::-1].index(neighbor)
                assert a.last_pair_entries(single(user), single(neighbor), single(num_visible)).item() == latest


def test_recent_users_are_those_of_the_last_events_each_once() -> None:
    log = make_log([(0, "hi", 1, T0), (2, "hi", 1, T0 + 1), (3, "hi", 0, T0 + 2), (1, "hi", 2, T0 + 3)])
    users, is_valid = make_activity(log).recent_users(torch.tensor([3]), 2)
    assert sorted(users[is_valid].tolist()) == [0, 1, 2, 3]
    users, is_valid = make_activity(log).recent_users(torch.tensor([1]), 5)
    assert sorted(users[is_valid].tolist()) == [0, 1]


def test_features_at_a_cutoff_do_not_depend_on_later_events() -> None:
    log = random_log(users=10, events=200, seed=5)
    other_log = random_log(users=10, events=200, seed=6)
    num_visible, cutoff = 120, int(log.timestamp[119]) + 1
    changed_log = EventLog(
        actor=np.concatenate([log.actor[:num_visible], other_log.actor[num_visible:]]),
        target=np.concatenate([log.target[:num_visible], other_log.target[num_visible:]]),
        timestamp=np.concatenate([log.timestamp[:num_visible], np.maximum(other_log.timestamp[num_visible:], cutoff)]),
        action=log.action,
        role=log.role,
        actions=log.actions,
        user_ids=log.user_ids,
    )
    users, visible, at = torch.arange(10), torch.tensor(num_visible), torch.tensor(cutoff)
    features = []
    for version in (log, changed_log):
        a = make_activity(version)
        last_entry = a.last_entries(users, visible)
        end = a.histories.end_offsets(users, visible.expand(10))
        distinct_entries = a.recent_distinct_entries(end, users, visible.expand(10), 100)
        pair_features = a.pair_features(distinct_entries, end[:, None], visible, at)
        user_features, neighbors = a.user_features(last_entry, visible, at), a.neighbors(distinct_entries)
        features.append((user_features, a.edge_types(last_entry), neighbors, pair_features))
    for before, after in zip(*features, strict=True):
        assert torch.equal(before, after)
