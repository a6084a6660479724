"""Symmetric InfoNCE loss, and the choice of extra negatives."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from befriend.text.text_settings import NegativesName

MARGIN = 0.3  # maximum difference of the cosines of the true statement and of a semi-hard negative


def info_nce(
    scores: Tensor, is_positive: Tensor, extra: Tensor | None = None, is_chosen: Tensor | None = None
) -> Tensor:
    """float32[]: the mean InfoNCE loss of both directions (van den Oord et al. 2018); row i matches column i.

    scores: float32[B, B], already divided by the temperature; is_positive: bool[B, B], further pairs that match,
    and so are no negatives; extra: float32[B, P], scores of more candidates for the rows; is_chosen:
    bool[B, P], which of them are negatives.
    """
    lowest = torch.finfo(scores.dtype).min
    labels = torch.arange(len(scores), device=scores.device)
    logits = scores.masked_fill(is_positive & ~torch.eye(len(scores), dtype=torch.bool, device=scores.device), lowest)
    row_logits = (
        logits if extra is None or is_chosen is None else torch.cat([logits, extra.masked_fill(~is_chosen, lowest)], 1)
    )
    return (F.cross_entropy(row_logits, labels) + F.cross_entropy(logits.T, labels)) / 2


@torch.no_grad()
def choose_negatives(scores: Tensor, positive: Tensor, allowed: Tensor, kind: NegativesName, count: int) -> Tensor:
    """bool[B, P]: which candidates become negatives, at most `count` per row, fewer where fewer are allowed.

    scores: float32[B, P], cosines; positive: float32[B], cosines of the true statements; allowed: bool[B, P].
    random: uniformly. hard: the highest cosines. semi-hard: the highest cosines below that of the true statement by
    less than MARGIN (Schroff et al. 2015).
    """
    if kind == "random":
        scores = torch.rand_like(scores)
    elif kind == "semi-hard":
        allowed = allowed & (scores < positive[:, None]) & (scores > positive[:, None] - MARGIN)
    ranked = scores.masked_fill(~allowed, -torch.inf)
    best = ranked.topk(min(count, scores.shape[1]), dim=1)
    return torch.zeros_like(allowed).scatter_(1, best.indices, best.values > -torch.inf)
