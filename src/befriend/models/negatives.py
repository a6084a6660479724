"""Shared negatives of a batch: how they are drawn, their log-Q correction, and which ones to mask."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from befriend.models.model_settings import NegativesName
from befriend.nn.tensors import TensorBatch


@dataclass(frozen=True)
class SharedNegatives(TensorBatch):
    """Negatives shared by all positions of a batch, distinct users: the columns of the score matrix."""

    users: Tensor
    """int64[C], ascending"""
    log_q: Tensor
    """float32[C], log of the probability that the user was drawn; 0 without log-Q correction"""

    def columns_of(self, users: Tensor) -> Tensor:
        """int64[...]: the column of each user, -1 for users that are no negative. users: int64[...]."""
        column = torch.searchsorted(self.users, users).clamp(max=len(self.users) - 1)
        return torch.where(self.users[column] == users, column, -1)

    def mask_out(self, allowed: Tensor, rows: Tensor, users: Tensor) -> None:
        """Removes users from the negatives of single positions: sets entries of `allowed` to False, in place.

        allowed: bool[P, C]; rows, users: int64[n], user users[i] is no negative of position rows[i].
        """
        column = self.columns_of(users)
        is_column = column >= 0
        allowed[rows[is_column], column[is_column]] = False


def draw_negatives(
    targets: Tensor,
    popularity: Tensor,
    negative_pool: Tensor,
    negatives: NegativesName,
    num_rand_negs: int,
    log_q: bool = True,
    generator: torch.Generator | None = None,
) -> SharedNegatives:
    """Negatives of a batch: its targets (in_batch), `num_rand_negs` random users a position (random), or both (mixed).

    targets: int64[P]; popularity: float32[N], the share of each user among all targets of training; negative_pool:
    int64[U], the users from whom random ones are drawn. Mixed negative sampling: Yang et al. 2020. The correction is
    the log of the inclusion probability under Poisson sampling, so that a sum over the negatives estimates the sum
    over all users (Horvitz and Thompson 1952; the log-Q correction of Yi et al. 2019, for sets without repeats).
    """
    expected = torch.zeros_like(popularity)
    drawn = []
    if negatives != "random":
        drawn.append(targets)
        expected += len(targets) * popularity
    if negatives != "in_batch":
        count = len(targets) * num_rand_negs
        drawn.append(
            negative_pool[torch.randint(len(negative_pool), (count,), generator=generator, device=negative_pool.device)]
        )
        expected[negative_pool] += count / len(negative_pool)
    users = torch.cat(drawn).unique()
    probability = -torch.expm1(-expected[users])
    return SharedNegatives(users, probability.clamp(min=1e-9).log() if log_q else torch.zeros_like(probability))


def all_as_negatives(negative_pool: Tensor) -> SharedNegatives:
    """All users as negatives, for the full softmax. negative_pool: int64[U]."""
    return SharedNegatives(negative_pool.sort().values, torch.zeros(len(negative_pool), device=negative_pool.device))
