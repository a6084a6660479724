"""The evaluation protocol: which events are predicted, what is visible, who is eligible, which lists are scored.

A query is an event whose target a list should contain, as close to its top as possible. Events are split by time, once
for all users. Every list ranks all users with an event before its cutoff (no sampled negatives). The regime says which
cutoff that is, and whether the actor's action is known (`befriend.data.regimes`). There are two kinds of lists: `any`
leaves out only users with an exclude event between them and the actor, such as a block; `new` also leaves out existing
contacts (people you may know). The protocol does not depend on any model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from befriend.data.event_log import EventLog
from befriend.data.regimes import EVENT_TIME_REGIMES, REGIMES, UNKNOWN_ACTION, Regime, cutoffs
from befriend.data.split import FIRST_EVER, NEW, Split, sample_events, sample_first_contacts, segments
from befriend.features.histories import Histories
from befriend.retrieval.requests import RequestBatch, RequestBuilder


@dataclass(frozen=True)
class EvalQueries:
    """The evaluated events of one part of the log in one regime, and a row for each of their lists."""

    events: np.ndarray
    """int64[E], indices into the log"""
    is_sampled: np.ndarray
    """bool[E], the events of the protocol's sample; the others are more first contacts"""
    segment: np.ndarray
    """int8[E], index into SEGMENTS: the kind of an event by what happened before between its two users"""
    cutoff: np.ndarray
    """int64[E], UTC second before which events are visible"""
    row_event: np.ndarray
    """int64[R], index into `events`, ascending: every sampled event has a row for list `any`; one of segment new or
    first ever, which is a first contact, has another row for list `new`. Other events have the second row only"""
    row_excludes_contacts: np.ndarray
    """bool[R], whether it is a row for list `new`"""

    @property
    def row_segment(self) -> np.ndarray:
        """int8[R], index into SEGMENTS, of the event of each row"""
        return self.segment[self.row_event]

    @property
    def is_scored_new_list(self) -> np.ndarray:
        """bool[R], the `new` rows that are scored: first contacts with users who have a visible event."""
        return self.row_excludes_contacts & (self.row_segment == NEW)

    def sample(self) -> tuple[EvalQueries, np.ndarray]:
        """The queries of the protocol's sample alone, and which rows they are, bool[R]."""
        is_row, index = self.is_sampled[self.row_event], self.is_sampled.cumsum() - 1
        events, is_sampled, segment, cutoff = (
            x[self.is_sampled] for x in (self.events, self.is_sampled, self.segment, self.cutoff)
        )
        row_event, excludes_contacts = index[self.row_event[is_row]], self.row_excludes_contacts[is_row]
        return EvalQueries(events, is_sampled, segment, cutoff, row_event, excludes_contacts), is_row


def event_cutoffs(log: EventLog, split: Split, part: str, events: np.ndarray, regime: Regime) -> np.ndarray:
    """int64[n]: `cutoffs` of n events of a part. events: int64[n], indices into the log."""
    return cutoffs(log.timestamp[events], regime, log.timestamp[split.part(part)[0]])


def make_eval_queries(
    log: EventLog,
    split: Split,
    part: str,
    max_events: int,
    regime: Regime,
    eligible_since: np.ndarray | None = None,
    max_first_contacts: int = 0,
) -> EvalQueries:
    """At most `max_events` evenly spaced events of a part, the protocol's sample, and a row for each of their lists.

    eligible_since: as in `segments`. Without it, a first contact with a user who has no event before the cutoff has no
    `new` list. max_first_contacts: in addition to the sample, at most so many evenly spaced first contacts have a
    `new` list: where they are rare, the sample has few.
    """
    sample = sample_events(log, split, part, max_events)
    first_contacts = sample_first_contacts(log, split, part, max_first_contacts)
    events = np.union1d(sample, first_contacts)
    cutoff = event_cutoffs(log, split, part, events, regime)
    segment = segments(log, events, cutoff, eligible_since)
    is_sampled = np.isin(events, sample)
    has_list = np.stack([is_sampled, np.isin(segment, (NEW, FIRST_EVER))], 1)  # any, new
    row_event, excludes_contacts = np.nonzero(has_list)
    return EvalQueries(events, is_sampled, segment, cutoff, row_event, excludes_contacts.astype(bool))


def make_requests(
    log: EventLog, histories: Histories, queries: Mapping[Regime, EvalQueries], batch_events: int = 256
) -> Iterator[tuple[RequestBatch, np.ndarray, list[tuple[Regime, slice]]]]:
    """The queries of several regimes on the same events, as batches of at most `batch_events` events each.

    Yields (requests, events, slices): B requests; the event of each, int64[B], indices into the log; and which of the B
    rows belong to which regime. Regimes with equal cutoffs, streaming and live, share batches, so that the features of
    all users at a cutoff are computed once. Their batches come first, then those of each other regime; each time in the
    order of the queries.

    Example: streaming, live and frozen, in batches of one event. The first event, e0, has lists `any` and `new`; the
    second, e1, only `any`. The function yields:

        4 requests, [e0, e0, e0, e0], [("streaming", slice(0, 2)), ("live", slice(2, 4))]
        2 requests, [e1, e1], [("streaming", slice(0, 1)), ("live", slice(1, 2))]
        2 requests, [e0, e0], [("frozen", slice(0, 2))]
        1 request, [e1], [("frozen", slice(0, 1))]
    """
    builder = RequestBuilder(log, histories)
    for regimes in (
        [r for r in queries if r in EVENT_TIME_REGIMES],
        *([r] for r in queries if r not in EVENT_TIME_REGIMES),
    ):
        first_rows = {
            regime: np.searchsorted(q.row_event, np.arange(0, len(q.events), batch_events))
            for regime, q in queries.items()
        }
        for batch in range(len(first_rows[regimes[0]]) if regimes else 0):
            rows_of_regime, slices, num_rows = [], [], 0
            for regime in regimes:
                q, bounds = queries[regime], [*first_rows[regime], len(queries[regime].row_event)]
                rows = np.arange(bounds[batch], bounds[batch + 1])
                rows_of_regime.append((regime, q, rows))
                slices.append((regime, slice(num_rows, num_rows + len(rows))))
                num_rows += len(rows)
            events = np.concatenate([q.events[q.row_event[rows]] for _, q, rows in rows_of_regime])
            yield _build_batch(log, builder, events, rows_of_regime), events, slices


def _build_batch(
    log: EventLog,
    builder: RequestBuilder,
    events: np.ndarray,
    rows_of_regime: list[tuple[Regime, EvalQueries, np.ndarray]],
) -> RequestBatch:
    """Requests for the given rows of each regime's queries, regime after regime. events: int64[B], one for each row."""
    regime = np.concatenate([np.full(len(rows), REGIMES.index(name)) for name, _, rows in rows_of_regime])
    return builder.build(
        user=log.actor[events].astype(np.int64),
        cutoff=np.concatenate([q.cutoff[q.row_event[rows]] for _, q, rows in rows_of_regime]),
        filter_at=log.timestamp[events],  # in every regime a list is filtered when it is shown: at the event
        action=np.where(regime == REGIMES.index("streaming"), log.action[events].astype(np.int64), UNKNOWN_ACTION),
        regime=regime,
        exclude_contacts=np.concatenate([q.row_excludes_contacts[rows] for _, q, rows in rows_of_regime]),
    )


def target_ranks(lists: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """float64[R]: the rank of each target on its list, 1 for the first; inf if it is not on the list.

    lists: int32[R, k]; targets: int[R].
    """
    is_target = lists == targets[:, None]
    return np.where(is_target.any(1), is_target.argmax(1) + 1.0, np.inf)
