"""Static vectors of users: their embedding or tokens, attributes and clusters; nothing that changes with time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from befriend.models.user_clusters import SoftClusters

INIT_STD = 0.01  # standard deviation of fresh user embeddings: small, as most users have few events to learn from


class StuEmbedding(nn.Module):
    """Users as the mean of their token embeddings, one table for each level; the last row is for users without STU."""

    def __init__(self, vocabulary: tuple[int, ...], width: int, stus: Tensor | None = None):
        """vocabulary: L sizes; stus: int64[N, L], by internal id."""
        super().__init__()
        self.embedding_dim = width
        self.tables = nn.ModuleList(nn.Embedding(size, width) for size in vocabulary)
        self.nobody = nn.Parameter(torch.zeros(width))
        self.register_buffer("stus", torch.zeros(0, len(vocabulary)).long() if stus is None else stus, persistent=False)
        self.stus: Tensor

    @property
    def num_embeddings(self) -> int:
        """N + 1, as of a table with one row per user and one for users without STU."""
        return len(self.stus) + 1

    def table(self, level: int) -> Tensor:
        """float32[V, D]: the token embeddings of a level."""
        table = self.tables[level]
        assert isinstance(table, nn.Embedding)
        return table.weight

    def tokens(self, stus: Tensor) -> Tensor:
        """float32[..., l, D]: token embeddings of prefixes of STUs, int64[..., l]."""
        levels = stus.shape[-1]
        vectors = [table(stus[..., level]) for level, table in zip(range(levels), self.tables, strict=False)]
        return torch.stack(vectors, -2) if vectors else self.nobody.new_zeros(*stus.shape, self.embedding_dim)

    def mean(self, stus: Tensor) -> Tensor:
        """float32[..., D]: mean token embeddings of whole STUs, int64[..., L]."""
        return self.tokens(stus).mean(-2)

    @property
    def weight(self) -> Tensor:
        """float32[N + 1, D]: one row per user, like the weight of an `nn.Embedding`; computed at each call."""
        return torch.cat([self.mean(self.stus), self.nobody[None]])


@dataclass(frozen=True)
class EmbeddingRows:
    """The embeddings of users in one step: a table, and the row of each user in it."""

    number: Tensor
    """int64[num_users + 1], row of each user; the last entry is for users who joined later"""
    table: Tensor
    """float32[R, D]; the last row is for users without an embedding"""

    def of(self, users: Tensor) -> Tensor:
        """int64[...]: rows of users, int64[...], which may be any number of at least 0."""
        return self.number[users.clamp(max=len(self.number) - 1)]

    def __call__(self, users: Tensor) -> Tensor:
        """float32[..., D]: embeddings of users, int64[...]."""
        return F.embedding(self.of(users), self.table)


class UserEmbedding(nn.Module):
    """Static vector of a user: the sum of its embedding (users seen in training), its attributes and its clusters."""

    def __init__(
        self,
        num_users: int,
        embedding: nn.Embedding | StuEmbedding,
        categories: tuple[int, ...],
        numeric: int,
        clusters: SoftClusters | None = None,
    ):
        """embedding: one row per user, the last row for users without one; a single row: no user has an embedding.

        categories, numeric: sizes of the categorical attributes, and number of numeric ones; clusters: of the same
        width as the embedding; a user's mixture of them is added.
        """
        super().__init__()
        width = embedding.embedding_dim
        self.id_embedding = embedding
        # Users share tokens, and the table of STUs says who has which: the buffer is then no part of the weights.
        has_embedding = torch.full((num_users,), embedding.num_embeddings > 1)
        self.register_buffer("has_embedding", has_embedding, persistent=isinstance(embedding, nn.Embedding))
        self.categories = nn.ModuleList(nn.Embedding(size, width) for size in categories)
        self.numeric = nn.Linear(numeric, width, bias=False) if numeric else None
        self.register_buffer("categorical", torch.zeros(1, len(categories), dtype=torch.long), persistent=False)
        self.register_buffer("numeric_values", torch.zeros(1, numeric), persistent=False)
        self.has_embedding: Tensor
        self.categorical: Tensor
        self.numeric_values: Tensor
        for table in self.modules():
            if isinstance(table, nn.Embedding):
                nn.init.normal_(table.weight, std=INIT_STD)
        self.clusters = clusters

    def rows(self, dropout: float = 0.0) -> EmbeddingRows:
        """The row of each user; in training, a share `dropout` of users has none. Draw once for each training step."""
        last = self.id_embedding.num_embeddings - 1
        has_row = self.has_embedding
        if dropout and self.training:
            has_row = has_row & (torch.rand(len(has_row), device=has_row.device) >= dropout)
        rows = torch.where(has_row, torch.arange(len(has_row), device=has_row.device), last)
        return EmbeddingRows(torch.cat([rows, rows.new_tensor([last])]), self.id_embedding.weight)

    def set_attributes(self, categorical: Tensor, numeric: Tensor) -> None:
        """Sets the attributes of N users: int64[N, C], 0 for unknown; float32[N, M], standardised."""
        self.categorical = F.pad(categorical, (0, 0, 0, 1)).to(self.has_embedding.device)  # last row: later users
        self.numeric_values = F.pad(numeric, (0, 0, 0, 1)).to(self.has_embedding.device)

    def forward(self, users: Tensor, rows: EmbeddingRows) -> Tensor:
        """users: int64[...]. Returns their static vectors, float32[..., width]."""
        out = self.without_clusters(users, rows)
        return out if self.clusters is None else out + self.clusters(out)

    def without_clusters(self, users: Tensor, rows: EmbeddingRows) -> Tensor:
        """As `forward`, without the clusters."""
        out = rows(users)
        if self.categories or self.numeric is not None:
            attribute_row = users.clamp(max=len(self.categorical) - 1)
            for k, table in enumerate(self.categories):
                out = out + table(self.categorical[attribute_row, k])
            if self.numeric is not None:
                out = out + self.numeric(self.numeric_values[attribute_row])
        return out
