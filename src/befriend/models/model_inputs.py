"""Inputs and queries of the models, as dataclasses of tensors: histories, positions, targets, pairs, queries.

Two kinds of rows occur. A batch has B rows, the histories. It has P positions, each in one of the histories; queries,
scores and losses have one row per position. `Positions.row` leads from a position to its history.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from befriend.nn.tensors import TensorBatch, used_rows


@dataclass(frozen=True)
class NextTargetPredictionBatch(TensorBatch):
    """Histories of B actors, and for each actor the event that came next. None: not known."""

    actor_id: Tensor
    """int64[B]"""
    actor_history_actions: Tensor
    """int64[B, N]"""
    actor_history_targets: Tensor
    """int64[B, N], the other user of each event"""
    actor_history_mask: Tensor
    """bool[B, N], True where there is an event; histories are padded at the beginning"""
    example_action: Tensor
    """int64[B], HIDDEN where unknown"""
    example_target: Tensor
    """int64[B]"""
    actor_history_received: Tensor | None = None
    """bool[B, N], True where the other user acted"""
    actor_history_timestamps: Tensor | None = None
    """int64[B, N], UTC seconds"""


@dataclass(frozen=True)
class Positions(TensorBatch):
    """P positions in the histories of a batch, at each of which the next target is predicted."""

    row: Tensor
    """int64[P], the history of each position, as a row of the batch"""
    state: Tensor
    """int64[P], 0 to N: how many columns of the history are visible, and so the state of the encoder to read"""
    action: Tensor
    """int64[P], HIDDEN where unknown"""
    target: Tensor
    """int64[P]"""
    regime: Tensor | None = None
    """int64[P], index into the regimes; None: streaming"""
    features: Tensor | None = None
    """float32[P, F], activity features of the actor"""
    grad_mask: Tensor | None = None
    """bool[P], whether this position also trains user embeddings and history encoder; None: all do"""


@dataclass(frozen=True)
class DedupedTextVectors(TensorBatch):
    """Text vectors of users, each distinct vector stored once: a batch repeats users and cutoffs."""

    index: Tensor
    """int64[...], row of `vectors` for each user, 0 for users without a text"""
    vectors: Tensor
    """float32[U + 1, E]; row 0 is zero"""

    @classmethod
    def of(cls, text_row: Tensor, vectors: Tensor) -> Self:
        """text_row: int64[...], row of `vectors` for each user, -1 for none; vectors: float32[S, E].

        Keeps the used rows only, after a zero row for users without a text:

        >>> texts = DedupedTextVectors.of(torch.tensor([[2, -1], [2, 0]]), torch.tensor([[1.0], [2.0], [3.0]]))
        >>> texts.index.tolist(), texts.vectors.tolist()
        ([[2, 0], [2, 1]], [[0.0], [1.0], [3.0]])
        """
        used, index = used_rows(F.pad(text_row.flatten() + 1, (1, 0)), len(vectors) + 1)
        return cls(index[1:].view(text_row.shape), F.pad(vectors[used[1:] - 1], (0, 0, 1, 0)))

    def concat(self, other: Self) -> Self:
        """Both, joined along the second dimension of `index`."""
        other_index = torch.where(other.index > 0, other.index + len(self.vectors) - 1, 0)
        vectors = torch.cat([self.vectors, other.vectors[1:]])
        return replace(self, index=torch.cat([self.index, other_index], 1), vectors=vectors)

    def scores(self, query: Tensor) -> Tensor:
        """float32[P, K]: inner products of P queries, float32[P, E], with the text vectors of K users each."""
        return (query @ self.vectors.T).gather(1, self.index)


@dataclass(frozen=True)
class Targets(TensorBatch):
    """The inputs of users as candidates, as of a cutoff, true targets and negatives alike. None: not known.

    Shapes: [P, K] for the K candidates of each position, [C] for candidates shared by all positions.
    """

    users: Tensor
    """int64[...], internal ids"""
    recent_neighbors: Tensor | None = None
    """int64[..., m], the users each candidate was last in contact with, padded with -1"""
    features: Tensor | None = None
    """float32[..., F], activity features of the candidates"""
    text_vectors: DedupedTextVectors | None = None
    """text vectors of the candidates, with an index int64[...]"""


@dataclass(frozen=True)
class PairFeatures(TensorBatch):
    """Past events of pairs: an actor and one of its candidates."""

    is_history_candidate: Tensor
    """bool[...], whether the user is a history candidate of the actor: only these pairs get the pointer term"""
    features: Tensor
    """float32[..., F], pair features"""
    edge_types: Tensor
    """int64[...], action and direction of the pair's last event, see `Activity.edge_types`; 0 without an event"""


@dataclass(frozen=True)
class Query(TensorBatch):
    """Queries of P positions: one vector for each term of the score."""

    static: Tensor
    """float32[P, D], for the static term: two-tower: multiplied with user embeddings; STU: read by the token towers"""
    neighbor: Tensor | None
    """float32[P, D], for the neighbor term: multiplied with the embeddings of a target's recent neighbors"""
    dynamic: Tensor | None
    """float32[P, T], for the dynamic term: multiplied with a target's dynamic features"""
    hidden: Tensor
    """float32[P, D], input of the pointer term"""
    grad_mask: Tensor | None = None
    """bool[P], as in Positions"""
    dropped_targets: Tensor | None = None
    """bool[P, N], users whose static score this training step replaces by that of a uniform choice; None: no users"""

    def select(self, rows: slice | Tensor) -> Query:
        """The queries of these positions."""
        neighbor, dynamic = (None if x is None else x[rows] for x in (self.neighbor, self.dynamic))
        return Query(self.static[rows], neighbor, dynamic, self.hidden[rows])

    def to_dtype(self, dtype: torch.dtype) -> Query:
        """The same queries in another precision."""
        neighbor, dynamic = (None if x is None else x.to(dtype) for x in (self.neighbor, self.dynamic))
        return Query(self.static.to(dtype), neighbor, dynamic, self.hidden.to(dtype))

    def vector(self) -> Tensor:
        """float32[P, W]: all terms; the inner product with `target_vectors` is the score without the pointer term."""
        return torch.cat([self.static, self.time_dependent()], -1)

    def time_dependent(self) -> Tensor:
        """float32[P, W']: the terms that change with time, neighbor and dynamic; W' may be 0."""
        terms = [term for term in (self.neighbor, self.dynamic) if term is not None]
        return torch.cat(terms, -1) if terms else self.static.new_zeros(len(self.static), 0)
