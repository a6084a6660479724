"""Lists that are drawn instead of ranked: whoever is more probable comes more often and earlier, nobody comes twice.

A model's scores are logarithms of probabilities up to a constant. Adding Gumbel noise to them and taking the best is
drawing without replacement (Vieira 2014; Kool et al. 2019), from exactly the distribution that the scores tell of.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How lists are drawn."""

    temperature: float = 1.0
    """scores are divided by it: near 0 the list is nearly the ranked one, large ones make all alike"""
    top_k: int | None = None
    """draw only from so many best; None: from all"""
    nucleus: float = 1.0
    """draw only from the fewest best who together have at least this probability"""
    seed: int = 0


def gumbel(*size: int, generator: torch.Generator) -> Tensor:
    """float64[*size]: noise for `sample`."""
    return -torch.empty(size, dtype=torch.float64).exponential_(generator=generator).log()


def sample(scores: Tensor, k: int, sampling: Sampling, noise: Tensor) -> Tensor:
    """int64[B, k]: columns in the order in which they were drawn, -1 behind the last.

    scores: float32[B, C], best first, -inf for those who may not be drawn; noise: float64[B, C], from `gumbel`.
    """
    scaled = scores.double() / sampling.temperature
    share = scaled.softmax(1)
    kept = scores > -torch.inf
    if sampling.nucleus < 1:
        kept &= share.cumsum(1) - share < sampling.nucleus  # what comes before is not yet enough
    if sampling.top_k is not None:
        kept[:, sampling.top_k :] = False
    drawn = (scaled + noise).masked_fill(~kept, -torch.inf).topk(min(k, scores.shape[1]), dim=1)
    columns = torch.where(drawn.values > -torch.inf, drawn.indices, -1)
    return torch.nn.functional.pad(columns, (0, k - columns.shape[1]), value=-1)
