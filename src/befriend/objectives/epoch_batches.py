"""The batches of one epoch of training: which training queries a batch has, and in which order the batches come.

A training query predicts the target of one event of an actor from the events before a cutoff, a UTC second.
`num_visible` is the number of events before the cutoff; the log is in time order, so they are its first `num_visible`
events. Regimes say how the cutoff follows from the event, see `data.regimes`.

The history of a user has an *entry* for each event that the user did or received. Without the setting
`received_events`, it has entries only for those that the user did. An entry is visible to a query if its event is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from befriend.objectives.train_batch import TrainBatch, TrainingQueries
    from befriend.objectives.training_queries import TrainingQueryBuilder

# The training part is cut into the largest number of time chunks that these two limits allow. The minimum holds for the
# mean over all chunks: these have equal numbers of events, and only about equal numbers of queries.
MAX_TIME_CHUNKS, MIN_BATCHES_PER_CHUNK = 32, 8
MAX_QUERIES_PER_CONTEXT = 32  # in an epoch


class EpochBatches(Sequence["TrainBatch"]):
    """The batches of one epoch, each built when you index it.

    - A context is what a query is predicted from: an actor, a regime and a number of visible events. Queries with the
      same context differ in their targets only. All these targets are positives, so none of them is a negative of
      another query of the context.
    - A time chunk has the queries whose numbers of visible events are in one range; all ranges are of equal length. So
      the cutoff of a query decides its chunk, not its event, which can be later. In chronological order, batches go
      through the chunks one after the other. In shuffled order, all queries are in a single chunk.
    - A window has the queries of one actor and one time chunk, of any context and regime, whose numbers of visible
      entries of the actor are in one range of `temporal_positions` consecutive numbers, or `history_length` if that is
      smaller. A query without a visible entry has the number 0. The history is encoded once for the window, in one
      causal pass. Each query reads the encoder's output (its state) after its own last visible entry. If the ranges
      have a single number, each query has a window of its own.
    - A batch has one or more whole windows of one time chunk, with about `positions_per_batch` queries in all.

    Example: user 0 contacts users 1 and 2. Event 0 gives no query, because its target has no earlier event, and so is
    not eligible: a user may be recommended from the first event or text on. Events 3 and 4 have the same timestamp, so
    neither is visible to the query of the other, and the two queries share a context.

        event, actor -> target              0: 1 -> 2   1: 0 -> 1   2: 0 -> 2   3: 0 -> 1   4: 0 -> 2
        timestamp                           10          20          30          40          40
        number of visible events                        1           2           3           3
        visible entries of the actor                    0           1           2           2
        context                                         0           1           2           2

    >>> import polars as pl
    >>> from befriend.data.event_log import EventLog
    >>> from befriend.features.feature_view import FeatureView
    >>> from befriend.objectives.objective_settings import TwoTowerSettings
    >>> from befriend.objectives.training_queries import TrainingQueryBuilder
    >>> actor, target = np.array([1, 0, 0, 0, 0], np.int32), np.array([2, 1, 2, 1, 2], np.int32)
    >>> timestamp, zeros = np.array([10, 20, 30, 40, 40]), np.zeros(5, np.uint8)
    >>> log = EventLog(actor, target, timestamp, zeros, zeros, ("hi",), pl.Series(range(3)))
    >>> settings = TwoTowerSettings(regimes=["streaming"], temporal_positions=2, positions_per_batch=2)
    >>> epoch = EpochBatches(TrainingQueryBuilder(FeatureView.of(log), end=5, settings=settings), epoch=4)

    Each epoch draws at random where windows begin. In this epoch, one window has the queries with 0 or 1 visible
    entries of the actor, and the next one those with 2 or 3. In other epochs, the first has those with 0, the next one
    those with 1 or 2. The four queries, in batches of two, give two batches with one window each, in random order:

    >>> epoch.queries.event.tolist(), epoch.context.tolist(), epoch.window.tolist(), epoch.batch_bounds.tolist()
    ([1, 2, 3, 4], [0, 1, 2, 2], [0, 0, 1, 1], [[2, 4], [0, 2]])

    The targets of each context. Users 1 and 2 are both positives of events 3 and 4:

    >>> epoch.context_targets.tolist(), epoch.context_ptr.tolist()
    ([1, 2, 1, 2], [0, 1, 2, 4])
    """

    def __init__(self, query_builder: TrainingQueryBuilder, epoch: int):
        self.query_builder, self.seed = query_builder, [query_builder.settings.seed, epoch]
        rng = np.random.default_rng(self.seed)
        queries, context, self.context_targets, self.context_ptr = self._group_by_context(
            query_builder.sample_queries(rng), rng
        )
        """CSR: the distinct targets of context c are context_targets[context_ptr[c] : context_ptr[c + 1]], int64"""
        num_visible_entries = self._count_visible_entries(queries)
        num_chunks = self._count_time_chunks(len(context))
        time_chunk = queries.num_visible * num_chunks // (query_builder.end + 1)
        window = self._assign_windows(queries, num_visible_entries, time_chunk, num_chunks, rng)
        window_order = self._order_windows(window, num_visible_entries, time_chunk, rng)[window]
        sort_key = window_order * np.int64(query_builder.log.num_events + 1) + num_visible_entries
        order = np.argsort(sort_key, kind="stable")
        self.queries = queries.take(order)
        """the queries of the epoch, by window; within a window, by the number of visible entries of the actor"""
        self.context, self.window, self.time_chunk = context[order], window_order[order], time_chunk[order]
        """int64 each: context, window and time chunk of each query; windows are numbered from 0, in this order"""
        self.batch_bounds = self._cut_into_batches(rng)
        """int64[batches, 2]: the first query of each batch, and one past its last query"""

    def __len__(self) -> int:
        return len(self.batch_bounds)

    def __getitem__(self, k: int) -> TrainBatch:  # type: ignore[override]
        low, high = self.batch_bounds[k]
        queries = self.queries.take(slice(low, high))
        history_row = np.unique(self.window[low:high], return_inverse=True)[1]
        other_positives = self._other_positives(queries, self.context[low:high])
        seed = int(np.random.SeedSequence([*self.seed, k]).generate_state(1)[0])
        return self.query_builder.batch(queries, history_row, other_positives, self._popularity(low), seed)

    def _group_by_context(
        self, queries: TrainingQueries, rng: np.random.Generator
    ) -> tuple[TrainingQueries, np.ndarray, np.ndarray, np.ndarray]:
        """The queries sorted by context, at most MAX_QUERIES_PER_CONTEXT of each, drawn at random.

        Also returns the context of each query, int64, and the CSR arrays context_targets and context_ptr, with the
        targets of all queries, including those not drawn.
        """
        log = self.query_builder.log
        actor = log.actor[queries.event].astype(np.int64)
        order = np.lexsort((rng.random(len(actor)), queries.num_visible, actor, queries.regime))
        queries, actor = queries.take(order), actor[order]
        is_first = np.ones(len(actor), bool)  # of its context
        is_first[1:] = (np.diff(queries.num_visible) != 0) | (np.diff(actor) != 0) | (np.diff(queries.regime) != 0)
        context = is_first.cumsum() - 1
        start = np.flatnonzero(is_first)
        context_targets, context_ptr = _distinct_users(context, log.target[queries.event], len(start))
        is_drawn = np.arange(len(actor)) - start[context] < MAX_QUERIES_PER_CONTEXT
        return queries.take(is_drawn), context[is_drawn], context_targets, context_ptr

    def _count_visible_entries(self, queries: TrainingQueries) -> np.ndarray:
        """int64: the number of entries of the actor that are visible to each query, in the histories that the history
        encoder reads: without the setting `received_events`, these have no entries of received events."""
        h = self.query_builder.encoder_histories
        actor = self.query_builder.log.actor[queries.event].astype(np.int64)
        end = h.end_offsets(torch.from_numpy(actor), torch.from_numpy(queries.num_visible)).numpy()
        return end - h.indptr.numpy()[actor]

    def _count_time_chunks(self, num_queries: int) -> int:
        """The number of time chunks, at least 1. num_queries: of the epoch."""
        s = self.query_builder.settings
        max_chunks = min(MAX_TIME_CHUNKS, num_queries // (MIN_BATCHES_PER_CHUNK * s.positions_per_batch))
        return max(1, max_chunks) if s.order == "chronological" else 1

    def _assign_windows(
        self,
        queries: TrainingQueries,
        num_visible_entries: np.ndarray,
        time_chunk: np.ndarray,
        num_chunks: int,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """int64: the window of each query, numbered from 0.

        A random offset shifts where the windows of this epoch begin. With windows of a single number of entries
        (`temporal_positions` or `history_length` 1), each query has a window of its own, numbered at random.
        """
        s, log = self.query_builder.settings, self.query_builder.log
        stride = min(s.temporal_positions, s.history_length)
        if stride == 1:
            return rng.permutation(len(num_visible_entries))
        actor = log.actor[queries.event].astype(np.int64)
        window_key = actor * (log.num_events + 1) + (num_visible_entries + rng.integers(stride)) // stride
        return np.unique(window_key * num_chunks + time_chunk, return_inverse=True)[1]

    def _order_windows(
        self, window: np.ndarray, num_visible_entries: np.ndarray, time_chunk: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """int64[windows]: the rank of each window, from 0, in the order in which the epoch's queries are sorted.

        Time chunks come one after the other. Within a chunk, windows are sorted by the approximate length of their
        histories, that of one of their queries: a batch, which has adjacent windows, then needs little padding. A
        random jitter of up to 16 entries is added to the lengths, so that batches differ from epoch to epoch. The order
        in which batches are trained is drawn later, in `_cut_into_batches`.
        """
        window_size = np.bincount(window)
        first = np.argsort(window, kind="stable")[window_size.cumsum() - window_size]  # a query of each window
        length = np.minimum(num_visible_entries[first], self.query_builder.settings.history_length)
        jitter = rng.random(len(window_size))
        order = np.lexsort((length + 16 * jitter, time_chunk[first]))
        rank = np.empty(len(window_size), np.int64)
        rank[order] = np.arange(len(window_size))
        return rank

    def _cut_into_batches(self, rng: np.random.Generator) -> np.ndarray:
        """int64[batches, 2]: the first query of each batch, and one past its last query, in the order of training.

        Each batch has whole windows of one time chunk. So its size can differ from `positions_per_batch` by a window,
        as in this example. The batches of a chunk are in random order; the chunks stay in order. The queries are sorted
        by window, so a batch is a range of them. Example: one chunk with windows of 2, 3 and 3 queries,
        `positions_per_batch` 4.

        1. The chunk has 8 queries, so it gets ceil(8 / 4) = 2 batches.
        2. The last queries of the windows are 1, 4 and 7. Each window goes to the batch that would have its last query
           if the chunk were cut evenly: 1 * 2 // 8 = 0, 4 * 2 // 8 = 1, 7 * 2 // 8 = 1.
        3. A batch begins at each window whose batch or chunk differs from that of the window before: at queries 0 and
           2. The batches are [0, 2] and [2, 8].
        """
        window_size = np.bincount(self.window)
        window_end = window_size.cumsum()  # one past the last query of each window
        time_chunk = self.time_chunk[window_end - window_size]  # of each window
        chunk_size = np.bincount(time_chunk, window_size)  # queries of each chunk
        chunk_start = (chunk_size.cumsum() - chunk_size)[time_chunk]
        num_batches = np.ceil(chunk_size / self.query_builder.settings.positions_per_batch)[time_chunk]
        batch = (window_end - 1 - chunk_start) * num_batches // chunk_size[time_chunk]  # of each window, in its chunk
        first = np.flatnonzero((np.diff(batch, prepend=-1) != 0) | (np.diff(time_chunk, prepend=-1) != 0))
        bounds = np.concatenate([np.concatenate([[0], window_end])[first], [len(self.window)]])
        return np.stack([bounds[:-1], bounds[1:]], 1)[np.lexsort((rng.random(len(first)), time_chunk[first]))]

    def _other_positives(self, queries: TrainingQueries, context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows and users, int64[n] each: users[i] is a target of the context of query rows[i], other than its own."""
        size = np.diff(self.context_ptr)[context]
        row = np.repeat(np.arange(len(context)), size)
        index = np.arange(len(row)) - np.repeat(size.cumsum() - size, size) + self.context_ptr[context][row]
        user = self.context_targets[index]
        is_own_target = user == self.query_builder.log.target[queries.event][row]
        return row[~is_own_target], user[~is_own_target]

    def _popularity(self, query_index: int) -> Tensor:
        """float32[N]: the share of each user among the targets of the queries in one time chunk, that of query_index.

        An event counts once for each of its queries in the chunk, as batches are drawn from these.
        """
        low, high = np.searchsorted(self.time_chunk, self.time_chunk[query_index] + np.arange(2))
        log = self.query_builder.log
        count = np.bincount(log.target[self.queries.event[low:high]], minlength=log.num_users)
        return torch.from_numpy((count / (high - low)).astype(np.float32))


def _distinct_users(context: np.ndarray, user: np.ndarray, num_contexts: int) -> tuple[np.ndarray, np.ndarray]:
    """CSR: the distinct users of each context, flat, int64, and the offsets, int64[num_contexts + 1]."""
    pairs = np.unique(np.stack([context, user.astype(np.int64)], 1), axis=0)
    return pairs[:, 1], np.concatenate([[0], np.bincount(pairs[:, 0], minlength=num_contexts).cumsum()])
