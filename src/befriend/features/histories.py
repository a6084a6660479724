"""The histories of all users as flat arrays with offsets (CSR). The histories of a batch are one gather.

The history of a user has an *entry* for every event that the user did or received, in time order. So every event has
two entries, one of its actor and one of its target. A cutoff, the UTC second before which events are visible, is given
as the number of visible events, `num_visible = EventLog.count_before(cutoff)`: the log is in time order, so these are
its first `num_visible` events.

Shapes: M events and 2M entries; N users; B users of a batch; L entries of each.
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
    """The last L entries of B users, oldest first. Shorter histories are padded at the beginning, with 0."""

    other_user: Tensor
    """int64[B, L], the other user of each event"""
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
    """The entries of all users, by user, then time. Without received events, there are M entries instead of 2M."""

    indptr: Tensor
    """int64[N + 1], the entries of user x are indptr[x] to indptr[x + 1] - 1"""
    other_user: Tensor
    """int32[2M], the other user of each event"""
    event: Tensor
    """int64[2M], index of the event in the log, ascending for each user"""
    received: Tensor
    """bool[2M], True where the other user acted"""
    key: Tensor
    """int64[2M], user * (M + 1) + event, ascending: one search finds the last entry of any user at any cutoff"""
    action: Tensor
    """uint8[M], by event: index into EventLog.actions"""
    timestamp: Tensor
    """int64[M], by event: UTC second"""

    @classmethod
    def of(cls, log: EventLog, received: bool = True) -> Self:
        """The histories of a log, in O(M log M) by one sort. received: whether targets have entries, as actors do."""
        m = log.num_events
        user = np.concatenate([log.actor, log.target] if received else [log.actor])
        event = np.concatenate([np.arange(m), np.arange(m)])[: len(user)]
        key = user * np.int64(m + 1) + event
        order = np.argsort(key)  # keys are unique: an event has two different users
        indptr = np.zeros(log.num_users + 1, np.int64)
        np.cumsum(np.bincount(user, minlength=log.num_users), out=indptr[1:])
        return cls(
            indptr=torch.from_numpy(indptr),
            other_user=torch.from_numpy(np.concatenate([log.target, log.actor])[order]),
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

    def user_entries(self, user: int, num_visible: int) -> slice:
        """One user's entries among the first `num_visible` events of the log, as a range of indices of entries."""
        low, high = (int(end) for end in self.indptr[user : user + 2])
        return slice(low, low + int(np.searchsorted(self.event[low:high].numpy(), num_visible)))

    def counts(self, users: Tensor, num_visible: Tensor) -> Tensor:
        """int64[B]: the number of entries among the first `num_visible` events. users, num_visible: int64[B]."""
        return self.end_offsets(users, num_visible) - self.indptr[users]

    def gather(self, users: Tensor, num_visible: Tensor, length: int) -> HistoryBatch:
        """The last `length` entries of each user among the first `num_visible` events. users, num_visible: int64[B]."""
        return self.before(users, self.end_offsets(users, num_visible), length)

    def before(self, users: Tensor, end: Tensor, length: int) -> HistoryBatch:
        """The last `length` entries of each user before the entry `end`.

        users: int64[B]; end: int64[B], index among all entries, as from `end_offsets`.
        """
        entry = end[:, None] + torch.arange(-length, 0, device=users.device)  # (B, L)
        mask = entry >= self.indptr[users][:, None]
        entry = entry.clamp(min=0)
        event = self.event[entry]
        return HistoryBatch(
            other_user=self.other_user[entry].long() * mask,
            action=self.action[event].long() * mask,
            received=self.received[entry] & mask,
            timestamp=self.timestamp[event] * mask,
            mask=mask,
        )
