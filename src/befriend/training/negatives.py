"""Negatives of a batch: who stands against the true target, how likely they were drawn, who must not be one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from befriend.models.batch import Batch
from befriend.models.settings import NegativesName


@dataclass(frozen=True)
class Columns(Batch):
    """Negatives shared by all positions of a batch, each user once."""

    users: Tensor
    """int64[C], ascending"""
    log_share: Tensor
    """float32[C], log of the probability that the user was drawn; 0 where no correction is wanted"""

    def places(self, users: Tensor) -> Tensor:
        """int64[...]: the column of each user, -1 for those who have none. users: int64[...]."""
        place = torch.searchsorted(self.users, users).clamp(max=len(self.users) - 1)
        return torch.where(self.users[place] == users, place, -1)

    def forbid(self, allowed: Tensor, rows: Tensor, users: Tensor) -> None:
        """Takes users out of the negatives of single positions, in place.

        allowed: bool[P, C]; rows, users: int64[n], user users[i] is no negative of position rows[i].
        """
        place = self.places(users)
        found = place >= 0
        allowed[rows[found], place[found]] = False


def draw(
    targets: Tensor,
    popularity: Tensor,
    universe: Tensor,
    negatives: NegativesName,
    num_rand_negs: int,
    log_q: bool = True,
    generator: torch.Generator | None = None,
) -> Columns:
    """Negatives of a batch: its targets, `num_rand_negs` random users a position, or both.

    targets: int64[P]; popularity: float32[N], the share of each user among all targets of training; universe:
    int64[U], users from whom random ones are drawn. Mixed negative sampling: Yang et al. 2020. The correction is
    the log of the inclusion probability under Poisson sampling, so that a sum over the columns estimates the sum
    over everyone (Horvitz and Thompson 1952; the log-Q correction of Yi et al. 2019, for sets without repeats).
    """
    expected = torch.zeros_like(popularity)
    drawn = []
    if negatives != "random":
        drawn.append(targets)
        expected += len(targets) * popularity
    if negatives != "in_batch":
        count = len(targets) * num_rand_negs
        drawn.append(universe[torch.randint(len(universe), (count,), generator=generator, device=universe.device)])
        expected[universe] += count / len(universe)
    users = torch.cat(drawn).unique()
    share = -torch.expm1(-expected[users])
    return Columns(users, share.clamp(min=1e-9).log() if log_q else torch.zeros_like(share))


def everyone(universe: Tensor) -> Columns:
    """All users as columns: the full softmax. universe: int64[U]."""
    return Columns(universe.sort().values, torch.zeros(len(universe), device=universe.device))
