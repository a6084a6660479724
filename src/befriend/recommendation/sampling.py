"""Sampled lists: candidates are drawn at random instead of ranked; probable candidates come more often and earlier.

The scores of candidates are treated as log-probabilities up to a constant; those of a ranker are not, but their softmax
is a distribution as well. The top k of scores plus Gumbel noise are k draws without replacement from this distribution
(Vieira 2014; Kool et al. 2019).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How lists are drawn."""

    temperature: float = 1.0
    """scores are divided by it: near 0 the list is nearly the ranked one, large values draw almost uniformly"""
    top_k: int | None = None
    """draw only from this many best candidates; None: from all candidates"""
    nucleus: float = 1.0
    """draw only from the smallest set of best candidates whose total probability is at least this (top-p); 1: all"""
    seed: int = 0
    """equal seeds give equal lists for a request"""


def gumbel(*size: int, generator: torch.Generator) -> Tensor:
    """float64[*size]: standard Gumbel noise for `sample`."""
    return -torch.empty(size, dtype=torch.float64).exponential_(generator=generator).log()


def sample(scores: Tensor, k: int, sampling: Sampling, noise: Tensor) -> Tensor:
    """int64[B, k]: columns of `scores` in the order in which they are drawn, padded with -1.

    scores: float32[B, C], best first, -inf for candidates that must not be drawn; noise: float64[B, C], from `gumbel`.
    """
    scaled = scores.double() / sampling.temperature
    probability = scaled.softmax(1)
    can_be_drawn = scores > -torch.inf
    if sampling.nucleus < 1:
        # A candidate is in the nucleus if the candidates before it do not fill the nucleus.
        can_be_drawn &= probability.cumsum(1) - probability < sampling.nucleus
    if sampling.top_k is not None:
        can_be_drawn[:, sampling.top_k :] = False
    drawn = (scaled + noise).masked_fill(~can_be_drawn, -torch.inf).topk(min(k, scores.shape[1]), dim=1)
    columns = torch.where(drawn.values > -torch.inf, drawn.indices, -1)
    return torch.nn.functional.pad(columns, (0, k - columns.shape[1]), value=-1)
