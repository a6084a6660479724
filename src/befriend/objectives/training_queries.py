"""Training queries: every training event becomes a query in each regime, with only what was visible at its cutoff.

The histories of the queries of an epoch are cut into windows. A window is encoded once and serves all queries whose
visible history ends in it, whatever their regime: a query that sees less reads an earlier state.

In chronological order, batches follow time, as in a service that learns as it runs: when an event is queried, the user
embeddings have been trained on earlier events only. In shuffled order they have also been trained on events after the
query, so embeddings predict better in training than they do for events after it, and the model relies on them too much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from befriend.data.event_log import DAY, first_seen
from befriend.data.regimes import HIDDEN, REGIMES, SAME_MOMENT
from befriend.data.split import SEGMENTS, segments
from befriend.features.feature_view import FeatureView
from befriend.features.text_vectors import first_known
from befriend.models.model_inputs import DedupedTextVectors, NextTargetPredictionBatch, PairFeatures, Positions, Targets
from befriend.models.negatives import SharedNegatives, all_as_negatives, draw_negatives
from befriend.nn.tensors import TensorBatch
from befriend.objectives.epoch_batches import EpochBatches
from befriend.objectives.objective_settings import RetrievalSettings

FIRST_CONTACTS = (SEGMENTS.index("new"), SEGMENTS.index("first ever"))
STREAMING = REGIMES.index("streaming")
LIVE_ONE_IN = 4  # if streaming is trained as well, a random quarter of the seconds is also queried in live
CONTACT_LOOKUP_ENTRIES = 256  # latest entries of an actor's history in which its existing contacts are looked up


@dataclass(frozen=True)
class TrainBatch(TensorBatch):
    """One batch: histories of windows, P queries at positions in them, and the candidates of each query."""

    histories: NextTargetPredictionBatch
    positions: Positions
    weight: Tensor
    """float32[P], weight of each query in the loss"""
    is_first_contact: Tensor
    """bool[P], whether the event is a first contact"""
    candidates: Targets
    """[P, 1 + K]: the target, then the row candidates: history candidates and users of the latest events"""
    pairs: PairFeatures
    """[P, 1 + K], of the actor and each of `candidates`"""
    candidate_mask: Tensor
    """bool[P, K], which row candidates are negatives"""
    candidate_is_contact: Tensor
    """bool[P, K], which row candidates are existing contacts of the actor"""
    shared: SharedNegatives
    """C users"""
    shared_targets: Targets
    """the inputs of these users: users [C]; recent_neighbors [P, C, m]; features [P, C, F]; text index [P, C]"""
    shared_mask: Tensor
    """bool[P, C], which shared negatives are negatives of each query"""
    shared_is_contact: Tensor
    """bool[P, C], which shared negatives are existing contacts of the actor"""
    num_visible: Tensor
    """int64[P], number of visible events of the log"""
    cutoff: Tensor
    """int64[P], UTC second before which events are visible"""


@dataclass(frozen=True)
class TrainingQueries:
    """Training queries, as arrays of one length. Each asks for the target of an event, given what was visible."""

    event: np.ndarray
    """int64, index into the log"""
    num_visible: np.ndarray
    """int64, number of visible events"""
    cutoff: np.ndarray
    """int64, UTC second before which events are visible"""
    regime: np.ndarray
    """int64, index into REGIMES"""

    def take(self, rows: np.ndarray | slice) -> TrainingQueries:
        """The queries of these rows: indices, a mask, or a slice."""
        return TrainingQueries(*(getattr(self, field)[rows] for field in TrainingQueries.__dataclass_fields__))


@dataclass(frozen=True)
class RowCandidates:
    """The target and the row candidates of P queries, the target first."""

    users: Tensor
    """int64[P, 1 + K]"""
    pairs: PairFeatures
    """[P, 1 + K]"""
    is_negative: Tensor
    """bool[P, K], which row candidates are negatives"""
    is_contact: Tensor
    """bool[P, 1 + K], which users are existing contacts of the actor"""
    is_valid: Tensor
    """bool[P, 1 + K], which columns hold a user, who must not be a shared negative as well; the others are padding"""


class TrainingExamples:
    """The training queries of one log, and their batches. Nothing in them depends on events at or after `end`."""

    def __init__(self, feature_view: FeatureView, end: int, settings: RetrievalSettings):
        """end: the first event after the training part."""
        log, self.feature_view = feature_view.log, feature_view
        self.log, self.activity, self.encoder_histories = log, feature_view.activity, feature_view.encoder_histories
        self.settings = settings
        self.events = np.flatnonzero(log.is_contact[:end])
        """int64, the contact events of the training part"""
        self.end = end
        first_event_index = first_seen(log.actor, log.target, np.arange(log.num_events), log.num_users)
        self.first_event = torch.from_numpy(first_event_index)
        """int64[N], the index of each user's first event in the log; the largest int64 without one"""
        self.eligible_since = first_known(log, feature_view.texts)
        """int64[N], the UTC second after which each user is eligible, by an event or a text"""
        self._eligible_since = torch.from_numpy(self.eligible_since)
        until = log.timestamp[end] if end < log.num_events else log.timestamp[-1] + 1
        counts = np.bincount(log.target[self.events], minlength=log.num_users)
        self.popularity = torch.from_numpy((counts / max(counts.sum(), 1)).astype(np.float32))
        """float32[N], the share of each user among the targets of the training part"""
        self.negative_pool = torch.from_numpy(np.flatnonzero(self.eligible_since < until))
        """int64[U], the users who are eligible by the end of the training part"""

    def epoch(self, epoch: int) -> Sequence[TrainBatch]:
        """The batches of one epoch. Each is built when it is read."""
        return EpochBatches(self, epoch)

    def sample_queries(self, rng: np.random.Generator) -> TrainingQueries:
        """The queries of an epoch: every training event in every regime, if its target is eligible at the cutoff.

        Live sees the same events as streaming, and profits from what is learned there. So if both are trained, only the
        events of a random quarter of the seconds are queried in live as well.

        Example: an event of day 10, 15:00 (UTC) gives up to four queries, which differ in their cutoff:

            regime      cutoff
            streaming   day 10, 15:00, the event's own second
            live        the same, with the action hidden; in a quarter of the seconds
            daily       day 10, 00:00
            frozen      the second of a random event up to `end` / 8 events earlier
        """
        log, events = self.log, self.events
        event_time = log.timestamp[events]
        by_regime = []
        also_live = rng.integers(LIVE_ONE_IN, size=log.num_events + 1) == 0  # by number of visible events
        for name in self.settings.regimes:
            if name in SAME_MOMENT:
                cutoff = event_time
            elif name == "daily":
                cutoff = event_time // DAY * DAY
            else:
                # Frozen, in events and not in seconds, like the parts of the split: a list made at the start of a part
                # is shown for up to end / 8 events. Each event gets its own cutoff: a few would be learned by heart.
                lag = rng.integers(max(1, self.end // 8) + 1, size=len(events))
                cutoff = log.timestamp[np.maximum(events - lag, 0)]
            regime = np.full(len(events), REGIMES.index(name))
            queries = TrainingQueries(events, log.count_before(cutoff), cutoff, regime)
            selected = self.eligible_since[log.target[events]] < cutoff
            if name == "live" and "streaming" in self.settings.regimes:
                selected &= also_live[queries.num_visible]
            by_regime.append(queries.take(selected))
        return TrainingQueries(
            *(np.concatenate([getattr(q, f) for q in by_regime]) for f in TrainingQueries.__dataclass_fields__)
        )

    def batch(
        self,
        queries: TrainingQueries,
        history_index: np.ndarray,
        other_positives: tuple[np.ndarray, np.ndarray],
        popularity: Tensor,
        seed: int,
    ) -> TrainBatch:
        """One batch of P queries.

        history_index: int64[P], the history that each query reads (one per window), 0 to B - 1, ascending;
        other_positives: rows and users, int64[n] each: users[i] is another target in the context of query rows[i], so
        not a negative of it; popularity: float32[N], share among the targets of the time chunk; seed: for negatives.
        """
        s, log = self.settings, self.log
        num_visible, cutoff = torch.from_numpy(queries.num_visible), torch.from_numpy(queries.cutoff)
        actor = torch.from_numpy(log.actor[queries.event]).long()
        target = torch.from_numpy(log.target[queries.event]).long()
        positives = torch.from_numpy(other_positives[0]), torch.from_numpy(other_positives[1])
        end = self.activity.histories.end_offsets(actor, num_visible)
        rows = torch.from_numpy(history_index)
        histories, state = self._histories(actor, num_visible, rows)
        positions = self._positions(queries, actor, target, rows, state)
        row_candidates = self._row_candidates(actor, target, num_visible, cutoff, end, positives)
        shared = self._draw_shared(target, popularity, torch.Generator().manual_seed(seed))
        shared_mask = self._shared_mask(shared, actor, cutoff, row_candidates, positives)
        is_last = torch.from_numpy(history_index != np.append(history_index[1:], -1))  # query of its window
        return TrainBatch(
            histories=histories,
            positions=positions,
            weight=torch.where(is_last, 1.0, s.temporal_weight),
            is_first_contact=torch.from_numpy(
                np.isin(segments(log, queries.event, queries.cutoff, self.eligible_since), FIRST_CONTACTS)
            ),
            candidates=self.candidate_inputs(row_candidates.users, num_visible[:, None], cutoff[:, None]),
            pairs=row_candidates.pairs,
            candidate_mask=row_candidates.is_negative,
            candidate_is_contact=row_candidates.is_contact[:, 1:],
            shared=shared,
            shared_targets=self.candidate_inputs(shared.users, num_visible[:, None], cutoff[:, None]),
            shared_mask=shared_mask,
            shared_is_contact=self._shared_contact_mask(shared, actor, num_visible, end),
            num_visible=num_visible,
            cutoff=cutoff,
        )

    def _positions(
        self, queries: TrainingQueries, actor: Tensor, target: Tensor, rows: Tensor, state: Tensor
    ) -> Positions:
        """The positions of the queries in the histories; the action is hidden in all regimes but streaming.

        In chronological order, only queries of the freshest regimes train user embeddings.
        """
        s = self.settings
        num_visible, cutoff = torch.from_numpy(queries.num_visible), torch.from_numpy(queries.cutoff)
        regime = torch.from_numpy(queries.regime)
        action = torch.from_numpy(self.log.action[queries.event]).long()
        action = torch.where(regime == STREAMING, action, HIDDEN)
        features = self._features(actor, num_visible, cutoff)
        same_moment = [REGIMES.index(name) for name in s.regimes if name in SAME_MOMENT]
        freshest = torch.tensor(same_moment or [min(REGIMES.index(name) for name in s.regimes)])
        grad_mask = torch.isin(regime, freshest) if s.order == "chronological" else None
        return Positions(rows, state, action, target, regime, features, grad_mask)

    def _row_candidates(
        self,
        actor: Tensor,
        target: Tensor,
        num_visible: Tensor,
        cutoff: Tensor,
        end: Tensor,
        other_positives: tuple[Tensor, Tensor],
    ) -> RowCandidates:
        """The target and the row candidates: history candidates of the actor, and users of the latest events.

        end: int64[P], one past the actor's last visible entry; other_positives: rows and users, as of `batch`.

        Example: the actor's history holds users 7 and 8, the latest events are of users 8 and 9, and the target is 7.
        Of user 8, the second column is masked, as the first has it already:

            column        0: 7     1: 7     2: 8      3: 8     4: 9
            from          target   history  history   latest   latest
            is_negative            False    True      False    True
            is_valid      True     True     True      False    True
            pointer term  yes      yes      yes       no       no
        """
        s, activity = self.settings, self.activity
        history_entry = activity.recent_distinct_entries(end, actor, num_visible, s.history_candidates)
        history_users, history_mask = activity.neighbor_of_entry(history_entry), history_entry >= 0
        recent_users, recent_mask = activity.recent_users(num_visible, s.recent_events)
        # The target and the users of the latest events; some of these are history candidates as well.
        users = torch.cat([target[:, None], recent_users], 1)
        entry = activity.last_pair_entries(actor[:, None], users, num_visible[:, None])
        in_history = entry >= (end[:, None] - s.history_candidates).clamp(min=0)
        recent_mask &= (recent_users != actor[:, None]) & ~in_history[:, 1:]
        # All three: the target, the history candidates, the users of the latest events.
        users = torch.cat([users[:, :1], history_users, users[:, 1:]], 1)
        entry = torch.cat([entry[:, :1], history_entry, entry[:, 1:]], 1)
        is_negative = torch.cat([history_mask, recent_mask], 1) & (users[:, 1:] != target[:, None])
        is_contact = activity.in_contact(entry)
        # The pointer term is for history candidates only; the target gets it if it is one.
        entry = torch.cat([torch.where(in_history[:, :1], entry[:, :1], -1), entry[:, 1:]], 1)
        has_pointer = torch.cat([in_history[:, :1], history_mask, torch.zeros_like(recent_mask)], 1)
        features = activity.pair_features(entry, end[:, None], num_visible[:, None], cutoff[:, None])
        pairs = PairFeatures(has_pointer, features, activity.edge_types(entry))
        row, user = other_positives
        positive_index = (users[row, 1:] == user[:, None]).nonzero()  # int64[., 2], index into `row`, column
        is_negative[row[positive_index[:, 0]], positive_index[:, 1]] = False
        is_valid = torch.cat([torch.ones_like(in_history[:, :1]), history_mask, recent_mask], 1)
        return RowCandidates(users, pairs, is_negative, is_contact, is_valid)

    def _draw_shared(self, target: Tensor, popularity: Tensor, generator: torch.Generator) -> SharedNegatives:
        """The shared negatives of a batch."""
        s = self.settings
        if s.softmax == "full":
            return all_as_negatives(self.negative_pool)
        return draw_negatives(target, popularity, self.negative_pool, s.negatives, s.num_rand_negs, s.log_q, generator)

    def _shared_mask(
        self,
        shared: SharedNegatives,
        actor: Tensor,
        cutoff: Tensor,
        row_candidates: RowCandidates,
        other_positives: tuple[Tensor, Tensor],
    ) -> Tensor:
        """bool[P, C]: shared negatives that are eligible and neither actor, nor row candidate, nor another positive."""
        mask = (self._eligible_since[shared.users] < cutoff[:, None]) & (shared.users != actor[:, None])
        users, is_valid = row_candidates.users, row_candidates.is_valid
        row = torch.arange(len(actor))[:, None].expand_as(users)
        shared.mask_out(mask, row[is_valid], users[is_valid])
        shared.mask_out(mask, *other_positives)
        return mask

    def _shared_contact_mask(self, shared: SharedNegatives, actor: Tensor, num_visible: Tensor, end: Tensor) -> Tensor:
        """bool[P, C]: which shared negatives are existing contacts, as far as the actor's latest entries show."""
        entry = self.activity.recent_distinct_entries(end, actor, num_visible, CONTACT_LOOKUP_ENTRIES)
        column = shared.columns_of(self.activity.neighbor_of_entry(entry))
        row = torch.arange(len(actor))[:, None].expand_as(column)
        is_shared_contact = self.activity.in_contact(entry) & (column >= 0)
        mask = torch.zeros(len(actor), len(shared.users), dtype=torch.bool)
        mask[row[is_shared_contact], column[is_shared_contact]] = True
        return mask

    def with_hard_negatives(self, batch: TrainBatch, users: Tensor) -> TrainBatch:
        """The batch with hard negatives as more row candidates. users: int64[P, H], distinct in each row.

        Users that are row candidates already, or may not be negatives of the query, are masked.
        """
        device = users.device
        users, num_visible = users.cpu().contiguous(), batch.num_visible.cpu()[:, None]
        cutoff = batch.cutoff.cpu()[:, None]
        candidates, shared = batch.candidates.users.cpu(), batch.shared.to("cpu")
        actor = batch.histories.actor_id.cpu()[batch.positions.row.cpu()][:, None]
        column = shared.columns_of(users)
        allowed = (
            (self._eligible_since[users] < cutoff)
            & (users != actor)
            & (users[:, :, None] != candidates[:, None]).all(-1)
        )
        # A user that is masked as a shared negative may not be a row candidate either.
        is_unmasked = batch.shared_mask.cpu().gather(1, column.clamp(min=0))
        allowed &= (column < 0) | is_unmasked
        shared_mask = batch.shared_mask.cpu().clone()
        row = torch.arange(len(users))[:, None].expand_as(users)
        shared.mask_out(shared_mask, row[allowed], users[allowed])
        entry = self.activity.last_pair_entries(actor, users, num_visible)
        end = self.activity.histories.end_offsets(actor, num_visible)
        features = self.activity.pair_features(entry, end, num_visible, cutoff)
        is_contact = self.activity.in_contact(entry)
        has_pointer = entry >= (end - self.settings.history_candidates).clamp(min=0)
        inputs = self.candidate_inputs(users, num_visible, cutoff).to(device)
        pairs = PairFeatures(has_pointer, features, self.activity.edge_types(entry)).to(device)
        return replace(
            batch,
            candidates=batch.candidates.concat(inputs),
            pairs=batch.pairs.concat(pairs),
            candidate_mask=torch.cat([batch.candidate_mask, allowed.to(device)], 1),
            candidate_is_contact=torch.cat([batch.candidate_is_contact, is_contact.to(device)], 1),
            shared_mask=shared_mask.to(device),
        )

    def candidate_inputs(self, users: Tensor, num_visible: Tensor, cutoff: Tensor) -> Targets:
        """The inputs of users as candidates, as of the cutoff of each query.

        users: int64[P, K] or int64[C]; num_visible, cutoff: int64[P, 1].
        """
        s, activity = self.settings, self.activity
        recent_neighbors = features = text_vectors = None
        if s.freshness or s.recent_neighbors:
            entry = activity.last_entries(users, num_visible)
        if s.freshness:
            features, text_row = self.feature_view.features_and_text_rows(users, entry, num_visible, cutoff)
            text_vectors = (
                None if text_row is None else DedupedTextVectors.of(text_row, self.feature_view.texts.vectors)
            )
        if s.recent_neighbors:
            recent_neighbors = activity.recent_neighbors(users.expand_as(entry), entry + 1, s.recent_neighbors)
        return Targets(users, recent_neighbors, features, text_vectors)

    def _features(self, users: Tensor, num_visible: Tensor, cutoff: Tensor) -> Tensor | None:
        if not self.settings.freshness:
            return None
        return self.feature_view.features(users, self.activity.last_entries(users, num_visible), num_visible, cutoff)

    def _histories(self, actor: Tensor, num_visible: Tensor, rows: Tensor) -> tuple[NextTargetPredictionBatch, Tensor]:
        """The history of each window, as far as its queries see it, and int64[P], the state that each query reads.

        rows: int64[P], the history of each query. Histories are as long as the longest visible one of the batch, at
        most `history_length`.
        """
        h, n = self.encoder_histories, self.settings.history_length
        end = h.end_offsets(actor, num_visible)
        num_histories = int(rows[-1]) + 1
        user = torch.zeros(num_histories, dtype=torch.long).scatter_(0, rows, actor)
        high = torch.zeros(num_histories, dtype=torch.long).scatter_reduce_(0, rows, end, "amax")
        length = int((high - h.indptr[user]).max().clamp(1, n))
        histories = h.before(user, high, length)
        batch = NextTargetPredictionBatch(
            user,
            histories.action,
            histories.other,
            histories.mask,
            torch.full_like(user, HIDDEN),
            user,
            histories.received,
            histories.timestamp,
        )
        return batch, length - (high[rows] - end)
