"""History encoders: one vector after each event of a history, all in one causal pass.

An output depends on its own event and earlier ones, and, except in mean pooling, on the seconds and the number of
events between them. It does not depend on the column of an event in the padded array.

Shapes: B histories of N events; W, width of the vector of an event; H heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from befriend.nn.layers import MLP, ActivationName

AGE_BUCKETS = 32  # of the seconds between two events, by powers of two
STEP_BUCKETS = 64  # of the number of columns between two events


class RelativeBias(nn.Module):
    """Attention bias of each head, from the number of events and the number of seconds between two events.

    Each bucket has a learned bias, as in T5 (Raffel et al. 2020). Every number of events has its own bucket, and the
    last one also has all larger numbers. Seconds have logarithmic buckets, as in HSTU (Zhai et al. 2024).
    """

    def __init__(self, heads: int):
        super().__init__()
        self.steps = nn.Parameter(torch.zeros(heads, STEP_BUCKETS))
        self.ages = nn.Parameter(torch.zeros(heads, AGE_BUCKETS))

    def forward(self, mask: Tensor, timestamp: Tensor | None) -> Tensor:
        """float[B, H, N, N]: the bias of event i (row) to event j (column), -inf where j > i or j is padding.

        mask: bool[B, N], True where there is an event; timestamp: int64[B, N], UTC seconds, None: no bias by time.
        Padding also attends to itself, so that its softmax is defined.
        """
        n = mask.shape[1]
        column = torch.arange(n, device=mask.device)
        gap = column[:, None] - column
        bias = self.steps[:, gap.clamp(0, STEP_BUCKETS - 1)][None]  # (1, H, N, N)
        if timestamp is not None:
            age = (timestamp[:, :, None] - timestamp[:, None, :]).clamp(min=0).float()
            bucket = (age + 1).log2().long().clamp(max=AGE_BUCKETS - 1)  # (B, N, N)
            bias = bias + F.embedding(bucket, self.ages.T).permute(0, 3, 1, 2)
        attention_mask = (gap >= 0) & mask[:, None, :] | (gap == 0)  # (B, N, N)
        return bias.masked_fill(~attention_mask[:, None], float("-inf"))


class MeanPooling(nn.Module):
    """Mean of the events up to and including each event. Ignores timestamps."""

    def __init__(self, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout)

    def forward(self, events: Tensor, mask: Tensor, timestamp: Tensor | None) -> Tensor:
        """events: float[B, N, W], vectors of events, 0 in padding; mask: bool[B, N]. Returns float[B, N, W]."""
        return self.dropout(events).cumsum(1) / mask.cumsum(1).clamp(min=1)[..., None]


class SimpleAttention(nn.Module):
    """Pooled multi-head attention: one learned query per head attends to the events up to and including each event.

    The vector of the event itself is added (a residual connection), so that the model learns faster from it.
    """

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.query = nn.Parameter(torch.randn(heads, width // heads) * (width // heads) ** -0.5)
        self.key_value = nn.Linear(width, 2 * width)
        self.bias = RelativeBias(heads)
        self.out = nn.Linear(width, width)

    def forward(self, events: Tensor, mask: Tensor, timestamp: Tensor | None) -> Tensor:
        """events: float[B, N, W]; mask: bool[B, N]; timestamp: int64[B, N] or None. Returns float[B, N, W]."""
        b, n, w = events.shape
        x = self.dropout(events)
        key, value = self.key_value(x).view(b, n, 2, *self.query.shape).permute(2, 0, 3, 1, 4)  # (B, H, N, d)
        logits = torch.einsum("hd,bhnd->bhn", self.query, key)[:, :, None] + self.bias(mask, timestamp)
        pooled = logits.softmax(-1) @ value
        return x + self.out(pooled.transpose(1, 2).reshape(b, n, w))


class Block(nn.Module):
    """Pre-norm transformer block: causal self-attention, then a feed-forward layer."""

    def __init__(self, width: int, heads: int, activation: ActivationName, dropout: float):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed_forward = MLP(width, 2 * width, width, activation, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x: float[B, N, W]; bias: float[B, H, N, N]. Returns float[B, N, W]."""
        b, n, w = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        x = x + self.dropout(self.out(attended.transpose(1, 2).reshape(b, n, w)))
        return x + self.dropout(self.feed_forward(self.norm2(x)))


class Transformer(nn.Module):
    """Causal transformer over the history, as SASRec (Kang and McAuley 2018), with the attention bias `RelativeBias`
    instead of position embeddings."""

    def __init__(self, width: int, heads: int, layers: int, activation: ActivationName, dropout: float):
        super().__init__()
        self.bias = RelativeBias(heads)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, activation, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, events: Tensor, mask: Tensor, timestamp: Tensor | None) -> Tensor:
        """events: float[B, N, W]; mask: bool[B, N]; timestamp: int64[B, N] or None. Returns float[B, N, W]."""
        x, bias = self.dropout(events), self.bias(mask, timestamp)
        for block in self.blocks:
            x = block(x, bias)
        return self.norm(x)
