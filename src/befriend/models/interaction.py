"""Interaction layer of the query tower: combines history, actor and action into one query."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from befriend.nn.layers import MLP, ActivationName


class InteractionMoE(nn.Module):
    """Mixture of expert MLPs (MoE) over the inputs of a query, weighted by a softmax gate.

    Dense variant of Shazeer et al. 2017: every expert runs, and the gate weights their outputs.
    """

    def __init__(self, width: int, hidden: int, out: int, experts: int, activation: ActivationName, dropout: float):
        super().__init__()
        self.experts = nn.ModuleList(MLP(width, hidden, out, activation, dropout) for _ in range(experts))
        self.gate = nn.Linear(width, experts)

    def forward(self, parts: Tensor) -> Tensor:
        """parts: float[P, width], the concatenated inputs of P queries. Returns float[P, out]."""
        outputs = torch.stack([expert(parts) for expert in self.experts], 1)  # (P, E, out)
        return (self.gate(parts).softmax(-1)[:, None] @ outputs).squeeze(1)
