"""Histories of all users, inbound and outbound, as flat arrays with offsets; a batch is a gather.

The history of user x holds an entry for every event that x did or received, in time order. This module knows nothing
of models: it returns the last entries of a user before a cutoff. The cutoff is given as a number of visible events,
`EventLog.count_before(timestamp)`, so that nothing at or after an event's own timestamp is visible.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
from torch import Tensor

from befriend.data.event_log import EventLog


@dataclass(frozen=True)
class HistoryBatch:
    """The last L entries of B users, oldest first, valid ones at the end; 0 where `mask` is False."""

    other: Tensor
    """int64[B, L], the user on the other side"""
    action: Tensor
    """int64[B, L], index into EventLog.actions"""
    received: Tensor
    """bool[B, L], True where the other user acted"""
    timestamp: Tensor
    """int64[B, L], UTC seconds"""
    mask: Tensor
    """bool[B, L], True where there is an entry"""


@dataclass(frozen=True)
class Histories:
    """CSR over users: the entries of user x are indptr[x] to indptr[x + 1]. 2M entries for M events."""

    indptr: Tensor
    """int64[N + 1]"""
    other: Tensor
    """int32[2M], the user on the other side"""
    event: Tensor
    """int64[2M], position of the event in the log, ascending for each user"""
    received: Tensor
    """bool[2M], True where the other user acted"""
    key: Tensor
    """int64[2M], user * (M + 1) + event, ascending: one search finds the last entry of any user at any cutoff"""
    action: Tensor
    """uint8[M], of the log"""
    timestamp: Tensor
    """int64[M], of the log"""

    @classmethod
    def of(cls, log: EventLog, received: bool = True) -> Self:
        """Histories of a log, in O(M log M) by one sort. received: False leaves out the entries of targets."""
        m = log.num_events
        user = np.concatenate([log.actor, log.target] if received else [log.actor])
        event = np.concatenate([np.arange(m), np.arange(m)])[: len(user)]
        key = user * np.int64(m + 1) + event
        order = np.argsort(key)  # keys are unique: an event has two different users
        indptr = np.zeros(log.num_users + 1, np.int64)
        np.cumsum(np.bincount(user, minlength=log.num_users), out=indptr[1:])
        return cls(
            indptr=torch.from_numpy(indptr),
            other=torch.from_numpy(np.concatenate([log.target, log.actor])[order]),
            event=torch.from_numpy(event[order]),
            received=torch.from_numpy(order >= m),
            key=torch.from_numpy(key[order]),
            action=torch.from_numpy(log.action.copy()),
            timestamp=torch.from_numpy(log.timestamp.copy()),
        )

    def to(self, device: torch.device | str) -> Self:
        return type(self)(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def end_offsets(self, users: Tensor, num_visible: Tensor) -> Tensor:
        """int64[B]: one past each user's last entry among the first `num_visible` events of the log.

        users, num_visible: int64[B].
        """
        return torch.searchsorted(self.key, users * (len(self.timestamp) + 1) + num_visible)

    def entries_of(self, user: int, num_visible: int) -> slice:
        """The entries of one user among the first `num_visible` events of the log."""
        low, high = (int(end) for end in self.indptr[user : user + 2])
        return slice(low, low + int(np.searchsorted(self.event[low:high].numpy(), num_visible)))

    def counts(self, users: Tensor, num_visible: Tensor) -> Tensor:
        """int64[B]: the number of entries among the first `num_visible` events. users, num_visible: int64[B]."""
        return self.end_offsets(users, num_visible) - self.indptr[users]

    def gather(self, users: Tensor, num_visible: Tensor, length: int) -> HistoryBatch:
        """The last `length` entries of each user among the first `num_visible` events. users, num_visible: int64[B]."""
        return self.before(users, self.end_offsets(users, num_visible), length)

    def before(self, users: Tensor, end: Tensor, length: int) -> HistoryBatch:
        """The last `length` entries of each user before the entry `end`. users, end: int64[B]."""
        entry = end[:, None] + torch.arange(-length, 0, device=users.device)  # (B, L)
        mask = entry >= self.indptr[users][:, None]
        entry = entry.clamp(min=0)
        event = self.event[entry]
        return HistoryBatch(
            other=self.other[entry].long() * mask,
            action=self.action[event].long() * mask,
            received=self.received[entry] & mask,
            timestamp=self.timestamp[event] * mask,
            mask=mask,
        )
