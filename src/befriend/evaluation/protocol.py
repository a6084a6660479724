"""The evaluation protocol: which events are predicted, what is visible, who may be listed, who is scored.

A global time split; full ranking over everyone seen so far; three regimes of what is visible when the list is
made; two lists, `any` (over all candidates) and `new` (without contacts: people you may know). Knows nothing
of any model: a `Ranker` is given a `Request` and returns lists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from befriend.data.activity import DAY
from befriend.data.histories import Histories
from befriend.data.log import EventLog
from befriend.data.split import SEGMENTS, Split, segments
from befriend.errors import DataError
from befriend.evaluation.regimes import HIDDEN, REGIMES, Regime

K = 100  # users on a list
NEW = SEGMENTS.index("new")


@dataclass(frozen=True)
class Request:
    """B lists to be made, in time order: rank people for these users at these times, excluding these.

    Only the first `visible[b]` events of the log may be looked at. Anyone who appears in them may be listed,
    but for the user and the excluded.
    """

    user: np.ndarray
    """int64[B]"""
    visible: np.ndarray
    """int64[B], how many events are visible; never falls"""
    horizon: np.ndarray
    """int64[B], UTC second at which the list is made; all visible events lie before it"""
    action: np.ndarray
    """int64[B], index into EventLog.actions of what the user is about to do; HIDDEN where it is not known"""
    exclude_indptr: np.ndarray
    """int64[B + 1]"""
    exclude: np.ndarray
    """int64, users not to be listed: those of row b are exclude[exclude_indptr[b]:exclude_indptr[b + 1]]"""
    refresh: int = 0
    """index into REGIMES: how fresh the lists are when they are shown; whoever runs them knows"""
    k: int = K
    """length of the lists"""

    def __len__(self) -> int:
        return len(self.user)

    def of(self, rows: np.ndarray) -> Request:
        """Only some of the lists. rows: int64, ascending."""
        count = np.diff(self.exclude_indptr)[rows]
        indptr = np.cumsum([0, *count])
        start = np.repeat(self.exclude_indptr[rows] - indptr[:-1], count)
        arrays = {name: getattr(self, name)[rows] for name in ("user", "visible", "horizon", "action")}
        exclude = self.exclude[start + np.arange(len(start))]
        return replace(self, **arrays, exclude_indptr=indptr, exclude=exclude)

    def excluded(self, b: int) -> np.ndarray:
        return self.exclude[self.exclude_indptr[b] : self.exclude_indptr[b + 1]]


class Ranker(Protocol):
    """What the protocol asks of a model, or of several that share their work."""

    def rank(self, request: Request) -> dict[str, np.ndarray]:
        """Name of each model -> int32[B, k], users best first, -1 behind the last."""
        ...


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
    """int64[R], index into `events`: every event has an `any` row, one of segment new also a `new` row"""
    row_is_new: np.ndarray
    """bool[R]"""


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
    if regime == "streaming":
        return t
    if regime == "daily":
        return np.maximum(start, t // DAY * DAY)
    return np.full(len(events), start)


def ask(log: EventLog, split: Split, part: str, size: int, regime: Regime) -> Questions:
    events = sample(log, split, part, size)
    horizon = horizons(log, split, part, events, regime)
    segment = segments(log, events, horizon)
    rows = np.repeat(np.arange(len(events)), 1 + (segment == NEW))
    is_new = np.zeros(len(rows), bool)
    is_new[1:] = rows[1:] == rows[:-1]
    return Questions(events, segment, horizon, rows, is_new)


def requests(
    log: EventLog, histories: Histories, questions: Questions, regime: Regime, size: int = 256
) -> Iterator[Request]:
    """The questions as requests of `size` events, in time order; both lists of an event stay together."""
    hidden = Hidden(log, histories)
    q = questions
    starts = np.flatnonzero(~q.row_is_new)[::size]
    for low, high in zip(starts, [*starts[1:], len(q.row_event)], strict=True):
        k = q.row_event[low:high]
        events = q.events[k]
        user = log.actor[events].astype(np.int64)
        now = log.before(log.timestamp[events])  # exclusion is applied at request time in every regime
        excluded = [hidden(u, end, new) for u, end, new in zip(user, now, q.row_is_new[low:high], strict=True)]
        yield Request(
            user=user,
            visible=log.before(q.horizon[k]),
            horizon=q.horizon[k],
            action=log.action[events].astype(np.int64) if regime == "streaming" else np.full(len(k), HIDDEN),
            exclude_indptr=np.cumsum([0, *map(len, excluded)]),
            exclude=np.concatenate(excluded),
            refresh=REGIMES.index(regime),
        )


def requests_and_events(
    log: EventLog, histories: Histories, questions: Questions, regime: Regime, size: int = 256
) -> Iterator[tuple[Request, np.ndarray]]:
    """Each request with the events of its rows, int64[B], positions in the log."""
    row = 0
    for request in requests(log, histories, questions, regime, size):
        yield request, questions.events[questions.row_event[row : row + len(request)]]
        row += len(request)


class Hidden:
    """Who may not stand on a list: pairs with an event of role exclude, and on `new` lists all contacts."""

    def __init__(self, log: EventLog, histories: Histories):
        self.log, self.histories = log, histories
        self.other, self.event = histories.other.numpy(), histories.event.numpy()

    def __call__(self, user: int, visible: int, new: bool) -> np.ndarray:
        window = self.histories.window(user, visible)
        event = self.event[window]
        hidden = self.log.is_exclude[event] | (self.log.is_contact[event] & new)
        return np.unique(self.other[window][hidden]).astype(np.int64)


def ranks(lists: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """float64[R]: the place of each target on its list, from 1; inf where it is not on it. lists: int32[R, k]."""
    found = lists == targets[:, None]
    return np.where(found.any(1), found.argmax(1) + 1.0, np.inf)
