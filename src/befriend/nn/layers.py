"""Building blocks: two-layer perceptrons (MLPs), their activations, and the standardisation of features."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from befriend.nn.activation import ActivationName


class SwiGLU(nn.Module):
    """Gated activation: the first half of the input, through SiLU, multiplies the second half.

    Shazeer 2020, "GLU variants improve transformer".
    """

    def forward(self, x: Tensor) -> Tensor:
        """x: float[..., 2 H]. Returns float[..., H]."""
        gate, value = x.chunk(2, dim=-1)
        return F.silu(gate) * value


class MLP(nn.Module):
    """Two-layer perceptron: linear, activation, dropout, linear."""

    def __init__(self, width: int, hidden: int, out: int, activation: ActivationName = "gelu", dropout: float = 0.0):
        super().__init__()
        if activation == "swiglu":  # two projections into the hidden layer instead of one
            self.layers = nn.Sequential(nn.Linear(width, 2 * hidden), SwiGLU())
        else:
            self.layers = nn.Sequential(nn.Linear(width, hidden), nn.GELU())
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        """x: float[..., width]. Returns float[..., out]."""
        return self.out(self.dropout(self.layers(x)))


class Standardise(nn.Module):
    """Shift and scale of each feature, fitted once on examples. A feature that does not vary in them becomes 0."""

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.mean: Tensor
        self.scale: Tensor

    def fit(self, examples: Tensor) -> None:
        """examples: float[n, width]."""
        self.mean.copy_(examples.mean(0))
        deviation = examples.std(0)
        self.scale.copy_(torch.where(deviation > 1e-4, 1 / deviation.clamp(min=1e-4), 0))

    def forward(self, x: Tensor) -> Tensor:
        """x: float[..., width]. Returns the same shape, clipped to 5 standard deviations from the mean."""
        return torch.sub(x, self.mean).mul_(self.scale).clamp_(-5, 5)
