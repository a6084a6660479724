"""Requests for lists: everything that decides who stands above whom, for evaluation and service alike.

Nothing here knows how a list is made. How many people are shown, and which of them, is no part of a request: that only
cuts and filters what was ranked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from befriend.data.histories import Histories
from befriend.data.log import EventLog

DEPTH = 100
"""people on a list as it is evaluated"""
SOURCED = 128
"""people whom each model and rule gives, however few are shown: some may be filtered out"""


@dataclass(frozen=True)
class Request:
    """B lists to be made. Only the first `visible[b]` events of the log may be looked at."""

    user: np.ndarray
    """int64[B], the number of users for somebody whom the log does not have"""
    visible: np.ndarray
    """int64[B], how many events are visible"""
    horizon: np.ndarray
    """int64[B], UTC second at which the list is made; all visible events and texts lie before it"""
    action: np.ndarray
    """int64[B], index into EventLog.actions of what the user is about to do; HIDDEN where it is not known"""
    regime: np.ndarray
    """int64[B], index into REGIMES"""
    exclude_indptr: np.ndarray
    """int64[B + 1]"""
    exclude: np.ndarray
    """int64, users not to be listed: those of row b are exclude[exclude_indptr[b]:exclude_indptr[b + 1]]"""

    def __len__(self) -> int:
        return len(self.user)

    def of(self, rows: np.ndarray) -> Request:
        """Only some of the lists, in this order. rows: int64."""
        count = np.diff(self.exclude_indptr)[rows]
        indptr = np.cumsum([0, *count])
        start = np.repeat(self.exclude_indptr[rows] - indptr[:-1], count)
        arrays = {name: getattr(self, name)[rows] for name in ("user", "visible", "horizon", "action", "regime")}
        exclude = self.exclude[start + np.arange(len(start))]
        return replace(self, **arrays, exclude_indptr=indptr, exclude=exclude)

    def excluded(self, b: int) -> np.ndarray:
        return self.exclude[self.exclude_indptr[b] : self.exclude_indptr[b + 1]]

    @property
    def exclude_row(self) -> np.ndarray:
        """int64: the row of each entry of `exclude`."""
        return np.repeat(np.arange(len(self)), np.diff(self.exclude_indptr))


@dataclass(frozen=True)
class Ranked:
    """B lists, best first."""

    ids: np.ndarray
    """int64[B, k], -1 behind the last"""
    scores: np.ndarray
    """float32[B, k], -inf behind the last"""


class RequestBuilder:
    """Requests on a log: who is known, and who must not stand on a list."""

    def __init__(self, log: EventLog, histories: Histories):
        self.log, self.histories = log, histories
        self.other, self.event = histories.other.numpy(), histories.event.numpy()

    def build(
        self,
        user: np.ndarray,
        horizon: np.ndarray,
        filter_at: np.ndarray,
        action: np.ndarray,
        regime: np.ndarray,
        is_new: np.ndarray,
    ) -> Request:
        """user, horizon, filter_at, action, regime: int64[B]; is_new: bool[B], lists without contacts.

        horizon: the UTC second as of which everything is known; filter_at: that before which events say who must not
        be listed, not before the horizon (a nightly list is filtered when it is shown).
        """
        until = self.log.before(filter_at)
        excluded = [self.excluded(*row) for row in zip(user.tolist(), until.tolist(), is_new.tolist(), strict=True)]
        return Request(
            user=user,
            visible=np.asarray(self.log.before(horizon), np.int64),
            horizon=horizon,
            action=action,
            regime=regime,
            exclude_indptr=np.cumsum([0, *map(len, excluded)]),
            exclude=np.concatenate([np.empty(0, np.int64), *excluded]),
        )

    def excluded(self, user: int, visible: int, is_new: bool) -> np.ndarray:
        """int64: the other sides of a user's events of role exclude, and on lists of new people all contacts."""
        other, contact, exclude = self.met(user, visible)
        return np.unique(other[exclude | contact] if is_new else other[exclude])

    def contacts(self, user: int, visible: int) -> np.ndarray:
        """int64: with whom a user was in contact within the first `visible` events."""
        other, contact, _ = self.met(user, visible)
        return np.unique(other[contact])

    def met(self, user: int, visible: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """int64[n], the other side of each of a user's first events, and bool[n], whether of role contact, exclude."""
        if user >= self.log.num_users:
            none = np.empty(0, bool)
            return np.empty(0, np.int64), none, none
        window = self.histories.window(user, visible)
        event = self.event[window]
        return self.other[window].astype(np.int64), self.log.is_contact[event], self.log.is_exclude[event]


def moments(request: Request) -> list[np.ndarray]:
    """Rows that are asked for as of the same moment, int64 each; the groups in the order of time."""
    order = np.lexsort((request.horizon, request.visible))
    visible, horizon = request.visible[order], request.horizon[order]
    cuts = np.flatnonzero((np.diff(visible) != 0) | (np.diff(horizon) != 0)) + 1
    return [rows for rows in np.split(order, cuts) if len(rows)]


def columns(request: Request) -> dict[str, torch.Tensor]:
    """user, visible, horizon, action and regime as tensors, int64[B]."""
    names = ("user", "visible", "horizon", "action", "regime")
    return {name: torch.from_numpy(np.ascontiguousarray(getattr(request, name))) for name in names}
