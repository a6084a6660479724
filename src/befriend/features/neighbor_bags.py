"""The recent neighbors of users as of a cutoff, as unordered sets: the input of the user clusters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from befriend.features.activity import Activity


@dataclass(frozen=True)
class NeighborBags:
    """B users, and for each its recent neighbors: the distinct other users of its latest events, C at most."""

    users: Tensor
    """int64[B]"""
    other_users: Tensor
    """int64[B, C], the latest first; C is at least 1"""
    mask: Tensor
    """bool[B, C], False in the padding of `other_users`"""

    @classmethod
    def of(cls, activity: Activity, users: Tensor, num_visible: Tensor, max_entries: int) -> NeighborBags:
        """The distinct other users of each user's last `max_entries` events among the first `num_visible` of the log.

        users, num_visible: int64[B]; users that are not in the log have no neighbors. Events of all actions count, not
        only contact events: a view of a profile is a sign of interest as well.
        """
        in_log = users < len(activity.histories.indptr) - 1
        log_users, log_visible = torch.where(in_log, users, 0), torch.where(in_log, num_visible, 0)
        entry = activity.recent_distinct_entries(
            activity.histories.end_offsets(log_users, log_visible), log_users, log_visible, max_entries
        )
        if not entry.shape[1]:
            entry = entry.new_full((len(users), 1), -1)
        return cls(users, activity.neighbors(entry), entry >= 0)

    def to(self, device: torch.device | str) -> NeighborBags:
        return NeighborBags(self.users.to(device), self.other_users.to(device), self.mask.to(device))
