"""Training queries of an event log, and the batches that a model is trained on.

A training query is: given an actor and the events before a cutoff, predict the target of one of the actor's events.

Terms:

actor, target     The user who does an event, and the user to whom it is done, such as sender and receiver of a message.
contact event     An event with an action that makes two users contacts. Only the targets of these are predicted. Other
                  events, such as views and blocks, are in histories only.
cutoff            UTC second before which events are visible to a query; `num_visible` is their number. The log is in
                  time order, so they are its first `num_visible` events.
regime            What a query sees: all events before its own, action known (streaming) or hidden (live); the events
                  before its UTC day (daily); an older state of the log (frozen). In the last two, the action is hidden
                  as well. The fresher a regime, the later its cutoffs. See `data.regimes`.
entry             One event in the history of one user. Every event has two, one of its actor and one of its target;
                  the histories that the encoder reads lack the second if the setting `received_events` is off.
eligible          A user who may be recommended at a cutoff: one with an event or a text (such as a post) before it. In
                  service, the user must not have opted out either.
time chunk        The queries whose numbers of visible events are in one range; see `epoch_batches`.
window            Queries of one actor and one time chunk, of any regime, whose visible histories end close to each
                  other. They share one pass of the history encoder. Each reads the output of the encoder (its state)
                  after its own last visible entry.
position          What a model calls a query: a state of an encoded history, from which it predicts a target.
context           What a query is predicted from: an actor, a regime and a number of visible events. All targets of a
                  context are positives, so none of them is a negative of its queries.
row candidates    Candidates of a single query besides its target: the users of the actor's latest entries (history
                  candidates), those with the most common contacts of late (two-hop candidates), and those of the latest
                  events of the log. With the setting `hard_negatives`, also the users with the best static scores, by
                  embeddings or tokens alone. They are negatives of the query unless a mask excludes them: the target
                  and other positives can be among them, or a user twice.
negative pool     The users who are eligible at the end of the training part.
shared negatives  Negatives of all queries of a batch: its other targets, and random users of the negative pool. A mask
                  excludes those that are no negatives of a single query.
dynamic term      Part of a candidate's score, computed from its recent activity and its texts.
pointer term      Part of a candidate's score, computed from its past events with the actor; of history candidates only.
two-hop term      Part of a candidate's score, computed from its common contacts with the actor; of all candidates who
                  have any and get no pointer term, shared negatives among them.
masked            Left out of the loss of the query: False in `TrainBatch.is_negative`.

In chronological order, batches go through the time chunks one after the other, as in a service that learns while it
runs. So in the first epoch, the embeddings that a query reads have learned from earlier chunks and from other batches
of its own chunk, but not from later chunks. In shuffled order, and in later epochs, they have learned from later events
too. Then embeddings predict better in training than for new events, and the model learns to rely too much on them.

Shapes: P queries; B windows; K row candidates of each query; C shared negatives; H hard negatives of each query; F
features of a user; N users; U users of the negative pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from befriend.data.event_log import first_seen
from befriend.data.regimes import EVENT_TIME_REGIMES, REGIMES, UNKNOWN_ACTION, cutoffs
from befriend.data.split import FIRST_EVER, NEW, segments
from befriend.features.feature_view import FeatureView
from befriend.features.text_vectors import first_known
from befriend.models.model_inputs import (
    CandidateInputs,
    CandidatePairs,
    DedupedTextVectors,
    NextTargetPredictionBatch,
    Positions,
)
from befriend.models.negatives import SharedNegatives, all_as_negatives, draw_negatives
from befriend.objectives.epoch_batches import EpochBatches
from befriend.objectives.objective_settings import RetrievalSettings
from befriend.objectives.row_candidates import RowCandidateBuilder, shared_two_hop_features
from befriend.objectives.train_batch import RowCandidates, TrainBatch, TrainingQueries

# Segments of events between users without an earlier contact event. In first ever, only a text makes the target known.
FIRST_CONTACTS = (NEW, FIRST_EVER)
STREAMING = REGIMES.index("streaming")
# If streaming is trained too, the other regimes query the events of a random share of the seconds. Live sees what
# streaming sees, and daily and frozen queries train neither embeddings nor history encoder (`_positions`): the layers
# that they train need fewer.
QUERIED_SHARES = {"live": 0.25, "daily": 0.5, "frozen": 0.5}
CONTACT_LOOKUP_ENTRIES = 256  # number of an actor's latest entries in which existing contacts are looked up


class TrainingQueryBuilder:
    """Makes the training queries of one log, and their batches.

    They do not depend on events at or after `end`, apart from the second of event `end`, where the training part ends:
    `first_event` and `eligible_since` are of the whole log, but are only compared with events and times before it.
    """

    def __init__(self, feature_view: FeatureView, end: int, settings: RetrievalSettings):
        """end: index of the first event after the training part."""
        log, self.feature_view = feature_view.log, feature_view
        self.log, self.activity, self.encoder_histories = log, feature_view.activity, feature_view.encoder_histories
        self.settings, self.row_candidates = settings, RowCandidateBuilder(feature_view, settings)
        self.events = np.flatnonzero(log.is_contact[:end])
        """int64, indices of the contact events of the training part"""
        self.end = end
        first_event_index = first_seen(log.actor, log.target, np.arange(log.num_events), log.num_users)
        self.first_event = torch.from_numpy(first_event_index)
        """int64[N], the index of each user's first event in the log; the largest int64 without one"""
        self.eligible_since = first_known(log, feature_view.texts)
        """int64[N], UTC second of each user's first event or text: the user is eligible at later cutoffs"""
        self.eligible_since_tensor = torch.from_numpy(self.eligible_since)
        until = log.timestamp[end] if end < log.num_events else log.timestamp[-1] + 1
        counts = np.bincount(log.target[self.events], minlength=log.num_users)
        self.popularity = torch.from_numpy((counts / max(counts.sum(), 1)).astype(np.float32))
        """float32[N], the share of each user among the targets of the training part; 0 for users who are no target"""
        pool = np.flatnonzero(self.eligible_since < until)
        pool = pool[np.argsort(self.eligible_since[pool], kind="stable")]
        self.negative_pool = torch.from_numpy(pool)
        """int64[U], ids of the users who are eligible at the end of the training part, from whom negatives are drawn;
        the first to become eligible come first"""
        self._pool_eligible_since = torch.from_numpy(self.eligible_since[pool])

    def epoch(self, epoch: int) -> Sequence[TrainBatch]:
        """The batches of one epoch, from 0. Each is built when you index it."""
        return EpochBatches(self, epoch)

    def sample_queries(self, rng: np.random.Generator) -> TrainingQueries:
        """The queries of an epoch, before `EpochBatches` keeps at most 32 of each context.

        Each contact event of the training part is queried in the regimes of the setting `regimes`, if its target is
        eligible at the cutoff: in streaming always, in another regime with the probability QUERIED_SHARES, or always
        if streaming is not trained. Cutoffs are those of `data.regimes.cutoffs`, except in the regime frozen.

        Example: an event of day 10, 15:00 (UTC) gives up to four queries, which differ in their cutoff:

            regime      cutoff
            streaming   day 10, 15:00, the event's own second
            live        the same, with the action hidden; one event in four
            daily       day 10, 00:00; one event in two
            frozen      the second of a random event up to `end` / 8 events earlier; one event in two
        """
        log, events = self.log, self.events
        by_regime = []
        for name in self.settings.regimes:
            if name == "frozen":
                # In evaluation, the cutoff of all events is the start of the evaluated part, a share of the log. The
                # training part is longer than that, and with one cutoff for all events the model would memorise the
                # state of the log at it. So each event has a cutoff of its own, up to end / 8 events earlier. The lag
                # is drawn in events and not in seconds, as parts are shares of the events.
                lag = rng.integers(max(1, self.end // 8) + 1, size=len(events))
                cutoff = log.timestamp[np.maximum(events - lag, 0)]
            else:
                cutoff = cutoffs(log.timestamp[events], name)
            regime = np.full(len(events), REGIMES.index(name))
            queries = TrainingQueries(events, log.count_before(cutoff), cutoff, regime)
            is_selected = self.eligible_since[log.target[events]] < cutoff
            if name in QUERIED_SHARES and "streaming" in self.settings.regimes:
                # Events of the same second are selected together: they are targets of the same context.
                is_queried = rng.random(log.num_events + 1) < QUERIED_SHARES[name]
                is_selected &= is_queried[log.count_before(log.timestamp[events])]
            by_regime.append(queries.take(is_selected))
        return TrainingQueries(
            *(np.concatenate([getattr(q, f) for q in by_regime]) for f in TrainingQueries.__dataclass_fields__)
        )

    def batch(
        self,
        queries: TrainingQueries,
        history_row: np.ndarray,
        other_positives: tuple[np.ndarray, np.ndarray],
        popularity: Tensor,
        seed: int,
    ) -> TrainBatch:
        """The batch of P queries.

        history_row: int64[P], ascending, 0 to B - 1: the window of each query, and so the row of `TrainBatch.histories`
        that it reads; other_positives: query rows and users, int64[n] each: users[i] is another target in the context
        of the query in row rows[i] of the batch, and so no negative of it; popularity: float32[N], the share of each
        user among the targets from which the batch was drawn; seed: of the random negatives.
        """
        s, log = self.settings, self.log
        num_visible, cutoff = torch.from_numpy(queries.num_visible), torch.from_numpy(queries.cutoff)
        actor = torch.from_numpy(log.actor[queries.event]).long()
        target = torch.from_numpy(log.target[queries.event]).long()
        positives = torch.from_numpy(other_positives[0]), torch.from_numpy(other_positives[1])
        entry_end = self.activity.histories.end_offsets(actor, num_visible)
        histories, state = self._histories(actor, num_visible, torch.from_numpy(history_row))
        positions = self._positions(queries, actor, target, torch.from_numpy(history_row), state)
        row_candidates = self.row_candidates.of(actor, target, num_visible, cutoff, entry_end, positives)
        shared = self._draw_shared(target, cutoff, popularity, torch.Generator().manual_seed(seed))
        users = torch.cat([row_candidates.users, shared.users.expand(len(actor), -1)], 1)
        is_shared_negative = self._shared_mask(shared, actor, cutoff, row_candidates, positives)
        is_shared_contact = self._shared_contact_mask(shared, actor, num_visible, entry_end)
        is_last = torch.from_numpy(history_row != np.append(history_row[1:], -1))  # the last query of its window
        return TrainBatch(
            histories=histories,
            positions=positions,
            weight=torch.where(is_last, 1.0, s.temporal_weight),  # of earlier queries, which add to a window's last
            is_first_contact=torch.from_numpy(
                np.isin(segments(log, queries.event, queries.cutoff, self.eligible_since), FIRST_CONTACTS)
            ),
            # Column 0 is the target, which the masks and `log_q` leave out.
            candidates=self.candidate_inputs(users, num_visible[:, None], cutoff[:, None]),
            pairs=self._pairs(row_candidates, shared, is_shared_negative),
            is_negative=torch.cat([row_candidates.is_negative, is_shared_negative], 1),
            is_contact=torch.cat([row_candidates.is_contact[:, 1:], is_shared_contact], 1),
            log_q=torch.cat([shared.log_q.new_zeros(row_candidates.is_negative.shape[1]), shared.log_q]),
            shared=shared,
            num_visible=num_visible,
            cutoff=cutoff,
        )

    @staticmethod
    def _pairs(row_candidates: RowCandidates, shared: SharedNegatives, is_shared_negative: Tensor) -> CandidatePairs:
        """The pairs of the row candidates, and the two-hop pairs of the shared negatives in the columns after them."""
        pairs = shared_two_hop_features(row_candidates.neighbors, shared, is_shared_negative)
        pairs = replace(pairs, column=pairs.column + row_candidates.users.shape[1])
        return replace(row_candidates.pairs, two_hop=row_candidates.pairs.two_hop.concat(pairs))

    def _positions(
        self, queries: TrainingQueries, actor: Tensor, target: Tensor, history_row: Tensor, state: Tensor
    ) -> Positions:
        """Where each query reads which history, its action (hidden in all regimes but streaming), and its other inputs.

        history_row: int64[P], as in `batch`; state: int64[P], index of the encoder state that each query reads. In
        chronological order, only queries of the freshest regimes in training (streaming and live, or else the freshest
        one) train user embeddings and history encoder. A query of another regime is in the time chunk of its cutoff,
        often long before its event. If it trained embeddings, they would learn of the event too early.
        """
        s = self.settings
        num_visible, cutoff = torch.from_numpy(queries.num_visible), torch.from_numpy(queries.cutoff)
        regime = torch.from_numpy(queries.regime)
        action = torch.from_numpy(self.log.action[queries.event]).long()
        action = torch.where(regime == STREAMING, action, UNKNOWN_ACTION)
        features = self._features(actor, num_visible, cutoff)
        event_time_regimes = [REGIMES.index(name) for name in s.regimes if name in EVENT_TIME_REGIMES]
        # REGIMES begins with the freshest.
        freshest = torch.tensor(event_time_regimes or [min(REGIMES.index(name) for name in s.regimes)])
        grad_mask = torch.isin(regime, freshest) if s.order == "chronological" else None
        return Positions(history_row, state, action, target, regime, features, grad_mask)

    def _draw_shared(
        self, target: Tensor, cutoff: Tensor, popularity: Tensor, generator: torch.Generator
    ) -> SharedNegatives:
        """The shared negatives of a batch; with a full softmax, all users of the negative pool.

        Random negatives are drawn from the users of the pool who are eligible at the latest cutoff of the batch. Early
        in the log these are few, and fewer are drawn, so that each is drawn as often as later. target, cutoff:
        int64[P]; popularity: as in `batch`.
        """
        s = self.settings
        if s.softmax == "full":
            return all_as_negatives(self.negative_pool)
        num_eligible = int(torch.searchsorted(self._pool_eligible_since, cutoff.max()))
        num_random = -(-len(target) * s.num_rand_negs * num_eligible // len(self.negative_pool))
        pool = self.negative_pool[:num_eligible]
        return draw_negatives(target, popularity, pool, s.negatives, num_random, s.log_q, generator)

    def _shared_mask(
        self,
        shared: SharedNegatives,
        actor: Tensor,
        cutoff: Tensor,
        row_candidates: RowCandidates,
        other_positives: tuple[Tensor, Tensor],
    ) -> Tensor:
        """bool[P, C]: the shared negatives that are negatives of each query.

        These are the eligible users who are not the actor, the target, a row candidate or another positive.
        """
        mask = (self.eligible_since_tensor[shared.users] < cutoff[:, None]) & (shared.users != actor[:, None])
        users, is_valid = row_candidates.users, row_candidates.is_valid
        row = torch.arange(len(actor))[:, None].expand_as(users)
        shared.mask_out(mask, row[is_valid], users[is_valid])
        shared.mask_out(mask, *other_positives)
        return mask

    def _shared_contact_mask(
        self, shared: SharedNegatives, actor: Tensor, num_visible: Tensor, entry_end: Tensor
    ) -> Tensor:
        """bool[P, C]: which shared negatives had a contact event with the actor before the cutoff.

        A contact is recognised by an event among the actor's latest CONTACT_LOOKUP_ENTRIES visible entries, of whatever
        action. num_visible: int64[P]; entry_end: int64[P], one past the actor's last visible entry.
        """
        entry = self.activity.recent_distinct_entries(entry_end, actor, num_visible, CONTACT_LOOKUP_ENTRIES)
        column = shared.columns(self.activity.neighbors(entry))
        row = torch.arange(len(actor))[:, None].expand_as(column)
        is_shared_contact = self.activity.has_contact_event(entry) & (column >= 0)
        mask = torch.zeros(len(actor), len(shared.users), dtype=torch.bool)
        mask[row[is_shared_contact], column[is_shared_contact]] = True
        return mask

    def candidate_inputs(self, users: Tensor, num_visible: Tensor, cutoff: Tensor) -> CandidateInputs:
        """The inputs of users as candidates, as of the cutoff of each query.

        Setting `freshness` turns on the dynamic term, which reads features and texts. Without it, they are None.
        users: int64[P, K]; num_visible, cutoff: int64[P, 1].
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
            recent_neighbors = activity.recent_neighbors(users, entry + 1, s.recent_neighbors)
        return CandidateInputs(users, recent_neighbors, features, text_vectors)

    def _features(self, users: Tensor, num_visible: Tensor, cutoff: Tensor) -> Tensor | None:
        """float32[P, F]: features of users as of a cutoff; None without a dynamic term. All parameters: int64[P]."""
        if not self.settings.freshness:
            return None
        return self.feature_view.features(users, self.activity.last_entries(users, num_visible), num_visible, cutoff)

    def _histories(self, actor: Tensor, num_visible: Tensor, row: Tensor) -> tuple[NextTargetPredictionBatch, Tensor]:
        """Returns the histories of the B windows, and int64[P], the index of the encoder state that each query reads.

        The history of a window ends at the last entry that one of its queries sees. All are padded to the length of the
        longest, which is at most `history_length`. row: int64[P], the window of each query, `history_row` of `batch`.
        """
        h, n = self.encoder_histories, self.settings.history_length
        entry_end = h.end_offsets(actor, num_visible)  # of each query
        num_histories = int(row[-1]) + 1
        user = torch.zeros(num_histories, dtype=torch.long).scatter_(0, row, actor)
        window_end = torch.zeros(num_histories, dtype=torch.long).scatter_reduce_(0, row, entry_end, "amax")
        length = int((window_end - h.indptr[user]).max().clamp(1, n))
        histories = h.before(user, window_end, length)
        batch = NextTargetPredictionBatch(
            actor_id=user,
            actor_history_actions=histories.action,
            actor_history_targets=histories.other_user,
            actor_history_mask=histories.mask,
            example_action=torch.full_like(user, UNKNOWN_ACTION),  # not used, nor are targets: see `Positions`
            example_target=user,
            actor_history_received=histories.received,
            actor_history_timestamps=histories.timestamp,
        )
        return batch, length - (window_end[row] - entry_end)
