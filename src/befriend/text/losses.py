"""Symmetric InfoNCE, and the choice of further negatives."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from befriend.text.settings import NegativesName

MARGIN = 0.3  # of cosine, within which a semi-hard negative lies behind the true one


def info_nce(scores: Tensor, true: Tensor, further: Tensor | None = None, chosen: Tensor | None = None) -> Tensor:
    """float32[]: row i and column i belong together; the mean of both directions (van den Oord et al. 2018).

    scores: float32[B, B], already divided by the temperature; true: bool[B, B], which pairs belong together as well,
    and are no negatives; further: float32[B, P], more columns for the rows; chosen: bool[B, P], which of them count.
    """
    away = torch.finfo(scores.dtype).min
    own = torch.arange(len(scores), device=scores.device)
    kept = scores.masked_fill(true & ~torch.eye(len(scores), dtype=torch.bool, device=scores.device), away)
    columns = kept if further is None or chosen is None else torch.cat([kept, further.masked_fill(~chosen, away)], 1)
    return (F.cross_entropy(columns, own) + F.cross_entropy(kept.T, own)) / 2


@torch.no_grad()
def choose(scores: Tensor, positive: Tensor, allowed: Tensor, kind: NegativesName, count: int) -> Tensor:
    """bool[B, P]: which candidates become negatives, at most `count` a row, fewer where fewer are allowed.

    scores: float32[B, P], cosines; positive: float32[B], those of the true statements; allowed: bool[B, P].
    random: any. hard: the nearest. semi-hard: the nearest of those that lie behind the true one, but by no more than
    MARGIN (Schroff et al. 2015).
    """
    if kind == "random":
        scores = torch.rand_like(scores)
    elif kind == "semi-hard":
        allowed = allowed & (scores < positive[:, None]) & (scores > positive[:, None] - MARGIN)
    ranked = scores.masked_fill(~allowed, -torch.inf)
    best = ranked.topk(min(count, scores.shape[1]), dim=1)
    return torch.zeros_like(allowed).scatter_(1, best.indices, best.values > -torch.inf)
