"""Sampled softmax: a softmax over a sample of negatives that estimates the softmax over all users.

A row is a position, at which one target is predicted. Its candidates besides the target are negatives unless a mask
excludes them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SoftmaxLoss:
    """Loss of each row, and the rank of its target."""

    loss: Tensor
    """float32[P], cross-entropy of the target"""
    rank: Tensor
    """float32[P], from 1, rank of the target among its negatives, by scores without log-Q correction; negatives with an
    equal score count half"""


def softmax_loss(positive: Tensor, candidates: Tensor, is_negative: Tensor, log_q: Tensor) -> SoftmaxLoss:
    """Cross-entropy of the target against its negatives.

    positive: float32[P], scores of the targets; candidates: float32[P, K], scores of the candidates; is_negative:
    bool[P, K], which of them are negatives: the others have no effect and no gradient; log_q: float32[K], the log of
    the probability with which a candidate was drawn, 0 for one that always is: a user who is drawn with probability p
    counts as 1 / p users.
    """
    lowest = torch.finfo(positive.dtype).min
    corrected = (candidates - log_q).masked_fill(~is_negative, lowest)
    loss = torch.cat([positive[:, None], corrected], 1).logsumexp(1) - positive
    with torch.no_grad():
        negatives = candidates.masked_fill(~is_negative, lowest)
        num_better = (negatives > positive[:, None]).sum(1) + 0.5 * (negatives == positive[:, None]).sum(1)
    return SoftmaxLoss(loss, 1 + num_better.float())
