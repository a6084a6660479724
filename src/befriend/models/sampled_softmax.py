"""Sampled softmax: a softmax over row candidates and drawn negatives that estimates the softmax over all users."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SoftmaxLoss:
    """Loss and rank of each position."""

    loss: Tensor
    """float32[P], cross-entropy of the target"""
    rank: Tensor
    """float32[P], rank of the target among all candidates, from 1; ties count half"""


def softmax_loss(
    positive: Tensor, candidates: Tensor, candidate_mask: Tensor, shared: Tensor, shared_mask: Tensor, log_q: Tensor
) -> SoftmaxLoss:
    """Cross-entropy of the target against the candidates of its row and the shared negatives.

    positive: float32[P], scores of the targets; candidates: float32[P, K], scores of each row's own candidates; shared:
    float32[P, C], scores of the shared negatives; *_mask: bool, False for entries to leave out; log_q: float32[C], of
    `SharedNegatives`: a user drawn with probability p counts for 1 / p users. Masked entries have no gradient.
    """
    lowest = torch.finfo(positive.dtype).min
    candidates = candidates.masked_fill(~candidate_mask, lowest)
    corrected = (shared - log_q).masked_fill(~shared_mask, lowest)
    loss = torch.cat([positive[:, None], candidates, corrected], 1).logsumexp(1) - positive
    with torch.no_grad():
        negatives = torch.cat([candidates, shared.masked_fill(~shared_mask, lowest)], 1)
        ahead = (negatives > positive[:, None]).sum(1) + 0.5 * (negatives == positive[:, None]).sum(1)
    return SoftmaxLoss(loss, 1 + ahead.float())
