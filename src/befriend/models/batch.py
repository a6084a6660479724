"""What goes into the two-tower model and what it asks for, as dataclasses of tensors."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F


def distinct(rows: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """int64[U], the rows of a table of this size that there are, ascending; int64[...], the place of each among them.

    As `unique` tells, without sorting.
    """
    used = torch.zeros(size, dtype=torch.bool, device=rows.device)
    used[rows] = True
    return used.nonzero().squeeze(1), (used.cumsum(0) - 1)[rows]


class Batch:
    """Dataclasses of tensors that move between devices."""

    def to(self, device: torch.device | str) -> Self:
        moved = {}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            moved[field.name] = value.to(device) if hasattr(value, "to") else value
        return replace(self, **moved)  # type: ignore[type-var]

    def beside(self, other: Self) -> Self:
        """Both, joined along the second dimension."""
        joined: dict[str, Tensor | Batch | None] = {}
        for field in fields(self):  # type: ignore[arg-type]
            ours, theirs = getattr(self, field.name), getattr(other, field.name)
            if isinstance(ours, Batch):
                joined[field.name] = ours.beside(theirs)
            else:
                joined[field.name] = None if ours is None else torch.cat([ours, theirs], 1)
        return replace(self, **joined)  # type: ignore[type-var]


@dataclass(frozen=True)
class NextTargetPredictionBatch(Batch):
    """Histories of B actors, and for each the event that came next. What is None is not known."""

    actor_id: Tensor
    """int64[B]"""
    actor_history_actions: Tensor
    """int64[B, N]"""
    actor_history_targets: Tensor
    """int64[B, N], the user on the other side"""
    actor_history_mask: Tensor
    """bool[B, N], True where there is an event; valid entries at the end"""
    example_action: Tensor
    """int64[B], HIDDEN where it is not known"""
    example_target: Tensor
    """int64[B]"""
    actor_history_received: Tensor | None = None
    """bool[B, N], True where the other side acted"""
    actor_history_timestamps: Tensor | None = None
    """int64[B, N], UTC seconds"""


@dataclass(frozen=True)
class Positions(Batch):
    """P moments in the histories of a batch at which the next target is asked for."""

    row: Tensor
    """int64[P], whose history"""
    state: Tensor
    """int64[P], 0 to N: the first so many columns of the history are known"""
    action: Tensor
    """int64[P], HIDDEN where it is not known"""
    target: Tensor
    """int64[P]"""
    refresh: Tensor | None = None
    """int64[P], index into the regimes; None: streaming"""
    features: Tensor | None = None
    """float32[P, F], the actor's own activity"""
    learns: Tensor | None = None
    """bool[P], whether what users are is learned from this position; None: from all"""


@dataclass(frozen=True)
class Written(Batch):
    """What users wrote, as places in a table of distinct vectors: there are fewer than users at moments."""

    place: Tensor
    """int64[...], a row of the table, 0 for somebody who wrote nothing"""
    vectors: Tensor
    """float32[U + 1, E], the first is 0"""

    @classmethod
    def of(cls, row: Tensor, vectors: Tensor) -> Self:
        """row: int64[...], the vector of each user, -1 for nothing; vectors: float32[S, E]."""
        used, place = distinct(F.pad(row.flatten() + 1, (1, 0)), len(vectors) + 1)
        return cls(place[1:].view(row.shape), F.pad(vectors[used[1:] - 1], (0, 0, 1, 0)))

    def beside(self, other: Self) -> Self:
        theirs = torch.where(other.place > 0, other.place + len(self.vectors) - 1, 0)
        vectors = torch.cat([self.vectors, other.vectors[1:]])
        return replace(self, place=torch.cat([self.place, theirs], 1), vectors=vectors)

    def scores(self, query: Tensor) -> Tensor:
        """float32[P, K]: inner products of queries, float32[P, E], with what K users each wrote."""
        return (query @ self.vectors.T).gather(1, self.place)


@dataclass(frozen=True)
class Targets(Batch):
    """Users as targets at a moment; what is None is not known."""

    users: Tensor
    """int64[...]"""
    partners: Tensor | None = None
    """int64[..., m], users with whom each was last in contact, -1 where there are fewer"""
    features: Tensor | None = None
    """float32[..., F], their own activity"""
    written: Written | None = None
    """of places int64[...]"""


@dataclass(frozen=True)
class Pairs(Batch):
    """What happened between actors and targets."""

    met: Tensor
    """bool[...]"""
    features: Tensor
    """float32[..., F]"""
    kinds: Tensor
    """int64[...]"""


@dataclass(frozen=True)
class Query(Batch):
    """What is asked for at P positions."""

    static: Tensor
    """float32[P, D], against what a target is"""
    social: Tensor | None
    """float32[P, D], against whom a target was last in contact with"""
    moment: Tensor | None
    """float32[P, T], against what a target has been doing lately"""
    hidden: Tensor
    """float32[P, D], for the pointer"""
    learns: Tensor | None = None
    """bool[P], as in Positions"""
    plain: Tensor | None = None
    """bool[P, N], users who are to be judged by the moment alone, in a step of training; None: nobody"""

    def of(self, rows: slice | Tensor) -> Query:
        """The queries of some positions."""
        social, moment = (None if x is None else x[rows] for x in (self.social, self.moment))
        return Query(self.static[rows], social, moment, self.hidden[rows])

    def to_dtype(self, dtype: torch.dtype) -> Query:
        """The same query with another precision."""
        social, moment = (None if x is None else x.to(dtype) for x in (self.social, self.moment))
        return Query(self.static.to(dtype), social, moment, self.hidden.to(dtype))

    def vector(self) -> Tensor:
        """float32[P, W]: the whole query; its inner product with `target_vectors` is the score but for the pointer."""
        return torch.cat([self.static, self.changing()], -1)

    def changing(self) -> Tensor:
        """float32[P, W']: the part of the query that is asked of what changes with time, W' may be 0."""
        parts = [part for part in (self.social, self.moment) if part is not None]
        return torch.cat(parts, -1) if parts else self.static.new_zeros(len(self.static), 0)
