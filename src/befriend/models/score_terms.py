"""Score terms that change with time: the dynamic term of a target and the pointer term of a pair.

The dynamic term is an inner product, so an index can serve it: only the vectors of targets are recomputed over time.
The pointer term scores pairs of users with common events. A user has few of them, so it is added pair by pair.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from befriend.nn.layers import Standardise


class DynamicTargetFeatures(nn.Module):
    """Vector of a target as of a cutoff: its standardised activity features, and a small network's output for them."""

    def __init__(self, num_features: int, hidden_dim: int = 32):
        super().__init__()
        self.standardise = Standardise(num_features)
        self.hidden = nn.Linear(num_features, hidden_dim)
        self.width = num_features + hidden_dim

    def forward(self, features: Tensor) -> Tensor:
        """features: float32[..., F]. Returns float32[..., width]."""
        features = self.standardise(features)
        return torch.cat([features, self.hidden(features).relu()], -1)

    def scores(self, query: Tensor, features: Tensor) -> Tensor:
        """float32[P, K]: inner products of queries, float32[P, width], with the vectors of features, float32[P, K, F].

        The two parts of the vectors are never concatenated: the features, the larger part, need no gradient.
        """
        features = self.standardise(features)
        feature_query, hidden_query = query.split([features.shape[-1], self.hidden.out_features], -1)
        return row_wise_dot(feature_query, features) + row_wise_dot(hidden_query, self.hidden(features).relu())


def row_wise_dot(query: Tensor, vectors: Tensor) -> Tensor:
    """float32[P, K]: inner products of P queries, float32[P, D], with K vectors each, float32[P, K, D]."""
    return torch.bmm(query[:, None], vectors.transpose(1, 2)).squeeze(1)


class Pointer(nn.Module):
    """Pointer term: extra score of a user in the actor's history, from the pair's past events and the query.

    Replaces a copy mechanism over history entries (Vinyals et al. 2015) by one score for each distinct contact.
    """

    def __init__(self, num_features: int, num_edge_types: int, query_dim: int, hidden_dim: int = 32):
        super().__init__()
        self.standardise = Standardise(num_features)
        self.first = nn.Linear(num_features, hidden_dim)
        self.kind = nn.Embedding(num_edge_types, hidden_dim)
        self.query = nn.Linear(query_dim, hidden_dim)
        self.second = nn.Linear(hidden_dim, 1)
        nn.init.normal_(self.kind.weight, std=0.1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, query: Tensor, features: Tensor, edge_types: Tensor) -> Tensor:
        """query: float32[..., Q]; features: float32[..., F]; edge_types: int64[...]. Returns float32[...], of pairs."""
        hidden = self.first(self.standardise(features)) + self.kind(edge_types) + self.query(query)
        return self.second(F.gelu(hidden)).squeeze(-1)
