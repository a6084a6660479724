"""The users that each user had recent entries with as of a cutoff: the input of the clusters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from befriend.features.activity import Activity


@dataclass(frozen=True)
class ContactBags:
    """Users, and the distinct other users of their latest entries as of a cutoff."""

    users: Tensor
    """int64[B]"""
    other_users: Tensor
    """int64[B, C], the latest first; C is at least 1"""
    mask: Tensor
    """bool[B, C], False in the padding of `other_users`"""

    @classmethod
    def of(cls, activity: Activity, users: Tensor, num_visible: Tensor, entries: int) -> ContactBags:
        """Of each user's last `entries` entries among the first `num_visible` events, the distinct other users.

        users, num_visible: int64[B]; users that are not in the log have none. All entries count, not only contacts: a
        user who looks at a profile has a reason.
        """
        in_log = users < len(activity.histories.indptr) - 1
        log_users, log_visible = torch.where(in_log, users, 0), torch.where(in_log, num_visible, 0)
        entry = activity.recent_distinct_entries(
            activity.histories.end_offsets(log_users, log_visible), log_users, log_visible, entries
        )
        if not entry.shape[1]:
            entry = entry.new_full((len(users), 1), -1)
        return cls(users, activity.neighbor_of_entry(entry), entry >= 0)

    def to(self, device: torch.device | str) -> ContactBags:
        return ContactBags(self.users.to(device), self.other_users.to(device), self.mask.to(device))
