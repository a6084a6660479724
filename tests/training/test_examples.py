"""What training asks: nothing of the test part, nothing later than the moment, every event once in each regime."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from befriend.data.log import EventLog
from befriend.data.observed import Observed
from befriend.data.split import split_by_time
from befriend.data.texts import TextVectors
from befriend.evaluation.regimes import HIDDEN, REGIMES
from befriend.models.settings import TwoTowerSettings
from befriend.training.examples import BATCHES, AskedBatch, Epoch, Examples
from tests.conftest import make_log, random_log

DAY = 86_400
SMALL: dict[str, Any] = {
    "history_length": 8,
    "temporal_positions": 4,
    "positions_per_batch": 64,
    "recent_events": 3,
    "own_contacts": 5,
    "partners": 2,
}


def settings(**options: Any) -> TwoTowerSettings:
    return TwoTowerSettings(**SMALL | options)


def examples(log: EventLog, end: int | None = None, **options: Any) -> Examples:
    s = settings(**options)
    end = split_by_time(log.timestamp, 0.8, 0.9).validation_start if end is None else end
    return Examples(Observed.of(log, s.received_events), end, s)


def tensors(batch: Any, name: str = "") -> dict[str, torch.Tensor]:
    """Every tensor of a batch, by its dotted name."""
    found: dict[str, torch.Tensor] = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, torch.Tensor):
            found[f"{name}{field.name}"] = value
        elif value is not None:
            found |= tensors(value, f"{name}{field.name}.")
    return found


@pytest.fixture(scope="module")
def log() -> EventLog:
    return random_log(users=25, events=500, seed=2)


@pytest.mark.parametrize("received", [True, False])
def test_no_event_of_validation_or_test_reaches_any_training_input(log: EventLog, received: bool) -> None:
    """Whatever happens after training, every array of every batch stays the same."""
    end = split_by_time(log.timestamp, 0.8, 0.9).validation_start
    other = random_log(users=25, events=500, seed=9)
    changed = replace(
        log,
        actor=np.concatenate([log.actor[:end], other.actor[end:]]),
        target=np.concatenate([log.target[:end], other.target[end:]]),
        timestamp=np.concatenate([log.timestamp[:end], log.timestamp[end:] + 5 * DAY]),
    )
    for epoch in (0, 3):
        ours = examples(log, end, received_events=received).epoch(epoch)
        theirs = examples(changed, end, received_events=received).epoch(epoch)
        assert len(ours) == len(theirs) > 3
        for a, b in zip(ours, theirs, strict=True):
            left, right = tensors(a), tensors(b)
            assert left.keys() == right.keys()
            for name in left:
                assert torch.equal(left[name], right[name]), name


def batches(found: Examples) -> list[AskedBatch]:
    epoch = found.epoch(0)
    return [epoch[k] for k in range(len(epoch))]


def test_every_training_event_is_asked_for_once_in_each_regime(log: EventLog) -> None:
    found = examples(log, positions_per_batch=37)
    asked = [
        (int(r), int(u), int(t), int(h))
        for b in batches(found)
        for r, u, t, h in zip(
            b.positions.refresh,
            b.histories.actor_id[b.positions.row],
            b.positions.target,
            b.horizon,
            strict=True,
        )
    ]
    for k, regime in ((REGIMES.index(name), name) for name in ("streaming", "daily")):
        horizon = log.timestamp[: found.end]
        if regime == "daily":
            horizon = horizon // DAY * DAY
        expected = [
            (k, int(log.actor[e]), int(log.target[e]), int(horizon[e]))
            for e in range(found.end)
            if log.first_seen[log.target[e]] < horizon[e]
        ]
        assert sorted(expected) == sorted(a for a in asked if a[0] == k)
    streaming, live = ([a[1:] for a in asked if a[0] == k] for k in (0, 1))
    assert set(live) < set(streaming) and 0.1 * len(streaming) < len(live) < 0.4 * len(streaming)


def test_the_action_is_known_in_streaming_alone(log: EventLog) -> None:
    for b in batches(examples(log)):
        assert b.positions.refresh is not None
        assert torch.equal(b.positions.action != HIDDEN, b.positions.refresh == REGIMES.index("streaming"))


def test_live_alone_is_asked_for_at_every_event(log: EventLog) -> None:
    live, streaming = (sum(len(b.weight) for b in batches(examples(log, regimes=[r]))) for r in ("live", "streaming"))
    assert live == streaming


def test_who_wrote_something_and_has_no_event_yet_is_a_target_and_a_negative_as_in_service() -> None:
    """3 wrote at 50 and is contacted first at 60, from 70 on it has an event; 4 wrote at 10 and is never contacted."""
    events = [(0, "hi", 1, t) for t in range(20)] + [
        (0, "hi", 3, 60),
        (1, "hi", 2, 70),
        (2, "hi", 0, 80),
        (0, "hi", 2, 90),
    ]
    log = make_log([*events, *[(0, "hi", 1, t) for t in range(100, 110)]], users=5)
    texts = replace(
        TextVectors.none(5), user=torch.tensor([3, 4]), second=torch.tensor([50, 10]), row=torch.tensor([0, 1])
    )
    texts = replace(texts, vectors=torch.eye(2))
    settings = TwoTowerSettings(**SMALL | {"regimes": ["streaming"], "num_rand_negs": 64, "positions_per_batch": 4})
    found = Examples(Observed.of(log, texts=texts), 24, settings)
    assert set(found.universe.tolist()) == {0, 1, 2, 3, 4}
    asked = {}
    for b in batches(found):
        for k in range(len(b.weight)):
            columns = {int(u) for u, ok in zip(b.columns.users, b.column_allowed[k], strict=True) if ok}
            asked[int(b.horizon[k])] = int(b.positions.target[k]), bool(b.is_new[k]), columns
    assert asked[60][:2] == (3, True)  # before their first event
    negatives = {horizon: columns for horizon, (_, _, columns) in asked.items()}
    assert any(4 in columns for horizon, columns in negatives.items() if horizon > 10)
    assert not any(4 in columns for horizon, columns in negatives.items() if horizon <= 10)
    assert not any(3 in columns for horizon, columns in negatives.items() if horizon <= 50)


def test_frozen_asks_see_what_a_list_made_up_to_an_eighth_of_training_earlier_sees(log: EventLog) -> None:
    slow_then_fast = replace(log, timestamp=10_000_000 - np.arange(log.num_events)[::-1] ** 2)
    found = examples(slow_then_fast, regimes=("frozen",))
    longest = found.end // 8
    asked = [found.asks(np.random.default_rng(seed)) for seed in range(20)]
    for asks in asked:
        assert (slow_then_fast.timestamp[asks.visible] == asks.horizon).all()
    event, lag = (np.concatenate([x.event for x in asked]), np.concatenate([x.event - x.visible for x in asked]))
    late = lag[event >= found.end - longest]  # by then everyone is known
    assert lag.min() == 0 and lag.max() == longest
    assert late.mean() == pytest.approx(longest / 2, rel=0.05)  # evenly, by events and not by seconds


def test_a_position_reads_the_state_after_all_its_user_has_visibly_done_and_received(log: EventLog) -> None:
    found = examples(log)
    h = found.activity.histories
    for b in batches(found)[:6]:
        for p in range(len(b.weight)):
            row, state = int(b.positions.row[p]), int(b.positions.state[p])
            user, visible = int(b.histories.actor_id[row]), int(b.visible[p])
            window = h.window(user, visible)
            known = b.histories.actor_history_mask[row, :state]
            seen = b.histories.actor_history_targets[row, :state][known]
            expected = h.other[window][-len(seen) :] if len(seen) else seen
            assert torch.equal(seen, expected.long())
            if window.stop - window.start > 0:
                assert state > 0 and known[-1]
                stamp = b.histories.actor_history_timestamps[row, :state][known]
                assert (stamp < b.horizon[p]).all()
                assert int(stamp[-1]) == int(h.timestamp[h.event[window.stop - 1]])
            else:
                assert not known.any()


def test_no_candidate_is_the_target_the_actor_another_true_target_unseen_or_there_twice(log: EventLog) -> None:
    found = examples(log)
    true: dict[tuple[int, int, int], set[int]] = {}
    every = batches(found)
    for b in every:
        for p in range(len(b.weight)):
            key = (int(b.histories.actor_id[b.positions.row[p]]), int(b.visible[p]), int(b.positions.refresh[p]))
            true.setdefault(key, set()).add(int(b.positions.target[p]))
    for b in every:
        for p in range(len(b.weight)):
            actor, visible = int(b.histories.actor_id[b.positions.row[p]]), int(b.visible[p])
            near = b.near.users[p, 1:][b.near_allowed[p]].tolist()
            column = b.columns.users[b.column_allowed[p]].tolist()
            candidates = near + column
            assert len(candidates) == len(set(candidates))
            assert actor not in candidates
            assert not true[actor, visible, int(b.positions.refresh[p])] & set(candidates)
            assert all(int(found.first_event[c]) < visible for c in candidates)


def test_contacts_and_first_contacts_are_told_apart(log: EventLog) -> None:
    found = examples(log, recent_events=0, own_contacts=50)
    for b in batches(found)[:8]:
        for p in range(0, len(b.weight), 5):
            actor, visible = int(b.histories.actor_id[b.positions.row[p]]), int(b.visible[p])
            window = found.activity.histories.window(actor, visible)
            contacts = set(found.activity.histories.other[window].tolist())
            assert set(b.near.users[p, 1:][b.near_contact[p]].tolist()) <= contacts
            assert set(b.columns.users[b.column_contact[p]].tolist()) == contacts & set(b.columns.users.tolist())
            if b.is_new[p]:
                assert int(b.positions.target[p]) not in contacts


def test_only_people_of_the_latest_own_events_are_pointed_at(log: EventLog) -> None:
    found = examples(log)
    h = found.activity.histories
    for b in batches(found)[:6]:
        for p in range(len(b.weight)):
            window = h.window(int(b.histories.actor_id[b.positions.row[p]]), int(b.visible[p]))
            latest = set(h.other[window][-SMALL["own_contacts"] :].tolist())
            candidate = torch.cat([torch.ones(1, dtype=torch.bool), b.near_allowed[p]])
            users = b.near.users[p][candidate].tolist()
            assert b.pairs.met[p][candidate].tolist() == [user in latest for user in users]


def test_the_action_is_known_in_the_streaming_regime_alone(log: EventLog) -> None:
    for b in batches(examples(log))[:4]:
        assert ((b.positions.action == HIDDEN) == (b.positions.refresh != 0)).all()


def test_a_window_is_encoded_once_for_all_events_asked_for_in_it(log: EventLog) -> None:
    one = sum(len(b.histories.actor_id) for b in batches(examples(log, temporal_positions=1, regimes=["streaming"])))
    many = sum(len(b.histories.actor_id) for b in batches(examples(log, regimes=["streaming"])))
    asked = sum(len(b.weight) for b in batches(examples(log, regimes=["streaming"])))
    assert one == asked
    assert many < asked / 1.5


def test_the_temporal_weight_is_that_of_all_but_the_last_of_a_window(log: EventLog) -> None:
    for b in batches(examples(log, temporal_weight=0.25))[:4]:
        assert int((b.weight == 1).sum()) == len(b.histories.actor_id)
        assert ((b.weight == 1) | (b.weight == 0.25)).all()


def test_chronological_batches_go_from_the_earliest_moments_to_the_latest(log: EventLog) -> None:
    """What is learned by the time of a batch was visible then, up to the length of a stretch."""
    found = examples(log, positions_per_batch=8)
    stretches = len(Epoch(found, 0).asks.event) // (BATCHES * 8)
    of = [(b.visible * stretches // (found.end + 1)).unique() for b in batches(found)]
    assert stretches > 10 and all(len(stretch) == 1 for stretch in of)
    assert torch.cat(of).diff().min() >= 0 and len(torch.cat(of).unique()) == stretches
    shuffled = batches(examples(log, order="shuffled"))
    assert max(int(b.visible.max() - b.visible.min()) for b in shuffled) > found.end / 2


def test_users_are_learned_from_the_freshest_regime_alone_where_time_goes_by(log: EventLog) -> None:
    for b in batches(examples(log)):
        assert b.positions.learns is not None and b.positions.refresh is not None
        assert torch.equal(b.positions.learns, b.positions.refresh <= 1)  # streaming and live
    for b in batches(examples(log, regimes=["frozen", "daily"])):
        assert b.positions.learns is not None and b.positions.refresh is not None
        assert torch.equal(b.positions.learns, b.positions.refresh == REGIMES.index("daily"))
    assert all(b.positions.learns is None for b in batches(examples(log, order="shuffled")))


def test_targets_as_negatives_are_corrected_for_how_frequent_they_are_in_their_stretch(log: EventLog) -> None:
    found = examples(log, negatives="in_batch", regimes=["streaming"], positions_per_batch=16)
    stretches = len(Epoch(found, 0).asks.event) // (BATCHES * 16)
    assert stretches > 1
    targets: dict[int, list[torch.Tensor]] = {}
    for b in batches(found):
        targets.setdefault(int(b.visible[0]) * stretches // (found.end + 1), []).append(b.positions.target)
    for b in batches(found):
        drawn = torch.cat(targets[int(b.visible[0]) * stretches // (found.end + 1)])
        share = torch.bincount(drawn, minlength=log.num_users) / len(drawn)
        expected = 1 - torch.exp(-len(b.weight) * share[b.columns.users])
        assert torch.allclose(b.columns.log_share.exp(), expected, atol=1e-5)


def test_signals_and_blocks_are_never_asked_for() -> None:
    events = [(k % 5, "hi" if k % 3 else "view", (k + 1) % 5, 1_600_000_000 + 50 * k) for k in range(200)]
    log = make_log(events, {"view": "signal"})
    found = examples(log, 150)
    assert (log.action[found.events] == log.actions.index("hi")).all()
    assert any((b.histories.actor_history_actions == log.actions.index("view")).any() for b in batches(found))


def test_people_without_any_contact_are_asked_for() -> None:
    """Everybody's first event: the target is known, the actor new, and nobody has a contact."""
    log = make_log([(k + 1, "hi", k, 1_600_000_000 + 50 * k) for k in range(60)])
    found = batches(examples(log, 50, recent_events=0, regimes=["streaming"]))
    assert sum(len(b.weight) for b in found) == 49
    assert all(b.near.users.shape[1] == 1 and b.is_new.all() for b in found)


def test_hard_candidates_join_without_repeats(log: EventLog) -> None:
    found = examples(log)
    b = batches(found)[2]
    users = torch.argsort(torch.rand(len(b.weight), 25), dim=1)[:, :6]
    more = found.with_hard(b, users)
    assert more.near.users.shape[1] == b.near.users.shape[1] + 6
    for p in range(len(b.weight)):
        candidates = more.near.users[p, 1:][more.near_allowed[p]].tolist()
        candidates += more.columns.users[more.column_allowed[p]].tolist()
        assert len(candidates) == len(set(candidates))
        before = b.near.users[p, 1:][b.near_allowed[p]].tolist() + b.columns.users[b.column_allowed[p]].tolist()
        assert set(before) <= set(candidates)
        assert int(b.positions.target[p]) not in candidates


def test_the_same_epoch_gives_the_same_batches_and_another_one_others(log: EventLog) -> None:
    a, b, c = (tensors(examples(log).epoch(k)[1]) for k in (1, 1, 2))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert a["positions.target"].shape != c["positions.target"].shape or not torch.equal(
        a["positions.target"], c["positions.target"]
    )


def test_epochs_ask_for_the_same_events_in_the_regimes_that_draw_nothing_and_their_batches_differ_in_number() -> None:
    """Whether a target was known when a list of weeks was made depends on when that was, which each epoch draws."""
    found = examples(random_log(users=200, events=3000, seed=1), positions_per_batch=16)
    epochs = [Epoch(found, epoch) for epoch in range(3)]
    drawn = [REGIMES.index(name) for name in ("live", "frozen")]
    live = [~np.isin(epoch.asks.refresh, drawn) for epoch in epochs]
    events = [np.sort(epoch.asks.event[known]) for epoch, known in zip(epochs, live, strict=True)]
    assert all(np.array_equal(events[0], other) for other in events)
    assert len({len(epoch) for epoch in epochs}) > 1
