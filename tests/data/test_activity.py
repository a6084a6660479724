"""What is known of users and pairs at a moment, against sums over the events themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from befriend.data.activity import (
    DONE_HALF_LIVES,
    FLOOR,
    LONGEST,
    PAIR_FEATURES,
    PAIR_HALF_LIVES,
    RECEIVED_HALF_LIVES,
    USER_FEATURES,
    Activity,
)
from befriend.data.histories import Histories
from befriend.data.log import EventLog
from tests.conftest import make_log, random_log

T0 = 1_600_000_000
DAY = 86_400


def activity_of(log: EventLog) -> Activity:
    return Activity.of(log, Histories.of(log))


def one(value: int) -> torch.Tensor:
    return torch.tensor([value])


def test_features_of_a_user_by_hand() -> None:
    log = make_log([(0, "hi", 1, T0), (1, "hi", 0, T0 + DAY), (2, "hi", 0, T0 + 2 * DAY), (0, "hi", 2, T0 + 9 * DAY)])
    a = activity_of(log)
    horizon = T0 + 3 * DAY
    place = a.places(one(0), one(3))
    got = a.user_features(place, one(3), one(horizon))[0]
    assert got.shape == (USER_FEATURES,)
    received = sum(2.0 ** -(age * DAY / RECEIVED_HALF_LIVES[2]) for age in (2, 1))  # half-life of a day
    expected = {
        0: 1.0,
        1: math.log1p(DAY),  # last received a day ago
        2: math.log1p(1),  # the latest event of all
        4: math.log1p(3 * DAY),  # last active three days ago
        5: math.log1p(3),
        7: math.log1p(3 * DAY),  # known for three days
        8: math.log1p(1),  # one event done
        9: math.log1p(2),  # two received
        10 + 2: math.log(received + FLOOR),
        10 + len(RECEIVED_HALF_LIVES) + 1: math.log(2.0 ** -(3 * DAY / DONE_HALF_LIVES[1]) + FLOOR),
    }
    for k, value in expected.items():
        assert got[k].item() == pytest.approx(value, abs=1e-4), k


def test_what_never_happened_is_older_than_all_that_did_and_does_not_age_with_later_events() -> None:
    events = [(0, "hi", 1, T0), (0, "hi", 1, T0 + DAY)]
    for log in (make_log(events), make_log([*events, (1, "hi", 0, T0 + 3 * DAY), (2, "hi", 0, T0 + 4 * DAY)])):
        a = activity_of(log)
        got = a.user_features(a.places(one(0), one(2)), one(2), one(T0 + 2 * DAY))[0]
        assert got[1:4].tolist() == pytest.approx([math.log1p(LONGEST), math.log1p(2), 0])  # 0 never received
        assert got[4:7].tolist() == pytest.approx([math.log1p(DAY), math.log1p(1), 1])


def test_features_of_a_pair_by_hand() -> None:
    log = make_log([(0, "hi", 1, T0), (1, "hi", 0, T0 + DAY), (0, "hi", 2, T0 + 2 * DAY)])
    a = activity_of(log)
    end = a.histories.ends(one(0), one(3))
    place = a.pair_places(one(0), one(1), one(3))
    got = a.pair_features(place, end, one(3), one(T0 + 3 * DAY))[0]
    assert got.shape == (PAIR_FEATURES,)
    both = sum(2.0 ** -(age * DAY / PAIR_HALF_LIVES[1]) for age in (3, 2))
    for k, value in {
        0: math.log1p(2 * DAY),  # received from 1 two days ago
        3: math.log1p(3 * DAY),  # done to 1 three days ago
        6: math.log1p(1),  # one entry of the own history since
        8: 1.0,  # the latest was received
        9: math.log1p(1),
        10: math.log1p(1),
        11 + 1: math.log(both + FLOOR),
    }.items():
        assert got[k].item() == pytest.approx(value, abs=1e-4), k


def test_a_user_before_the_first_event_has_no_place_and_no_activity() -> None:
    a = activity_of(make_log([(0, "hi", 1, T0), (2, "hi", 0, T0 + 10)]))
    assert a.places(one(2), one(1)).item() == -1
    got = a.user_features(one(-1), one(1), one(T0 + 5))[0]
    assert got[0] == 0 and got[3] == 0 and got[6] == 0  # unseen, never received, never active
    assert a.pair_places(one(0), one(2), one(1)).item() == -1
    assert a.kinds(one(-1)).item() == 0


def test_signals_keep_somebody_active_but_make_no_contact_and_blocks_do_neither() -> None:
    events = [(0, "view", 1, T0), (0, "block", 2, T0 + 10)]
    a = activity_of(make_log(events, {"view": "signal", "block": "exclude"}))
    got = a.user_features(a.places(one(0), one(2)), one(2), one(T0 + 100))[0]
    assert got[4].item() == pytest.approx(math.log1p(100), abs=1e-5)  # active at the view, not at the block
    assert got[8] == 0  # no contact event done


def test_states_equal_sums_over_the_events_at_random_moments() -> None:
    log = random_log(users=12, events=300, seed=3)
    a, rng = activity_of(log), np.random.default_rng(0)
    for _ in range(50):
        user, visible = int(rng.integers(12)), int(rng.integers(1, 300))
        horizon = int(log.timestamp[visible - 1]) + int(rng.integers(1, 10_000))
        events = np.arange(visible)
        got = a.user_features(a.places(one(user), one(visible)), one(visible), one(horizon))[0].numpy()
        inbound, outbound = (events[side[:visible] == user] for side in (log.target, log.actor))
        for k, half_life in enumerate(RECEIVED_HALF_LIVES):
            total = (2.0 ** -((horizon - log.timestamp[inbound]) / half_life)).sum()
            assert got[10 + k] == pytest.approx(math.log(total + FLOOR), abs=1e-3)
        assert got[9] == pytest.approx(math.log1p(len(inbound)), abs=1e-5)
        if len(outbound):
            assert got[5] == pytest.approx(math.log1p(visible - outbound[-1]), abs=1e-5)


def test_contacts_are_distinct_and_each_at_its_latest_entry() -> None:
    log = random_log(users=8, events=200, seed=1)
    a, h = activity_of(log), Histories.of(log)
    for user in range(8):
        for visible in (1, 20, 111, 200):
            end = h.ends(one(user), one(visible))
            place = a.contacts(end, one(user), one(visible), 200)
            ok = place >= 0
            window = h.window(user, visible)
            met = h.other[window].tolist()
            got = h.other[place[ok]].tolist()
            assert sorted(got) == sorted(set(met))
            assert (place[ok].diff() < 0).all() and place.shape[1] == len(got)
            for p, other in zip(place[ok].tolist(), got, strict=True):
                assert p == window.start + len(met) - 1 - met[::-1].index(other)
                assert a.pair_places(one(user), one(other), one(visible)).item() == p


def test_the_latest_users_are_those_of_the_last_events_each_once() -> None:
    log = make_log([(0, "hi", 1, T0), (2, "hi", 1, T0 + 1), (3, "hi", 0, T0 + 2), (1, "hi", 2, T0 + 3)])
    users, ok = activity_of(log).latest(torch.tensor([3]), 2)
    assert sorted(users[ok].tolist()) == [0, 1, 2, 3]
    users, ok = activity_of(log).latest(torch.tensor([1]), 5)
    assert sorted(users[ok].tolist()) == [0, 1]


def test_nothing_known_at_a_moment_depends_on_a_later_event() -> None:
    log = random_log(users=10, events=200, seed=5)
    changed = random_log(users=10, events=200, seed=6)
    visible, horizon = 120, int(log.timestamp[119]) + 1
    later = EventLog(
        actor=np.concatenate([log.actor[:visible], changed.actor[visible:]]),
        target=np.concatenate([log.target[:visible], changed.target[visible:]]),
        timestamp=np.concatenate([log.timestamp[:visible], np.maximum(changed.timestamp[visible:], horizon)]),
        action=log.action,
        role=log.role,
        actions=log.actions,
        user_ids=log.user_ids,
    )
    everyone, seen, now = torch.arange(10), torch.tensor(visible), torch.tensor(horizon)
    found = []
    for version in (log, later):
        a = activity_of(version)
        place = a.places(everyone, seen)
        end = a.histories.ends(everyone, seen.expand(10))
        where = a.contacts(end, everyone, seen.expand(10), 100)
        pairs = a.pair_features(where, end[:, None], seen, now)
        found.append((a.user_features(place, seen, now), a.kinds(place), a.others(where), pairs))
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)
