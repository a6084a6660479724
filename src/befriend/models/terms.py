"""Terms of the score that change with time: what a target has been doing lately, and one's own contacts.

The first is an inner product, so that an index can serve it: only the target's vector is made anew as time goes by.
The second belongs to single pairs, of which a user has few: it is added to those by hand.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from befriend.models.layers import Standardise


class TargetMoment(nn.Module):
    """A target at a moment, as a vector: its standardised features and what a small network makes of them."""

    def __init__(self, features: int, hidden: int = 32):
        super().__init__()
        self.standardise = Standardise(features)
        self.hidden = nn.Linear(features, hidden)
        self.width = features + hidden

    def forward(self, features: Tensor) -> Tensor:
        """features: float32[..., F]. Returns float32[..., width]."""
        features = self.standardise(features)
        return torch.cat([features, self.hidden(features).relu()], -1)

    def scores(self, query: Tensor, features: Tensor) -> Tensor:
        """float32[P, K]: inner products of queries, float32[P, width], with the vectors of features, float32[P, K, F].

        The vectors are never put together: no gradient goes to the larger part of them.
        """
        features = self.standardise(features)
        as_told, as_made = query.split([features.shape[-1], self.hidden.out_features], -1)
        return each(as_told, features) + each(as_made, self.hidden(features).relu())


def each(query: Tensor, vectors: Tensor) -> Tensor:
    """float32[P, K]: inner products of queries, float32[P, D], each with vectors of its own, float32[P, K, D]."""
    return torch.bmm(query[:, None], vectors.transpose(1, 2)).squeeze(1)


class Pointer(nn.Module):
    """The extra score of somebody from one's own history, by what happened between the two and by the query.

    In the place of a copy mechanism over history entries (Vinyals et al. 2015), one score for each distinct contact.
    """

    def __init__(self, features: int, kinds: int, query: int, hidden: int = 32):
        super().__init__()
        self.standardise = Standardise(features)
        self.first = nn.Linear(features, hidden)
        self.kind = nn.Embedding(kinds, hidden)
        self.query = nn.Linear(query, hidden)
        self.second = nn.Linear(hidden, 1)
        nn.init.normal_(self.kind.weight, std=0.1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, query: Tensor, features: Tensor, kinds: Tensor) -> Tensor:
        """query: float32[..., Q]; features: float32[..., F]; kinds: int64[...]. Returns float32[...]."""
        hidden = self.first(self.standardise(features)) + self.kind(kinds) + self.query(query)
        return self.second(F.gelu(hidden)).squeeze(-1)
