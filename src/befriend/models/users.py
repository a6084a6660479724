"""What a user is to a model, apart from history and moment: something of its own, and attributes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from befriend.models.clusters import Clusters

NEUTRAL = 0.01  # deviation of fresh embeddings of users: most have few events, and are to start out as nobody special


class StuEmbedding(nn.Module):
    """The mean embedding of a user's tokens, a table for each level; the last row: somebody without an STU."""

    def __init__(self, vocabulary: tuple[int, ...], width: int, stus: Tensor | None = None):
        """vocabulary: L sizes; stus: int64[N, L], of the users by number."""
        super().__init__()
        self.embedding_dim = width
        self.tables = nn.ModuleList(nn.Embedding(size, width) for size in vocabulary)
        self.nobody = nn.Parameter(torch.zeros(width))
        self.register_buffer("stus", torch.zeros(0, len(vocabulary)).long() if stus is None else stus, persistent=False)
        self.stus: Tensor

    @property
    def num_embeddings(self) -> int:
        return len(self.stus) + 1

    def table(self, level: int) -> Tensor:
        """float32[V, D]: embeddings of the tokens of a level."""
        table = self.tables[level]
        assert isinstance(table, nn.Embedding)
        return table.weight

    def tokens(self, stus: Tensor) -> Tensor:
        """float32[..., l, D]: embeddings of the first l tokens of STUs, int64[..., l]."""
        levels = stus.shape[-1]
        found = [table(stus[..., level]) for level, table in zip(range(levels), self.tables, strict=False)]
        return torch.stack(found, -2) if found else self.nobody.new_zeros(*stus.shape, self.embedding_dim)

    def mean(self, stus: Tensor) -> Tensor:
        """float32[..., D], of whole STUs, int64[..., L]."""
        return self.tokens(stus).mean(-2)

    @property
    def weight(self) -> Tensor:
        """float32[N + 1, D]: all rows, as a table of its own would have them; made anew at each call."""
        return torch.cat([self.mean(self.stus), self.nobody[None]])


@dataclass(frozen=True)
class Rows:
    """What users are of their own in one step: a table, and the row of each user."""

    number: Tensor
    """int64[num_users + 1], the last for anybody who joined later"""
    table: Tensor
    """float32[R, D], the last for somebody without a row"""

    def of(self, users: Tensor) -> Tensor:
        """int64[...]: their rows; users: int64[...], any number but below 0."""
        return self.number[users.clamp(max=len(self.number) - 1)]

    def __call__(self, users: Tensor) -> Tensor:
        """float32[..., D], of users, int64[...]."""
        return F.embedding(self.of(users), self.table)


class UserEmbedding(nn.Module):
    """What a user is: something of its own where seen in training, its attributes, the clusters it belongs to."""

    def __init__(
        self,
        num_users: int,
        own: nn.Embedding | StuEmbedding,
        categories: tuple[int, ...],
        numeric: int,
        clusters: Clusters | None = None,
    ):
        """own: rows of some width, a row a user, the last for somebody without one; only that one: nobody has any.

        clusters: of that width, whose mixture is added to a user.
        """
        super().__init__()
        width = own.embedding_dim
        self.own = own
        # Tokens are everybody's: who has them is told by the table of STUs, not by the weights.
        known = torch.full((num_users,), own.num_embeddings > 1)
        self.register_buffer("known", known, persistent=isinstance(own, nn.Embedding))
        self.categories = nn.ModuleList(nn.Embedding(size, width) for size in categories)
        self.numeric = nn.Linear(numeric, width, bias=False) if numeric else None
        self.register_buffer("categorical", torch.zeros(1, len(categories), dtype=torch.long), persistent=False)
        self.register_buffer("numbers", torch.zeros(1, numeric), persistent=False)
        self.known: Tensor
        self.categorical: Tensor
        self.numbers: Tensor
        for table in self.modules():
            if isinstance(table, nn.Embedding):
                nn.init.normal_(table.weight, std=NEUTRAL)
        self.clusters = clusters

    def rows(self, dropout: float = 0.0) -> Rows:
        """What users are of their own; some are left out in training. One draw serves a whole step."""
        nobody = self.own.num_embeddings - 1
        known = self.known
        if dropout and self.training:
            known = known & (torch.rand(len(known), device=known.device) >= dropout)
        rows = torch.where(known, torch.arange(len(known), device=known.device), nobody)
        return Rows(torch.cat([rows, rows.new_tensor([nobody])]), self.own.weight)

    def describe(self, categorical: Tensor, numeric: Tensor) -> None:
        """Sets the attributes of N users: int64[N, C], 0 for unknown; float32[N, M], standardised."""
        self.categorical = F.pad(categorical, (0, 0, 0, 1)).to(self.known.device)  # the last row: nothing known
        self.numbers = F.pad(numeric, (0, 0, 0, 1)).to(self.known.device)

    def forward(self, users: Tensor, rows: Rows) -> Tensor:
        """users: int64[...]. Returns float32[..., width]."""
        out = self.alone(users, rows)
        return out if self.clusters is None else out + self.clusters(out)

    def alone(self, users: Tensor, rows: Rows) -> Tensor:
        """As `forward`, but for the clusters."""
        out = rows(users)
        if self.categories or self.numeric is not None:
            described = users.clamp(max=len(self.categorical) - 1)
            for k, table in enumerate(self.categories):
                out = out + table(self.categorical[described, k])
            if self.numeric is not None:
                out = out + self.numeric(self.numbers[described])
        return out
