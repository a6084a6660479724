"""Score terms that change with time: the dynamic term of a target, and the terms of pairs of an actor and a target.

The dynamic term scores a target's recent activity. It is an inner product, so a nearest-neighbor index can serve it: as
time passes, only the vectors of targets are computed again. The other two terms score pairs: the pointer term an actor
and a target who have had events with each other, the two-hop term an actor and a target with common contacts. These are
few of all users, so both terms are computed for such pairs alone.

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


class PairTerm(nn.Module):
    """Extra score of a pair of an actor and a user, from the query and the features of the pair.

    As pointer term, of users in the actor's history, it points into the history like a pointer network (Vinyals et al.
    2015), with one score for each distinct user instead of one for each event.
    """

    def __init__(self, num_features: int, query_dim: int, num_edge_types: int = 0, hidden_dim: int = 32):
        """num_edge_types: number of codes of action and direction of the pairs' last events; 0: they have none."""
        super().__init__()
        self.standardise = Standardise(num_features)
        self.first = nn.Linear(num_features, hidden_dim)
        self.kind = nn.Embedding(num_edge_types, hidden_dim) if num_edge_types else None
        self.query = nn.Linear(query_dim, hidden_dim)
        self.second = nn.Linear(hidden_dim, 1)
        if self.kind is not None:
            nn.init.normal_(self.kind.weight, std=0.1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(
        self, query: Tensor, features: Tensor, edge_types: Tensor | None = None, row: Tensor | None = None
    ) -> Tensor:
        """float32[...]: the scores of pairs.

        query: float32[..., D], the actor's; features: float32[..., F], of the pairs; edge_types: int64[...], codes of
        action and direction of the pairs' last events, see `Activity.edge_types`; row: int64[n], the query of each of n
        pairs, None: query and features are broadcast against each other.
        """
        from_query = self.query(query)
        hidden = self.first(self.standardise(features)) + (
            from_query if row is None else from_query.index_select(0, row)
        )
        if self.kind is not None:
            assert edge_types is not None
            hidden = hidden + self.kind(edge_types)
        return self.second(F.gelu(hidden)).squeeze(-1)
