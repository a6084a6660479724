"""The evaluation protocol: which events are predicted, what is visible, who may be listed, who is scored.

A global time split; full ranking over everyone seen so far; regimes of what is visible when the list is made; two
lists, `any` (over all candidates) and `new` (without contacts: people you may know). Knows nothing of any model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from befriend.data.activity import DAY
from befriend.data.histories import Histories
from befriend.data.log import EventLog
from befriend.data.split import SEGMENTS, Split, segments
from befriend.errors import DataError
from befriend.evaluation.regimes import HIDDEN, REGIMES, SAME_MOMENT, Regime
from befriend.retrieval.requests import Request, RequestBuilder

NEW, COLD, FIRST_EVER = (SEGMENTS.index(name) for name in ("new", "cold", "first ever"))


@dataclass(frozen=True)
class Questions:
    """The evaluated events of one part in one regime, and a row for each list that is asked for."""

    events: np.ndarray
    """int64[E], positions in the log"""
    segment: np.ndarray
    """int8[E], index into SEGMENTS"""
    horizon: np.ndarray
    """int64[E]"""
    row_event: np.ndarray
    """int64[R], index into `events`: every event has an `any` row, a first contact also a `new` row"""
    row_is_new: np.ndarray
    """bool[R]"""

    @property
    def row_segment(self) -> np.ndarray:
        """int8[R]"""
        return self.segment[self.row_event]

    @property
    def scored_new(self) -> np.ndarray:
        """bool[R]: the `new` rows that the protocol scores, first contacts between people who have events."""
        return self.row_is_new & (self.row_segment == NEW)


def sample(log: EventLog, split: Split, part: str, size: int) -> np.ndarray:
    """int64: evenly spaced contact events of a part, at most `size`: every ceil(count / size)-th."""
    events = np.arange(*split.part(part))
    events = events[log.is_contact[events]]
    if not len(events):
        raise DataError(f"the {part} part has no event of role contact. Check data.roles and the split.")
    return events[:: max(1, -(-len(events) // size))]


def horizons(log: EventLog, split: Split, part: str, events: np.ndarray, regime: Regime) -> np.ndarray:
    """int64[len(events)]: the UTC second from which on events are hidden when each event is predicted."""
    start = log.timestamp[split.part(part)[0]]
    t = log.timestamp[events]
    if regime in SAME_MOMENT:
        return t
    if regime == "daily":
        return np.maximum(start, t // DAY * DAY)
    return np.full(len(events), start)


def ask(
    log: EventLog, split: Split, part: str, size: int, regime: Regime, findable: np.ndarray | None = None
) -> Questions:
    """findable: as of `segments`; without it, people who have no event yet are not asked for."""
    events = sample(log, split, part, size)
    horizon = horizons(log, split, part, events, regime)
    segment = segments(log, events, horizon, findable)
    rows = np.repeat(np.arange(len(events)), 1 + np.isin(segment, (NEW, FIRST_EVER)))
    is_new = np.zeros(len(rows), bool)
    is_new[1:] = rows[1:] == rows[:-1]
    return Questions(events, segment, horizon, rows, is_new)


def requests(
    log: EventLog, histories: Histories, questions: Mapping[Regime, Questions], size: int = 256
) -> Iterator[tuple[Request, np.ndarray, list[tuple[Regime, slice]]]]:
    """The questions of some regimes about the same events, as requests of `size` events in time order.

    With each request come the events of its rows, int64[B], positions in the log, and the regimes whose lists it asks
    for: those of a regime are the rows of a slice. Regimes that see the same moment are asked for together, so that
    each moment is made once.
    """
    builder = RequestBuilder(log, histories)
    for group in ([r for r in questions if r in SAME_MOMENT], *([r] for r in questions if r not in SAME_MOMENT)):
        starts = {regime: np.flatnonzero(~questions[regime].row_is_new)[::size] for regime in group}
        for block in range(len(starts[group[0]]) if group else 0):
            parts, slices, row = [], [], 0
            for regime in group:
                q, start = questions[regime], [*starts[regime], len(questions[regime].row_event)]
                rows = np.arange(start[block], start[block + 1])
                parts.append((regime, q, rows))
                slices.append((regime, slice(row, row + len(rows))))
                row += len(rows)
            events = np.concatenate([q.events[q.row_event[rows]] for _, q, rows in parts])
            yield _request(log, builder, events, parts), events, slices


def _request(
    log: EventLog, builder: RequestBuilder, events: np.ndarray, parts: list[tuple[Regime, Questions, np.ndarray]]
) -> Request:
    """The lists of some rows of each regime's questions, one after the other. events: int64[B], of the rows."""
    regime = np.concatenate([np.full(len(rows), REGIMES.index(name)) for name, _, rows in parts])
    return builder.build(
        user=log.actor[events].astype(np.int64),
        horizon=np.concatenate([q.horizon[q.row_event[rows]] for _, q, rows in parts]),
        filter_at=log.timestamp[events],  # exclusion is applied at request time in every regime
        action=np.where(regime == REGIMES.index("streaming"), log.action[events].astype(np.int64), HIDDEN),
        regime=regime,
        is_new=np.concatenate([q.row_is_new[rows] for _, q, rows in parts]),
    )


def ranks(lists: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """float64[R]: the place of each target on its list, from 1; inf where it is not on it. lists: int32[R, k]."""
    found = lists == targets[:, None]
    return np.where(found.any(1), found.argmax(1) + 1.0, np.inf)
