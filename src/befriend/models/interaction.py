"""The query tower's last part: history, actor and action become one query."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from befriend.models.layers import MLP
from befriend.models.settings import ActivationName


class InteractionMoE(nn.Module):
    """Mixture of expert MLPs over a query's parts, weighted by a softmax gate.

    Shazeer et al. 2017, dense variant (every expert runs; the gate mixes).
    """

    def __init__(self, width: int, hidden: int, out: int, experts: int, activation: ActivationName, dropout: float):
        super().__init__()
        self.experts = nn.ModuleList(MLP(width, hidden, out, activation, dropout) for _ in range(experts))
        self.gate = nn.Linear(width, experts)

    def forward(self, parts: Tensor) -> Tensor:
        """parts: float[P, width], the concatenated query parts. Returns float[P, out]."""
        answers = torch.stack([expert(parts) for expert in self.experts], 1)  # (P, E, out)
        return (self.gate(parts).softmax(-1)[:, None] @ answers).squeeze(1)
