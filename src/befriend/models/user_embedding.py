"""Static vectors of users: from an embedding or tokens, attributes and clusters. No new event changes them.

STU stands for social tokenized user id: the semantic ID of a user, L tokens from the L levels of a residual quantizer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from befriend.models.user_clusters import SoftClusters

INIT_STD = 0.01  # standard deviation of initial embeddings: small, as most users have few events to learn from


class StuEmbedding(nn.Module):
    """Embeddings of N users, each the mean of the embeddings of its tokens. Each level has a table of token embeddings.

    The vector `nobody` is the embedding of users without an STU.
    """

    def __init__(self, vocabulary: tuple[int, ...], width: int, stus: Tensor | None = None):
        """vocabulary: L numbers of tokens; width: D, of an embedding; stus: int64[N, L], by internal id."""
        super().__init__()
        self.embedding_dim = width
        self.tables = nn.ModuleList(nn.Embedding(size, width) for size in vocabulary)
        self.nobody = nn.Parameter(torch.zeros(width))
        self.register_buffer("stus", torch.zeros(0, len(vocabulary)).long() if stus is None else stus, persistent=False)
        self.stus: Tensor

    @property
    def num_embeddings(self) -> int:
        """N + 1, as for a table with one row per user and a last row for users without an STU."""
        return len(self.stus) + 1

    def table(self, level: int) -> Tensor:
        """float32[V, D]: the token embeddings of a level."""
        table = self.tables[level]
        assert isinstance(table, nn.Embedding)
        return table.weight

    def tokens(self, stus: Tensor) -> Tensor:
        """float32[..., l, D]: the token embeddings of prefixes of l tokens, or of STUs (l = L). stus: int64[..., l]."""
        num_levels = stus.shape[-1]
        vectors = [table(stus[..., level]) for level, table in zip(range(num_levels), self.tables, strict=False)]
        return torch.stack(vectors, -2) if vectors else self.nobody.new_zeros(*stus.shape, self.embedding_dim)

    def mean(self, stus: Tensor) -> Tensor:
        """float32[..., D]: the mean of the token embeddings of STUs. stus: int64[..., L]."""
        return self.tokens(stus).mean(-2)

    @property
    def weight(self) -> Tensor:
        """float32[N + 1, D]: the embeddings of all users, like the weight of an `nn.Embedding`. Computed at each
        call."""
        return torch.cat([self.mean(self.stus), self.nobody[None]])


@dataclass(frozen=True)
class EmbeddingLookup:
    """The embeddings of all users, in one training step or at inference: a table, and the row of each user.

    A user whose embedding a training step drops has the last row, like users without an embedding.
    """

    row_of_user: Tensor
    """int64[N + 1], row of each user by internal id; the last entry is for users who joined after training"""
    table: Tensor
    """float32[R, D], embeddings; the last row is for users without one"""

    def row_index(self, users: Tensor) -> Tensor:
        """int64[...]: the rows of users in the table. users: int64[...], internal ids, also of later users."""
        return self.row_of_user[users.clamp(max=len(self.row_of_user) - 1)]

    def __call__(self, users: Tensor) -> Tensor:
        """float32[..., D]: the embeddings of users. users: int64[...], internal ids, also of later users."""
        return F.embedding(self.row_index(users), self.table)


class UserEmbedding(nn.Module):
    """Static vector of a user: the sum of its own embedding, and the vectors of its attributes and clusters.

    Users who joined after training have no embedding of their own, except with STUs.
    """

    def __init__(
        self,
        num_users: int,
        embedding: nn.Embedding | StuEmbedding,
        categories: tuple[int, ...],
        numeric: int,
        clusters: SoftClusters | None = None,
    ):
        """num_users: N, the users known in training; embedding: one row per user, and a last row for users without an
        embedding; a table with a single row means that no user has one.

        categories: number of labels of each categorical attribute; numeric: number of numeric inputs; clusters: soft
        clusters of the same width as the embedding. The mixture of cluster centres of a user is added to its vector.
        """
        super().__init__()
        width = embedding.embedding_dim
        self.id_embedding = embedding
        # With STUs, all users of their table have an embedding, so `has_embedding` is not saved.
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

    def lookup(self, dropout: float = 0.0) -> EmbeddingLookup:
        """The embeddings of all users, to be passed to `forward`. Call it once for each training step.

        dropout: share of users whose embeddings are dropped in this step (ID dropout); only in train mode.
        """
        last_row = self.id_embedding.num_embeddings - 1
        has_row = self.has_embedding
        if dropout and self.training:
            has_row = has_row & (torch.rand(len(has_row), device=has_row.device) >= dropout)
        row_of_user = torch.where(has_row, torch.arange(len(has_row), device=has_row.device), last_row)
        return EmbeddingLookup(torch.cat([row_of_user, row_of_user.new_tensor([last_row])]), self.id_embedding.weight)

    def set_attributes(self, categorical: Tensor, numeric: Tensor) -> None:
        """Sets the attributes of all users of the log. Users with larger ids get 0 in all columns.

        categorical: int64[users, C], label indices, 0 for unknown; numeric: float32[users, M], standardised inputs.
        """
        self.categorical = F.pad(categorical, (0, 0, 0, 1)).to(self.has_embedding.device)
        self.numeric_values = F.pad(numeric, (0, 0, 0, 1)).to(self.has_embedding.device)

    def forward(self, users: Tensor, lookup: EmbeddingLookup) -> Tensor:
        """float32[..., D]: the static vectors of users. users: int64[...], internal ids; lookup: of this step."""
        out = self.without_clusters(users, lookup)
        return out if self.clusters is None else out + self.clusters(out)

    def without_clusters(self, users: Tensor, lookup: EmbeddingLookup) -> Tensor:
        """As `forward`, without the clusters."""
        out = lookup(users)
        if self.categories or self.numeric is not None:
            attribute_row = users.clamp(max=len(self.categorical) - 1)
            for k, table in enumerate(self.categories):
                out = out + table(self.categorical[attribute_row, k])
            if self.numeric is not None:
                out = out + self.numeric(self.numeric_values[attribute_row])
        return out
