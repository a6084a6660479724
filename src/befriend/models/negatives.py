"""Shared negatives of a batch: how they are drawn, their log-Q correction, and masks of users that are no negatives.

The log-Q correction subtracts from a negative's score the log of the probability with which it is drawn, so that the
loss does not punish popular users for being drawn often.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from befriend.models.model_settings import NegativesName
from befriend.nn.tensors import TensorBatch


@dataclass(frozen=True)
class SharedNegatives(TensorBatch):
    """C distinct users who are negatives of all P positions of a batch, unless a mask excludes a user from a position.

    They are the columns of a matrix of scores, [P, C].
    """

    users: Tensor
    """int64[C], internal ids, ascending"""
    log_q: Tensor
    """float32[C], log of the probability that each user is drawn at least once; 0 without log-Q correction"""

    def columns(self, users: Tensor) -> Tensor:
        """int64[...]: the column of each user, -1 for a user who is not among the negatives. users: int64[...]."""
        column = torch.searchsorted(self.users, users).clamp(max=len(self.users) - 1)
        return torch.where(self.users[column] == users, column, -1)

    def mask_out(self, is_negative: Tensor, rows: Tensor, users: Tensor) -> None:
        """Removes users from the negatives of single positions: sets entries of `is_negative` to False, in place.

        is_negative: bool[P, C]; rows, users: int64[n]: users[i] is no negative of position rows[i].
        """
        column = self.columns(users)
        has_column = column >= 0
        is_negative[rows[has_column], column[has_column]] = False


def draw_negatives(
    targets: Tensor,
    popularity: Tensor,
    negative_pool: Tensor,
    negatives: NegativesName,
    num_random: int,
    log_q: bool = True,
    generator: torch.Generator | None = None,
) -> SharedNegatives:
    """Draws the shared negatives of a batch.

    targets: int64[P], of the batch; popularity: float32[N], the share of each user among the targets from which the
    batch was drawn; negative_pool: int64[U], distinct users, from whom random negatives are drawn; negatives:
    `in_batch` (the targets), `random` (`num_random` draws from the pool), or `mixed` (both: Yang et al. 2020); log_q:
    whether to correct for how often a user is drawn; generator: for the random draws.

    `SharedNegatives.log_q` treats the draws of a user as a Poisson process. If each negative is weighted by 1 / its
    probability, a sum over the negatives estimates the sum over all users (Horvitz and Thompson 1952). This is the
    log-Q correction of Yi et al. 2019 for sets without repeated users.
    """
    expected_count = torch.zeros_like(popularity)
    drawn_users = []
    if negatives != "random":
        drawn_users.append(targets)
        expected_count += len(targets) * popularity
    if negatives != "in_batch":
        draw = torch.randint(len(negative_pool), (num_random,), generator=generator, device=negative_pool.device)
        drawn_users.append(negative_pool[draw])
        expected_count[negative_pool] += num_random / len(negative_pool)
    users = torch.cat(drawn_users).unique()
    probability = -torch.expm1(-expected_count[users])
    return SharedNegatives(users, probability.clamp(min=1e-9).log() if log_q else torch.zeros_like(probability))


def all_as_negatives(negative_pool: Tensor) -> SharedNegatives:
    """All users of the pool as negatives, for the full softmax. negative_pool: int64[U], internal ids."""
    return SharedNegatives(negative_pool.sort().values, torch.zeros(len(negative_pool), device=negative_pool.device))
