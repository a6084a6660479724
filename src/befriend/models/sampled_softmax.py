"""Sampled softmax: a softmax over a sample of negatives that estimates the softmax over all users.

A row is a position, at which one target is predicted. Row candidates are candidates of a single row besides its target,
shared negatives those of all rows of a batch. Both are negatives unless a mask excludes them.
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


def softmax_loss(
    positive: Tensor, candidates: Tensor, candidate_mask: Tensor, shared: Tensor, shared_mask: Tensor, log_q: Tensor
) -> SoftmaxLoss:
    """Cross-entropy of the target against the row candidates and the shared negatives.

    positive: float32[P], scores of the targets; candidates, candidate_mask: float32[P, K] and bool[P, K], scores of the
    row candidates, and which of them are negatives; shared, shared_mask: float32[P, C] and bool[P, C], the same of the
    shared negatives; log_q: float32[C], of `SharedNegatives`: a user who is drawn with probability p counts as 1 / p
    users. Scores where a mask is False have no effect and no gradient.
    """
    lowest = torch.finfo(positive.dtype).min
    candidates = candidates.masked_fill(~candidate_mask, lowest)
    corrected = (shared - log_q).masked_fill(~shared_mask, lowest)
    loss = torch.cat([positive[:, None], candidates, corrected], 1).logsumexp(1) - positive
    with torch.no_grad():
        negatives = torch.cat([candidates, shared.masked_fill(~shared_mask, lowest)], 1)
        num_better = (negatives > positive[:, None]).sum(1) + 0.5 * (negatives == positive[:, None]).sum(1)
    return SoftmaxLoss(loss, 1 + num_better.float())
