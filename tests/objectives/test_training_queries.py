"""Training queries: no event after the training part or the cutoff is visible, and every event is queried per
regime."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from befriend.data.event_log import EventLog
from befriend.data.regimes import EVENT_TIME_REGIMES, REGIMES, UNKNOWN_ACTION
from befriend.data.split import split_by_time
from befriend.features.feature_view import FeatureView
from befriend.features.text_vectors import TextVectors
from befriend.features.two_hop import log_features
from befriend.objectives.epoch_batches import MIN_BATCHES_PER_CHUNK, EpochBatches
from befriend.objectives.hard_negatives import with_hard_negatives
from befriend.objectives.objective_settings import TwoTowerSettings
from befriend.objectives.train_batch import TrainBatch
from befriend.objectives.training_queries import TrainingQueryBuilder
from tests.conftest import make_log, random_log

DAY = 86_400
SMALL: dict[str, Any] = {
    "history_length": 8,
    "temporal_positions": 4,
    "positions_per_batch": 64,
    "recent_events": 3,
    "history_candidates": 5,
    "recent_neighbors": 2,
}


def make_settings(**options: Any) -> TwoTowerSettings:
    return TwoTowerSettings(**SMALL | options)


def make_builder(log: EventLog, end: int | None = None, **options: Any) -> TrainingQueryBuilder:
    s = make_settings(**options)
    end = split_by_time(log.timestamp, 0.8, 0.9).validation_start if end is None else end
    return TrainingQueryBuilder(FeatureView.of(log, s.received_events), end, s)


def named_tensors(batch: Any, name: str = "") -> dict[str, torch.Tensor]:
    """Every tensor of a batch, by its dotted field name."""
    tensors: dict[str, torch.Tensor] = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, torch.Tensor):
            tensors[f"{name}{field.name}"] = value
        elif value is not None:
            tensors |= named_tensors(value, f"{name}{field.name}.")
    return tensors


@pytest.fixture(scope="module")
def log() -> EventLog:
    return random_log(users=25, events=500, seed=2)


@pytest.mark.parametrize("received", [True, False])
def test_no_event_of_validation_or_test_reaches_any_training_input(log: EventLog, received: bool) -> None:
    """Other events after the training part leave every tensor of every batch the same."""
    end = split_by_time(log.timestamp, 0.8, 0.9).validation_start
    other_log = random_log(users=25, events=500, seed=9)
    changed = replace(
        log,
        actor=np.concatenate([log.actor[:end], other_log.actor[end:]]),
        target=np.concatenate([log.target[:end], other_log.target[end:]]),
        timestamp=np.concatenate([log.timestamp[:end], log.timestamp[end:] + 5 * DAY]),
    )
    for epoch in (0, 3):
        batches = make_builder(log, end, received_events=received).epoch(epoch)
        changed_batches = make_builder(changed, end, received_events=received).epoch(epoch)
        assert len(batches) == len(changed_batches) > 3
        for batch, changed_batch in zip(batches, changed_batches, strict=True):
            tensors, changed_tensors = named_tensors(batch), named_tensors(changed_batch)
            assert tensors.keys() == changed_tensors.keys()
            for name in tensors:
                assert torch.equal(tensors[name], changed_tensors[name]), name


def all_batches(builder: TrainingQueryBuilder) -> list[TrainBatch]:
    epoch = builder.epoch(0)
    return [epoch[k] for k in range(len(epoch))]


def test_every_training_event_is_queried_in_streaming_and_a_share_of_them_in_each_other_regime(log: EventLog) -> None:
    builder = make_builder(log, positions_per_batch=37)
    queries = [
        (int(regime), int(actor), int(target), int(cutoff))
        for b in all_batches(builder)
        for regime, actor, target, cutoff in zip(
            b.positions.regime,
            b.histories.actor_id[b.positions.row],
            b.positions.target,
            b.cutoff,
            strict=True,
        )
    ]
    second = log.timestamp[: builder.end]
    for regime, cutoff, low, high in (
        ("streaming", second, 1, 1),
        ("live", second, 0.15, 0.35),
        ("daily", second // DAY * DAY, 0.4, 0.6),
    ):
        all_events = [
            (int(log.actor[e]), int(log.target[e]), int(cutoff[e]))
            for e in range(builder.end)
            if log.first_seen[log.target[e]] < cutoff[e]
        ]
        queried = [query[1:] for query in queries if query[0] == REGIMES.index(regime)]
        assert not Counter(queried) - Counter(all_events)
        assert low <= len(queried) / len(all_events) <= high, regime


def test_without_streaming_every_training_event_is_queried_in_each_regime(log: EventLog) -> None:
    builder = make_builder(log, regimes=["daily"])
    is_eligible = log.first_seen[log.target] < log.timestamp // DAY * DAY
    queries = builder.sample_queries(np.random.default_rng(0))
    assert np.array_equal(queries.event, np.flatnonzero(is_eligible[: builder.end]))


def test_the_action_is_known_in_streaming_only(log: EventLog) -> None:
    for b in all_batches(make_builder(log)):
        assert b.positions.regime is not None
        assert torch.equal(b.positions.action != UNKNOWN_ACTION, b.positions.regime == REGIMES.index("streaming"))


def test_without_streaming_every_event_is_queried_in_live(log: EventLog) -> None:
    live, streaming = (
        sum(len(b.weight) for b in all_batches(make_builder(log, regimes=[regime]))) for regime in ("live", "streaming")
    )
    assert live == streaming


def test_a_user_with_a_text_and_no_event_is_a_target_and_a_negative_as_in_service() -> None:
    """User 3 writes at 50 and is first contacted at 60; user 4 writes at 10 and is never contacted."""
    events = [(0, "hi", 1, t) for t in range(20)] + [
        (0, "hi", 3, 60),
        (1, "hi", 2, 70),
        (2, "hi", 0, 80),
        (0, "hi", 2, 90),
    ]
    log = make_log([*events, *[(0, "hi", 1, t) for t in range(100, 110)]], users=5)
    texts = replace(
        TextVectors.none(5), user=torch.tensor([3, 4]), timestamp=torch.tensor([50, 10]), row=torch.tensor([0, 1])
    )
    texts = replace(texts, vectors=torch.eye(2))
    settings = TwoTowerSettings(**SMALL | {"regimes": ["streaming"], "num_rand_negs": 64, "positions_per_batch": 4})
    builder = TrainingQueryBuilder(FeatureView.of(log, texts=texts), 24, settings)
    assert set(builder.negative_pool.tolist()) == {0, 1, 2, 3, 4}
    queries = {}
    for b in all_batches(builder):
        for k in range(len(b.weight)):
            negatives = set(b.candidates.users[k, 1:][b.is_negative[k]].tolist())
            queries[int(b.cutoff[k])] = int(b.positions.target[k]), bool(b.is_first_contact[k]), negatives
    assert queries[60][:2] == (3, True)  # a first contact, before any event of user 3
    assert any(4 in negatives for cutoff, (_, _, negatives) in queries.items() if cutoff > 10)
    assert not any(4 in negatives for cutoff, (_, _, negatives) in queries.items() if cutoff <= 10)
    assert any(3 in negatives for cutoff, (_, _, negatives) in queries.items() if cutoff > 60)
    assert not any(3 in negatives for cutoff, (_, _, negatives) in queries.items() if cutoff <= 50)


def test_frozen_queries_see_what_was_visible_up_to_an_eighth_of_training_earlier(log: EventLog) -> None:
    slow_then_fast = replace(log, timestamp=10_000_000 - np.arange(log.num_events)[::-1] ** 2)
    builder = make_builder(slow_then_fast, regimes=("frozen",))
    longest = builder.end // 8
    epochs = [builder.sample_queries(np.random.default_rng(seed)) for seed in range(20)]
    for queries in epochs:
        assert (slow_then_fast.timestamp[queries.num_visible] == queries.cutoff).all()
    event, lag = (
        np.concatenate([queries.event for queries in epochs]),
        np.concatenate([queries.event - queries.num_visible for queries in epochs]),
    )
    late_lag = lag[event >= builder.end - longest]  # by then all users have events
    assert lag.min() == 0 and lag.max() == longest
    assert late_lag.mean() == pytest.approx(longest / 2, rel=0.05)  # uniform in events, not in seconds


def test_a_position_reads_the_state_after_the_last_visible_entry_of_its_actor(log: EventLog) -> None:
    builder = make_builder(log)
    h = builder.activity.histories
    for b in all_batches(builder)[:6]:
        for p in range(len(b.weight)):
            row, state = int(b.positions.row[p]), int(b.positions.state[p])
            actor, num_visible = int(b.histories.actor_id[row]), int(b.num_visible[p])
            window = h.user_entries(actor, num_visible)
            mask = b.histories.actor_history_mask[row, :state]
            visible_users = b.histories.actor_history_targets[row, :state][mask]
            expected = h.other_user[window][-len(visible_users) :] if len(visible_users) else visible_users
            assert torch.equal(visible_users, expected.long())
            if window.stop - window.start > 0:
                assert state > 0 and mask[-1]
                timestamps = b.histories.actor_history_timestamps[row, :state][mask]
                assert (timestamps < b.cutoff[p]).all()
                assert int(timestamps[-1]) == int(h.timestamp[h.event[window.stop - 1]])
            else:
                assert not mask.any()


def test_no_candidate_is_a_true_target_the_actor_a_later_user_or_a_duplicate(log: EventLog) -> None:
    builder = make_builder(log)
    true_targets: dict[tuple[int, int, int], set[int]] = {}
    batches = all_batches(builder)
    for b in batches:
        for p in range(len(b.weight)):
            key = (int(b.histories.actor_id[b.positions.row[p]]), int(b.num_visible[p]), int(b.positions.regime[p]))
            true_targets.setdefault(key, set()).add(int(b.positions.target[p]))
    for b in batches:
        for p in range(len(b.weight)):
            actor, num_visible = int(b.histories.actor_id[b.positions.row[p]]), int(b.num_visible[p])
            candidates = b.candidates.users[p, 1:][b.is_negative[p]].tolist()
            assert len(candidates) == len(set(candidates))
            assert actor not in candidates
            assert not true_targets[actor, num_visible, int(b.positions.regime[p])] & set(candidates)
            assert all(int(builder.first_event[user]) < num_visible for user in candidates)


def test_masks_of_existing_contacts_and_first_contacts_equal_those_of_the_log(log: EventLog) -> None:
    builder = make_builder(log, recent_events=0, history_candidates=200)
    for b in all_batches(builder)[:8]:
        for p in range(0, len(b.weight), 5):
            actor, num_visible = int(b.histories.actor_id[b.positions.row[p]]), int(b.num_visible[p])
            window = builder.activity.histories.user_entries(actor, num_visible)
            contacts = set(builder.activity.histories.other_user[window].tolist())
            num_shared = len(b.shared.users)
            is_row_contact, is_shared_contact = b.is_contact[p, :-num_shared], b.is_contact[p, -num_shared:]
            assert set(b.candidates.users[p, 1:-num_shared][is_row_contact].tolist()) == contacts
            assert set(b.shared.users[is_shared_contact].tolist()) == contacts & set(b.shared.users.tolist())
            is_stranger = int(b.positions.target[p]) not in contacts
            if REGIMES[int(b.positions.regime[p])] in EVENT_TIME_REGIMES:
                assert bool(b.is_first_contact[p]) == is_stranger
            else:  # the two may have come into contact after the cutoff
                assert is_stranger or not b.is_first_contact[p]


def test_only_users_of_the_actors_latest_entries_are_history_candidates(log: EventLog) -> None:
    builder = make_builder(log)
    h = builder.activity.histories
    for b in all_batches(builder)[:6]:
        for p in range(len(b.weight)):
            window = h.user_entries(int(b.histories.actor_id[b.positions.row[p]]), int(b.num_visible[p]))
            latest = set(h.other_user[window][-SMALL["history_candidates"] :].tolist())
            is_candidate = torch.cat([torch.ones(1, dtype=torch.bool), b.is_negative[p]])
            has_pointer = torch.zeros_like(is_candidate)
            has_pointer[b.pairs.history.column[b.pairs.history.row == p]] = True
            users = b.candidates.users[p][is_candidate].tolist()
            assert has_pointer[is_candidate].tolist() == [user in latest for user in users]


def test_candidates_with_common_contacts_get_the_two_hop_term(log: EventLog) -> None:
    """The target and the negatives, those that a batch shares among them, unless they have a pointer term."""
    builder = make_builder(log, two_hop_candidates=4)
    num_shared = num_targets = 0
    for b in all_batches(builder)[:6]:
        actors = b.histories.actor_id[b.positions.row]
        for p in range(len(b.weight)):
            context = actors[p : p + 1], b.num_visible[p : p + 1], b.cutoff[p : p + 1]
            neighbors = builder.feature_view.two_hop.neighbors(*context)
            is_candidate = torch.cat([torch.tensor([True]), b.is_negative[p]])
            has_pointer, has_two_hop = torch.zeros_like(is_candidate), torch.zeros_like(is_candidate)
            of_row = b.pairs.two_hop.row == p
            has_pointer[b.pairs.history.column[b.pairs.history.row == p]] = True
            has_two_hop[b.pairs.two_hop.column[of_row]] = True
            users = b.candidates.users[p]
            expected = torch.isin(users, neighbors.neighbor) & ~has_pointer
            assert torch.equal(has_two_hop[is_candidate], expected[is_candidate])
            features = neighbors.features_of(torch.tensor(0), users[b.pairs.two_hop.column[of_row]])
            assert torch.equal(b.pairs.two_hop.features[of_row], log_features(features))
            num_shared += int(has_two_hop[-len(b.shared.users) :].sum())
            num_targets += int(has_two_hop[0])
    assert num_shared and num_targets


def test_the_closest_users_outside_the_history_are_negatives(log: EventLog) -> None:
    builder = make_builder(log, two_hop_candidates=4)
    for b in all_batches(builder)[:6]:
        actors = b.histories.actor_id[b.positions.row]
        for p in range(len(b.weight)):
            context = actors[p : p + 1], b.num_visible[p : p + 1], b.cutoff[p : p + 1]
            in_history = b.candidates.users[p, b.pairs.history.column[b.pairs.history.row == p]]
            neighbors = builder.feature_view.two_hop.neighbors(*context)
            closest = neighbors.closest(4, torch.zeros_like(in_history), in_history)[0]
            candidates = b.candidates.users[p, : -len(b.shared.users)]
            assert torch.isin(closest[closest >= 0], candidates).all()


def test_a_window_is_encoded_once_for_all_its_queries(log: EventLog) -> None:
    single = all_batches(make_builder(log, temporal_positions=1, regimes=["streaming"]))
    batches = all_batches(make_builder(log, regimes=["streaming"]))
    queries = sum(len(b.weight) for b in batches)
    assert sum(len(b.histories.actor_id) for b in single) == queries
    assert sum(len(b.histories.actor_id) for b in batches) < queries / 1.5
    for b in batches:
        assert b.positions.row.unique().tolist() == list(range(len(b.histories.actor_id)))
        for row in range(len(b.histories.actor_id)):
            states = b.positions.state[b.positions.row == row]
            assert states.max() - states.min() < SMALL["temporal_positions"]


def test_all_but_the_last_query_of_a_window_have_the_temporal_weight(log: EventLog) -> None:
    for b in all_batches(make_builder(log, temporal_weight=0.25))[:4]:
        is_last = b.positions.row.diff(append=torch.tensor([-1])) != 0
        assert int(is_last.sum()) == len(b.histories.actor_id)
        assert torch.equal(b.weight, torch.where(is_last, 1, 0.25))


def test_chronological_batches_go_from_the_earliest_time_chunk_to_the_latest(log: EventLog) -> None:
    """Earlier batches have earlier queries, up to the length of a time chunk."""
    builder = make_builder(log, positions_per_batch=8)
    time_chunks = len(EpochBatches(builder, 0).queries.event) // (MIN_BATCHES_PER_CHUNK * 8)
    chunks_by_batch = [(b.num_visible * time_chunks // (builder.end + 1)).unique() for b in all_batches(builder)]
    assert time_chunks > 10 and all(len(chunks) == 1 for chunks in chunks_by_batch)
    assert torch.cat(chunks_by_batch).diff().min() >= 0 and len(torch.cat(chunks_by_batch).unique()) == time_chunks
    shuffled = all_batches(make_builder(log, order="shuffled"))
    assert max(int(b.num_visible.max() - b.num_visible.min()) for b in shuffled) > builder.end / 2


def test_in_chronological_order_only_the_freshest_regimes_train_user_embeddings(log: EventLog) -> None:
    for b in all_batches(make_builder(log)):
        assert b.positions.grad_mask is not None and b.positions.regime is not None
        assert torch.equal(b.positions.grad_mask, b.positions.regime <= 1)  # streaming and live
    for b in all_batches(make_builder(log, regimes=["frozen", "daily"])):
        assert b.positions.grad_mask is not None and b.positions.regime is not None
        assert torch.equal(b.positions.grad_mask, b.positions.regime == REGIMES.index("daily"))
    assert all(b.positions.grad_mask is None for b in all_batches(make_builder(log, order="shuffled")))


def test_log_q_of_targets_as_negatives_is_that_of_their_time_chunk(log: EventLog) -> None:
    builder = make_builder(log, negatives="in_batch", regimes=["streaming"], positions_per_batch=16)
    time_chunks = len(EpochBatches(builder, 0).queries.event) // (MIN_BATCHES_PER_CHUNK * 16)
    assert time_chunks > 1
    targets: dict[int, list[torch.Tensor]] = {}
    for b in all_batches(builder):
        targets.setdefault(int(b.num_visible[0]) * time_chunks // (builder.end + 1), []).append(b.positions.target)
    for b in all_batches(builder):
        chunk_targets = torch.cat(targets[int(b.num_visible[0]) * time_chunks // (builder.end + 1)])
        share = torch.bincount(chunk_targets, minlength=log.num_users) / len(chunk_targets)
        expected = 1 - torch.exp(-len(b.weight) * share[b.shared.users])
        assert torch.allclose(b.shared.log_q.exp(), expected, atol=1e-5)


def test_signal_and_exclude_events_are_never_queried() -> None:
    actions = ("view", "hi", "hi", "block")
    events = [(k % 5, actions[k % 4], (k + 1) % 5, 1_600_000_000 + 50 * k) for k in range(200)]
    log = make_log(events, {"view": "signal", "block": "exclude"})
    builder = make_builder(log, 150)
    assert (log.action[builder.events] == log.actions.index("hi")).all()
    assert any((b.histories.actor_history_actions == log.actions.index("view")).any() for b in all_batches(builder))


def test_an_actor_without_an_earlier_event_is_queried() -> None:
    """Each event is the first of its actor, whose target has one earlier event; no query has a history candidate."""
    log = make_log([(k + 1, "hi", k, 1_600_000_000 + 50 * k) for k in range(60)])
    batches = all_batches(make_builder(log, 50, recent_events=0, regimes=["streaming"]))
    assert sum(len(b.weight) for b in batches) == 49
    assert all(b.candidates.users.shape[1] == 1 + len(b.shared.users) and b.is_first_contact.all() for b in batches)


def test_hard_negatives_are_added_without_duplicates(log: EventLog) -> None:
    builder = make_builder(log)
    b = all_batches(builder)[2]
    users = torch.argsort(torch.rand(len(b.weight), 25, generator=torch.Generator().manual_seed(0)), dim=1)[:, :6]
    with_hard = with_hard_negatives(builder, b, users)
    assert with_hard.candidates.users.shape[1] == b.candidates.users.shape[1] + 6
    for p in range(len(b.weight)):
        candidates = with_hard.candidates.users[p, 1:][with_hard.is_negative[p]].tolist()
        assert len(candidates) == len(set(candidates))
        before = b.candidates.users[p, 1:][b.is_negative[p]].tolist()
        assert set(before) <= set(candidates) <= {*before, *users[p].tolist()}
        assert int(b.positions.target[p]) not in candidates


def test_the_same_epoch_gives_the_same_batches_and_another_epoch_different_ones(log: EventLog) -> None:
    first, repeated, other_epoch = (named_tensors(make_builder(log).epoch(k)[1]) for k in (1, 1, 2))
    assert all(torch.equal(first[name], repeated[name]) for name in first)
    assert first["positions.target"].shape != other_epoch["positions.target"].shape or not torch.equal(
        first["positions.target"], other_epoch["positions.target"]
    )


def test_epochs_share_their_streaming_queries_and_differ_in_the_number_of_batches() -> None:
    """Each epoch draws the events of its other queries."""
    builder = make_builder(random_log(users=200, events=3000, seed=1), positions_per_batch=16)
    epochs = [EpochBatches(builder, epoch) for epoch in range(3)]
    events = [np.sort(epoch.queries.event[epoch.queries.regime == REGIMES.index("streaming")]) for epoch in epochs]
    assert all(np.array_equal(events[0], events_of_epoch) for events_of_epoch in events)
    assert len({len(epoch) for epoch in epochs}) > 1


def test_without_an_eligible_target_there_are_no_batches() -> None:
    """Each event is the first of both its users, so no target is eligible before it."""
    log = make_log([(2 * k, "hi", 2 * k + 1, 1_600_000_000 + k) for k in range(20)])
    for order in ("chronological", "shuffled"):
        for temporal_positions in (1, 4):
            builder = make_builder(log, 15, order=order, temporal_positions=temporal_positions)
            assert len(builder.epoch(0)) == 0
            assert list(builder.epoch(0)) == []
