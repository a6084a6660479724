"""Batches of requests for lists of recommended users, the same for evaluation and serving.

A request holds everything, apart from log and models, that a ranking depends on. The length of the list, and
constraints on who is shown, are not part of it: they only cut and filter the ranking.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from befriend.data.event_log import EventLog
from befriend.features.histories import Histories

LIST_DEPTH = 100
"""length of the lists that the evaluation scores"""
CANDIDATE_DEPTH = 128
"""number of users that each model and each heuristic ranks, however short the list: some may be filtered out"""


@dataclass(frozen=True)
class RequestBatch:
    """B requests, each for one list of recommended users.

    The log is sorted by time, so that the events before a cutoff are the first `num_visible` events of the log.
    """

    BY_ROW: ClassVar = ("user", "num_visible", "cutoff", "action", "regime", "excludes_contacts")

    user: np.ndarray
    """int64[B], the requesting users, internal ids; N, the number of users, for a user who is not in the log"""
    num_visible: np.ndarray
    """int64[B], number of events before the cutoff; apart from `exclude`, list b depends on no later event"""
    cutoff: np.ndarray
    """int64[B], UTC second as of which the list is made: only events and texts before it count"""
    action: np.ndarray
    """int64[B], the action that the user is about to do, index into `EventLog.actions`; UNKNOWN_ACTION if not known"""
    regime: np.ndarray
    """int64[B], index into `data.regimes.REGIMES`: which events are visible (daily, live, ...), an input of models"""
    exclude_indptr: np.ndarray
    """int64[B + 1], offsets into `exclude`"""
    exclude: np.ndarray
    """int64, the excluded users: those of row b are exclude[exclude_indptr[b]:exclude_indptr[b + 1]]"""
    excludes_contacts: np.ndarray
    """bool[B], whether existing contacts are among the excluded users: list `new`, otherwise list `any`"""

    def __len__(self) -> int:
        return len(self.user)

    def select(self, rows: np.ndarray) -> RequestBatch:
        """The requests in these rows, int64, in this order."""
        count = np.diff(self.exclude_indptr)[rows]
        indptr = np.cumsum([0, *count])
        start = np.repeat(self.exclude_indptr[rows] - indptr[:-1], count)
        arrays = {name: getattr(self, name)[rows] for name in self.BY_ROW}
        exclude = self.exclude[start + np.arange(len(start))]
        return replace(self, **arrays, exclude_indptr=indptr, exclude=exclude)

    def excluded(self, b: int) -> np.ndarray:
        """int64: the users excluded from list b."""
        return self.exclude[self.exclude_indptr[b] : self.exclude_indptr[b + 1]]

    @property
    def exclude_row(self) -> np.ndarray:
        """int64: the row of each user in `exclude`."""
        return np.repeat(np.arange(len(self)), np.diff(self.exclude_indptr))


@dataclass(frozen=True)
class RankedLists:
    """B lists of users, best first."""

    ids: np.ndarray
    """int64[B, k], padded with -1"""
    scores: np.ndarray
    """float32[B, k], padded with -inf; 0 for users listed by a heuristic, which has no scores"""


class RequestBuilder:
    """Builds requests on a log: counts the events before each cutoff, and looks up the excluded users of each list."""

    def __init__(self, log: EventLog, histories: Histories):
        self.log, self.histories = log, histories
        self.neighbor, self.event = histories.other_user.numpy(), histories.event.numpy()

    def build(
        self,
        user: np.ndarray,
        cutoff: np.ndarray,
        filter_at: np.ndarray,
        action: np.ndarray,
        regime: np.ndarray,
        exclude_contacts: np.ndarray,
    ) -> RequestBatch:
        """Builds a batch of B requests.

        user, action, regime: int64[B], as in `RequestBatch`; cutoff: int64[B], UTC second before which events count for
        the ranking; filter_at: int64[B], UTC second before which events exclude users from the list, not before the
        cutoff (a list that is made at night is filtered when it is shown); exclude_contacts: bool[B], whether the list
        leaves out existing contacts.
        """
        num_filtering = self.log.count_before(filter_at)
        rows = zip(user.tolist(), num_filtering.tolist(), exclude_contacts.tolist(), strict=True)
        excluded = [self.excluded(*row) for row in rows]
        return RequestBatch(
            user=user,
            num_visible=np.asarray(self.log.count_before(cutoff), np.int64),
            cutoff=cutoff,
            action=action,
            regime=regime,
            exclude_indptr=np.cumsum([0, *map(len, excluded)]),
            exclude=np.concatenate([np.empty(0, np.int64), *excluded]),
            excludes_contacts=exclude_contacts,
        )

    def excluded(self, user: int, num_visible: int, exclude_contacts: bool) -> np.ndarray:
        """int64: the users who must not be on a user's list, by the first `num_visible` events.

        These are the users with an exclude event (such as a block) between the two, in either direction; with
        `exclude_contacts`, existing contacts too.
        """
        neighbor, contact, exclude = self._entries(user, num_visible)
        return np.unique(neighbor[exclude | contact] if exclude_contacts else neighbor[exclude])

    def contacts(self, user: int, num_visible: int) -> np.ndarray:
        """int64: the contacts of a user within the first `num_visible` events."""
        neighbor, contact, _ = self._entries(user, num_visible)
        return np.unique(neighbor[contact])

    def _entries(self, user: int, num_visible: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The n events of a user, done or received, among the first `num_visible` events of the log.

        Returns the other user of each event, int64[n]; whether it is a contact event, bool[n]; whether it is an exclude
        event, bool[n].
        """
        if user >= self.log.num_users:
            empty = np.empty(0, bool)
            return np.empty(0, np.int64), empty, empty
        window = self.histories.user_entries(user, num_visible)
        event = self.event[window]
        return self.neighbor[window].astype(np.int64), self.log.is_contact[event], self.log.is_exclude[event]


def group_by_cutoff(requests: RequestBatch) -> list[np.ndarray]:
    """The rows of the requests with the same cutoff, int64 each, cutoff by cutoff in order of time."""
    order = np.lexsort((requests.cutoff, requests.num_visible))
    num_visible, cutoff = requests.num_visible[order], requests.cutoff[order]
    cuts = np.flatnonzero((np.diff(num_visible) != 0) | (np.diff(cutoff) != 0)) + 1
    return [rows for rows in np.split(order, cuts) if len(rows)]


def request_tensors(requests: RequestBatch) -> dict[str, torch.Tensor]:
    """user, num_visible, cutoff, action and regime as tensors, int64[B]."""
    names = ("user", "num_visible", "cutoff", "action", "regime")
    return {name: torch.from_numpy(np.ascontiguousarray(getattr(requests, name))) for name in names}
