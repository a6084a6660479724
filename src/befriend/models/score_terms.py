"""Score terms that change with time: the dynamic term of a target and the pointer term of a pair.

The dynamic term scores a target's recent activity. It is an inner product, so a nearest-neighbor index can serve it: as
time passes, only the vectors of targets are computed again. The pointer term scores an actor and a target who have had
events with each other. An actor has had events with few users, so it is computed for these pairs alone.

Shapes: P queries; K targets of each; F features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from befriend.nn.layers import Standardise


class DynamicTargetFeatures(nn.Module):
    """Vector of a target as of a cutoff: standardised activity features, concatenated with a hidden layer of them."""

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
        """float32[P, K]: inner products of queries with the vectors of targets.

        query: float32[P, width]; features: float32[P, K, F], of the targets. Equal to products with the output of
        `forward`, but does not concatenate the features, which need no gradient, with the hidden layer, which does. So
        no gradient of the features is computed.
        """
        features = self.standardise(features)
        feature_query, hidden_query = query.split([features.shape[-1], self.hidden.out_features], -1)
        return row_wise_dot(feature_query, features) + row_wise_dot(hidden_query, self.hidden(features).relu())


def row_wise_dot(query: Tensor, vectors: Tensor) -> Tensor:
    """float32[P, K]: inner products of each query with its K vectors. query: float32[P, D]; vectors: float32[P, K,
    D]."""
    return torch.bmm(query[:, None], vectors.transpose(1, 2)).squeeze(1)


class Pointer(nn.Module):
    """Pointer term: extra score of a user in the actor's history, from the query and from the past events of the two.

    Like a pointer network (Vinyals et al. 2015), it points into the history, with one score for each distinct user
    instead of one for each event.
    """

    def __init__(self, num_features: int, num_edge_types: int, query_dim: int, hidden_dim: int = 32):
        super().__init__()
        self.standardise = Standardise(num_features)
        self.first = nn.Linear(num_features, hidden_dim)
        self.kind = nn.Embedding(num_edge_types, hidden_dim)  # of the edge type
        self.query = nn.Linear(query_dim, hidden_dim)
        self.second = nn.Linear(hidden_dim, 1)
        nn.init.normal_(self.kind.weight, std=0.1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, query: Tensor, features: Tensor, edge_types: Tensor) -> Tensor:
        """float32[...]: the scores of pairs of an actor and a user in its history.

        query: float32[..., D], the actor's; features: float32[..., F], of the pairs; edge_types: int64[...], codes of
        action and direction of the pairs' last events, see `Activity.edge_types`.
        """
        hidden = self.first(self.standardise(features)) + self.kind(edge_types) + self.query(query)
        return self.second(F.gelu(hidden)).squeeze(-1)
