"""Inputs and queries of the models, as dataclasses of tensors: histories, positions, candidates, pairs, queries.

A batch has B histories of actors, with N columns, one per event. A *position* is a place in a history at which the next
target is predicted; a batch has P of them, several per history. Queries, scores and losses have one row per position,
and `Positions.row` is the history of each. An actor contacts a target; a candidate, the target or another user, is
scored as a target.
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
    """Histories of B actors, and for each actor the event to predict after it, the example."""

    actor_id: Tensor
    """int64[B]"""
    actor_history_actions: Tensor
    """int64[B, N]"""
    actor_history_targets: Tensor
    """int64[B, N], the other user of each event: its target, or its actor if the history's user received it"""
    actor_history_mask: Tensor
    """bool[B, N], True where there is an event; histories are padded at the beginning"""
    example_action: Tensor
    """int64[B], action of the example, UNKNOWN_ACTION where unknown"""
    example_target: Tensor
    """int64[B], target of the example"""
    actor_history_received: Tensor | None = None
    """bool[B, N], True where the other user acted; None: nowhere"""
    actor_history_timestamps: Tensor | None = None
    """int64[B, N], UTC seconds; None: the encoder ignores time"""


@dataclass(frozen=True)
class STUBatch(TensorBatch):
    """As `NextTargetPredictionBatch`, with users as STUs (social tokenized user ids): semantic IDs of L tokens each."""

    actor_stu: Tensor
    """int64[B, L]"""
    actor_history_actions: Tensor
    """int64[B, N]"""
    actor_history_targets: Tensor
    """int64[B, L * N], the L tokens of the other user of each event, one event after the other"""
    actor_history_mask: Tensor
    """bool[B, N], True where there is an event; histories are padded at the beginning"""
    example_action: Tensor
    """int64[B], action of the example, UNKNOWN_ACTION where unknown"""
    example_target_stu: Tensor
    """int64[B, L], target of the example"""
    actor_history_received: Tensor | None = None
    """bool[B, N], True where the other user acted; None: nowhere"""
    actor_history_timestamps: Tensor | None = None
    """int64[B, N], UTC seconds; None: the encoder ignores time"""


@dataclass(frozen=True)
class Positions(TensorBatch):
    """P positions in the histories of a batch, at each of which the next target is predicted."""

    row: Tensor
    """int64[P], the history of each position, as a row of the batch"""
    state: Tensor
    """int64[P], 0 to N: the number of columns of the history, with padding, that are visible. It is the index of the
    encoder state (the encoder's output after these columns) that the position reads"""
    action: Tensor
    """int64[P], action of the event to predict, UNKNOWN_ACTION where it is not known"""
    target: Tensor
    """int64[P], the true target"""
    regime: Tensor | None = None
    """int64[P], index into `data.regimes.REGIMES`, which say how recent the visible events are; None: the query does
    not depend on a regime"""
    features: Tensor | None = None
    """float32[P, F + E], features of the actor: F activity features, then, if the model uses texts, the text vector"""
    grad_mask: Tensor | None = None
    """bool[P], the positions that train user embeddings and history encoder; None: all"""


@dataclass(frozen=True)
class DedupedTextVectors(TensorBatch):
    """Text vectors of users, each vector stored once, because a batch repeats the same users and cutoffs."""

    index: Tensor
    """int64[...], row of `vectors` for each user, 0 for users without a text"""
    vectors: Tensor
    """float32[U + 1, E]; row 0 is zero"""

    @classmethod
    def of(cls, text_row: Tensor, vectors: Tensor) -> Self:
        """Selects the rows that are used. text_row: int64[...], row of `vectors` for each user, -1 for a user without a
        text; vectors: float32[S, E].

        The first row of the result is zero, for users without a text. Here row 1 is not used:

        >>> texts = DedupedTextVectors.of(torch.tensor([[2, -1], [2, 0]]), torch.tensor([[1.0], [2.0], [3.0]]))
        >>> texts.index.tolist(), texts.vectors.tolist()
        ([[2, 0], [2, 1]], [[0.0], [1.0], [3.0]])
        """
        used, index = used_rows(F.pad(text_row.flatten() + 1, (1, 0)), len(vectors) + 1)
        return cls(index[1:].view(text_row.shape), F.pad(vectors[used[1:] - 1], (0, 0, 1, 0)))

    def concat(self, other: Self) -> Self:
        """The text vectors of both, joined along the second dimension of `index`. A vector of both is stored twice."""
        other_index = torch.where(other.index > 0, other.index + len(self.vectors) - 1, 0)
        vectors = torch.cat([self.vectors, other.vectors[1:]])
        return replace(self, index=torch.cat([self.index, other_index], 1), vectors=vectors)

    def scores(self, query: Tensor) -> Tensor:
        """float32[P, K]: inner products of P queries, float32[P, E], with the text vectors of K users each."""
        return (query @ self.vectors.T).gather(1, self.index)


@dataclass(frozen=True)
class CandidateInputs(TensorBatch):
    """Inputs of users as candidates, as of the cutoff of a query: true targets and negatives alike. None: unknown.

    The cutoff is the UTC second before which events are visible. Shapes [...]: [P, K] for K candidates of each
    position. For C candidates that all positions share, `users` is [C], and the other fields are [P, C], because
    positions have different cutoffs; with one cutoff for all, every field is [C].
    """

    users: Tensor
    """int64[...], internal ids"""
    recent_neighbors: Tensor | None = None
    """int64[..., m], the other users of each candidate's last m events, padded with -1"""
    features: Tensor | None = None
    """float32[..., F], activity features of the candidates; unlike `Positions.features` without text vectors"""
    text_vectors: DedupedTextVectors | None = None
    """text vectors of the candidates"""


@dataclass(frozen=True)
class PairFeatures(TensorBatch):
    """Features of n pairs of an actor and a candidate, few of all [P, K] pairs."""

    row: Tensor
    """int64[n], the position whose actor it is"""
    column: Tensor
    """int64[n], the candidate of the position"""
    features: Tensor
    """float32[n, F]"""
    edge_types: Tensor | None = None
    """int64[n], code of action and direction of the pair's last event, see `Activity.edge_types`"""

    def concat(self, other: PairFeatures) -> PairFeatures:
        """These pairs and the others, of the same positions."""
        edge_types = None
        if self.edge_types is not None:
            assert other.edge_types is not None
            edge_types = torch.cat([self.edge_types, other.edge_types])
        row, column = torch.cat([self.row, other.row]), torch.cat([self.column, other.column])
        return PairFeatures(row, column, torch.cat([self.features, other.features]), edge_types)


@dataclass(frozen=True)
class CandidatePairs(TensorBatch):
    """The pairs of an actor and a candidate that have a term of the score of their own."""

    history: PairFeatures
    """pointer term: candidates among the users of the actor's latest events; see `Activity.pair_features`"""
    two_hop: PairFeatures
    """two-hop term: other candidates, with common contacts; see `features.two_hop.log_features`"""


@dataclass(frozen=True)
class Query(TensorBatch):
    """Queries of P positions: one vector for each term of the score of a candidate.

    The score is the sum of the terms, which `models.query_tower` defines.
    """

    static: Tensor
    """for the static term. Two-tower model: float32[P, D], multiplied with user embeddings; STU model: float32[P, H],
    read by the towers that score tokens"""
    neighbor: Tensor | None
    """float32[P, D], for the neighbor term: multiplied with the mean embedding of a candidate's recent neighbors"""
    dynamic: Tensor | None
    """float32[P, T], for the dynamic term: multiplied with a vector of a candidate's recent activity and texts"""
    hidden: Tensor
    """float32[P, D], for pointer and two-hop term: their input, together with the features of the pair"""
    grad_mask: Tensor | None = None
    """bool[P], as in `Positions`"""
    dropped_targets: Tensor | None = None
    """bool[P, users], STU model: users whose static score this training step replaces by that of a uniform choice;
    None: no users"""

    def select(self, rows: slice | Tensor) -> Query:
        """The queries of these positions, for inference: without `grad_mask` and `dropped_targets`."""
        neighbor, dynamic = (None if x is None else x[rows] for x in (self.neighbor, self.dynamic))
        return Query(self.static[rows], neighbor, dynamic, self.hidden[rows])

    def to_dtype(self, dtype: torch.dtype) -> Query:
        """The queries in another precision, for inference: without `grad_mask` and `dropped_targets`."""
        neighbor, dynamic = (None if x is None else x.to(dtype) for x in (self.neighbor, self.dynamic))
        return Query(self.static.to(dtype), neighbor, dynamic, self.hidden.to(dtype))

    def vector(self) -> Tensor:
        """float32[P, W]: all terms but those of pairs, of the two-tower model.

        Scores are inner products with its `target_vectors`.
        """
        return torch.cat([self.static, self.time_dependent()], -1)

    def time_dependent(self) -> Tensor:
        """float32[P, W']: the terms that change with time, neighbor and dynamic. W' may be 0."""
        terms = [term for term in (self.neighbor, self.dynamic) if term is not None]
        return torch.cat(terms, -1) if terms else self.static.new_zeros(len(self.static), 0)
