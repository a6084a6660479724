"""Whom users had been in contact with by some moment: what clusters know somebody by."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from befriend.data.activity import Activity


@dataclass(frozen=True)
class Contacts:
    """Users and whom they had been in contact with by some moment."""

    users: Tensor
    """int64[B]"""
    others: Tensor
    """int64[B, C], the latest first; C is at least 1"""
    real: Tensor
    """bool[B, C]"""

    @classmethod
    def of(cls, activity: Activity, users: Tensor, visible: Tensor, entries: int) -> Contacts:
        """Distinct users of each one's last entries among the first `visible` events, int64[B]; unknown ones have none.

        Entries of any kind count: who looks at a profile has a reason.
        """
        known = users < len(activity.histories.indptr) - 1
        somebody, seen = torch.where(known, users, 0), torch.where(known, visible, 0)
        place = activity.contacts(activity.histories.ends(somebody, seen), somebody, seen, entries)
        if not place.shape[1]:
            place = place.new_full((len(users), 1), -1)
        return cls(users, activity.others(place), place >= 0)

    def to(self, device: torch.device | str) -> Contacts:
        return Contacts(self.users.to(device), self.others.to(device), self.real.to(device))
