"""The batches of one epoch: its training queries by context, window and time chunk, ordered, and cut into batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from befriend.objectives.training_queries import TrainBatch, TrainingExamples, TrainingQueries

MAX_TIME_CHUNKS, MIN_BATCHES_PER_CHUNK = 32, 8  # training time is cut into as many chunks as these two allow
MAX_QUERIES_PER_CONTEXT = 32  # in an epoch


class EpochBatches(Sequence["TrainBatch"]):
    """The batches of one epoch.

    - A context is what a query is predicted from: an actor, a regime and a number of visible events. Queries with the
      same context differ in their targets only. All of these are positives: none is a negative of another query of the
      context.
    - A window is all queries of one actor that see the actor's history up to nearby entries: at most
      `temporal_positions` consecutive ones. The history is encoded once for the window, and each query reads the state
      after its own last visible entry. Queries of different contexts and regimes share windows.
    - A time chunk is a slice of training time. Batches go through the chunks in order; in shuffled order, the whole of
      training is one chunk.
    - A batch is several whole windows of one time chunk, with about `positions_per_batch` queries in all.

    Example: user 0 contacts users 1 and 2. Event 0 is no query, because its target has no earlier event and is not
    eligible. Events 3 and 4 have the same timestamp, so neither is visible to the other, and they share a context.

        event                               0: 1 -> 2   1: 0 -> 1   2: 0 -> 2   3: 0 -> 1   4: 0 -> 2
        timestamp                           10          20          30          40          40
        visible events                                  1           2           3           3
        visible entries of the actor                    0           1           2           2
        context                                         0           1           2           2

    >>> import polars as pl
    >>> from befriend.data.event_log import EventLog
    >>> from befriend.features.feature_view import FeatureView
    >>> from befriend.objectives.objective_settings import TwoTowerSettings
    >>> from befriend.objectives.training_queries import TrainingExamples
    >>> actor, target = np.array([1, 0, 0, 0, 0], np.int32), np.array([2, 1, 2, 1, 2], np.int32)
    >>> timestamp, zeros = np.array([10, 20, 30, 40, 40]), np.zeros(5, np.uint8)
    >>> log = EventLog(actor, target, timestamp, zeros, zeros, ("hi",), pl.Series(range(3)))
    >>> settings = TwoTowerSettings(regimes=["streaming"], temporal_positions=2, positions_per_batch=2)
    >>> epoch = EpochBatches(TrainingExamples(FeatureView.of(log), end=5, settings=settings), epoch=1)

    In this epoch the windows are those with 0 or 1 visible entries, and with 2 or 3. In others they are those with 0,
    and with 1 or 2: each epoch draws where they begin. Four queries in batches of two are two batches, a window each:

    >>> epoch.queries.event.tolist(), epoch.context.tolist(), epoch.window.tolist(), epoch.batch_bounds.tolist()
    ([1, 2, 3, 4], [0, 1, 2, 2], [0, 0, 1, 1], [[0, 2], [2, 4]])

    The targets of each context. Users 1 and 2 are both positives of events 3 and 4:

    >>> epoch.context_targets.tolist(), epoch.context_ptr.tolist()
    ([1, 2, 1, 2], [0, 1, 2, 4])
    """

    def __init__(self, examples: TrainingExamples, epoch: int):
        self.examples, self.seed = examples, [examples.settings.seed, epoch]
        rng = np.random.default_rng(self.seed)
        queries, context, self.context_targets, self.context_ptr = self._by_context(examples.sample_queries(rng), rng)
        """CSR: context c has the distinct targets context_targets[context_ptr[c] : context_ptr[c + 1]], int64"""
        num_visible_entries = self._count_visible_entries(queries)
        num_chunks = self._count_time_chunks(len(context))
        time_chunk = queries.num_visible * num_chunks // (examples.end + 1)
        window = self._windows(queries, num_visible_entries, time_chunk, num_chunks, rng)
        window_order = self._order_windows(window, num_visible_entries, time_chunk, rng)[window]
        sort_key = window_order * np.int64(examples.log.num_events + 1) + num_visible_entries
        order = np.argsort(sort_key, kind="stable")
        self.queries = queries.take(order)
        """the queries of the epoch, by window; within a window by the number of visible entries of the actor"""
        self.context, self.window, self.time_chunk = context[order], window_order[order], time_chunk[order]
        """int64 each: the context, window (ascending) and time chunk of each query"""
        self.batch_bounds = self._cut(rng)
        """int64[batches, 2]: the first query of each batch, and one past its last"""

    def __len__(self) -> int:
        return len(self.batch_bounds)

    def __getitem__(self, k: int) -> TrainBatch:  # type: ignore[override]
        low, high = self.batch_bounds[k]
        queries = self.queries.take(slice(low, high))
        history_index = np.unique(self.window[low:high], return_inverse=True)[1]
        other_positives = self._other_positives(queries, self.context[low:high])
        seed = int(np.random.SeedSequence([*self.seed, k]).generate_state(1)[0])
        return self.examples.batch(queries, history_index, other_positives, self._popularity(low), seed)

    def _by_context(
        self, queries: TrainingQueries, rng: np.random.Generator
    ) -> tuple[TrainingQueries, np.ndarray, np.ndarray, np.ndarray]:
        """The queries by context, at most MAX_QUERIES_PER_CONTEXT of each, drawn at random.

        Also returns the context of each query, int64, and context_targets and context_ptr, which hold the targets of
        all queries, also of those not drawn.
        """
        log = self.examples.log
        actor = log.actor[queries.event].astype(np.int64)
        order = np.lexsort((rng.random(len(actor)), queries.num_visible, actor, queries.regime))
        queries, actor = queries.take(order), actor[order]
        is_first = np.ones(len(actor), bool)  # of its context
        is_first[1:] = (np.diff(queries.num_visible) != 0) | (np.diff(actor) != 0) | (np.diff(queries.regime) != 0)
        context = is_first.cumsum() - 1
        start = np.flatnonzero(is_first)
        context_targets, context_ptr = _distinct(context, log.target[queries.event], len(start))
        is_drawn = np.arange(len(actor)) - start[context] < MAX_QUERIES_PER_CONTEXT
        return queries.take(is_drawn), context[is_drawn], context_targets, context_ptr

    def _count_visible_entries(self, queries: TrainingQueries) -> np.ndarray:
        """int64: how many entries of the actor's encoder history each query sees."""
        h = self.examples.encoder_histories
        actor = self.examples.log.actor[queries.event].astype(np.int64)
        end = h.end_offsets(torch.from_numpy(actor), torch.from_numpy(queries.num_visible)).numpy()
        return end - h.indptr.numpy()[actor]

    def _count_time_chunks(self, num_queries: int) -> int:
        """The number of time chunks for a number of queries, at least 1."""
        s = self.examples.settings
        max_chunks = min(MAX_TIME_CHUNKS, num_queries // (MIN_BATCHES_PER_CHUNK * s.positions_per_batch))
        return max(1, max_chunks) if s.order == "chronological" else 1

    def _windows(
        self,
        queries: TrainingQueries,
        num_visible_entries: np.ndarray,
        time_chunk: np.ndarray,
        num_chunks: int,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """int64: the window of each query, from 0. One random offset shifts where the windows of this epoch begin.

        With windows of a single entry (`temporal_positions` or `history_length` 1), nothing is shared: each query is a
        window of its own, numbered at random.
        """
        s, log = self.examples.settings, self.examples.log
        stride = min(s.temporal_positions, s.history_length)
        if stride == 1:
            return rng.permutation(len(num_visible_entries))
        actor = log.actor[queries.event].astype(np.int64)
        window_key = actor * (log.num_events + 1) + (num_visible_entries + rng.integers(stride)) // stride
        return np.unique(window_key * num_chunks + time_chunk, return_inverse=True)[1]

    def _order_windows(
        self, window: np.ndarray, num_visible_entries: np.ndarray, time_chunk: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """int64[windows]: the position of each window in the order of training, by time chunk.

        Within a chunk, windows with histories of similar length are put together, which saves padding; a random shift
        of up to 16 entries keeps batches mixed.
        """
        window_size = np.bincount(window)
        first = np.argsort(window, kind="stable")[window_size.cumsum() - window_size]  # a query of each window
        length = np.minimum(num_visible_entries[first], self.examples.settings.history_length)
        jitter = rng.random(len(window_size))
        order = np.lexsort((length + 16 * jitter, time_chunk[first]))
        position = np.empty(len(window_size), np.int64)
        position[order] = np.arange(len(window_size))
        return position

    def _cut(self, rng: np.random.Generator) -> np.ndarray:
        """int64[batches, 2]: batches of about equal size, each of whole windows of one time chunk.

        The batches of a chunk are in random order; the chunks keep theirs. Queries are sorted by window already, so a
        batch is a range of them. Example: one chunk with windows of 2, 3 and 3 queries, `positions_per_batch` 4.

        1. The chunk has 8 queries, so it gets ceil(8 / 4) = 2 batches.
        2. The last queries of the windows are 1, 4 and 7. Each window goes to the batch in which its last query lies if
           the chunk is cut evenly: 1 * 2 // 8 = 0, 4 * 2 // 8 = 1, 7 * 2 // 8 = 1.
        3. A batch begins at each window whose batch or chunk differs from that of the window before: at queries 0 and
           2. The batches are [0, 2] and [2, 8].
        """
        window_size = np.bincount(self.window)
        window_end = window_size.cumsum()  # one past the last query of each window
        time_chunk = self.time_chunk[window_end - window_size]  # of each window
        chunk_size = np.bincount(time_chunk, window_size)  # queries of each chunk
        chunk_start = (chunk_size.cumsum() - chunk_size)[time_chunk]
        num_batches = np.ceil(chunk_size / self.examples.settings.positions_per_batch)[time_chunk]
        batch = (window_end - 1 - chunk_start) * num_batches // chunk_size[time_chunk]  # of each window, in its chunk
        first = np.flatnonzero((np.diff(batch, prepend=-1) != 0) | (np.diff(time_chunk, prepend=-1) != 0))
        bounds = np.concatenate([np.concatenate([[0], window_end])[first], [len(self.window)]])
        return np.stack([bounds[:-1], bounds[1:]], 1)[np.lexsort((rng.random(len(first)), time_chunk[first]))]

    def _other_positives(self, queries: TrainingQueries, context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64[n] each, queries as rows, and users: the targets of each query's context except its own."""
        size = np.diff(self.context_ptr)[context]
        row = np.repeat(np.arange(len(context)), size)
        index = np.arange(len(row)) - np.repeat(size.cumsum() - size, size) + self.context_ptr[context][row]
        user = self.context_targets[index]
        is_own = user == self.examples.log.target[queries.event][row]
        return row[~is_own], user[~is_own]

    def _popularity(self, query_index: int) -> Tensor:
        """float32[N]: the share of each user among the targets of the time chunk of a query of the epoch."""
        low, high = np.searchsorted(self.time_chunk, self.time_chunk[query_index] + np.arange(2))
        log = self.examples.log
        count = np.bincount(log.target[self.queries.event[low:high]], minlength=log.num_users)
        return torch.from_numpy((count / (high - low)).astype(np.float32))


def _distinct(context: np.ndarray, user: np.ndarray, num_contexts: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct users of each context, flat, and offsets, int64[num_contexts + 1]."""
    pairs = np.unique(np.stack([context, user.astype(np.int64)], 1), axis=0)
    return pairs[:, 1], np.concatenate([[0], np.bincount(pairs[:, 0], minlength=num_contexts).cumsum()])
