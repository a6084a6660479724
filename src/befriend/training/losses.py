"""Softmax over a few candidates that stands for the softmax over everyone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SoftmaxLoss:
    """Per position."""

    loss: Tensor
    """float32[P], cross-entropy of the target"""
    rank: Tensor
    """float32[P], place of the target among the candidates, from 1; ties count half"""


def softmax_loss(
    positive: Tensor, near: Tensor, near_allowed: Tensor, column: Tensor, column_allowed: Tensor, log_share: Tensor
) -> SoftmaxLoss:
    """Cross-entropy of the target against candidates known for sure (near) and drawn ones (columns).

    positive: float32[P], scores of the targets; near: float32[P, K]; column: float32[P, C]; *_allowed: bool, False
    where a candidate is none; log_share: float32[C], from `Columns`: a candidate that was drawn with probability p
    stands for 1 / p of its kind. What is not allowed carries no gradient.
    """
    away = torch.finfo(positive.dtype).min
    near = near.masked_fill(~near_allowed, away)
    corrected = (column - log_share).masked_fill(~column_allowed, away)
    loss = torch.cat([positive[:, None], near, corrected], 1).logsumexp(1) - positive
    with torch.no_grad():
        others = torch.cat([near, column.masked_fill(~column_allowed, away)], 1)
        ahead = (others > positive[:, None]).sum(1) + 0.5 * (others == positive[:, None]).sum(1)
    return SoftmaxLoss(loss, 1 + ahead.float())
