"""Vectors of many users or statements by a tower that learns nothing just now, some at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from befriend.text.corpus import Corpus, Person
from befriend.text.towers import ItemTower, UserTower

AT_ONCE = 512


@torch.no_grad()
def user_vectors(tower: UserTower, corpus: Corpus, people: Sequence[Person]) -> Tensor:
    """float32[n, E]; 0 for somebody without a chunk."""

    def some(low: int, high: int) -> Tensor:
        part = people[low:high]
        rows = np.unique(np.concatenate([np.zeros(0, np.int64), *(person.rows for person in part)]))
        if not len(rows):
            return torch.zeros(len(part), corpus.config.embedding_dim)
        return tower(corpus.user_side.passages(rows), corpus.users(part, rows))

    return _joined(some, len(people))


@torch.no_grad()
def statement_vectors(tower: ItemTower, corpus: Corpus, found: Sequence[tuple[int, int, np.ndarray]]) -> Tensor:
    """float32[n, E], of what `Corpus.statement` gave."""

    def some(low: int, high: int) -> Tensor:
        part = found[low:high]
        rows = np.unique([place for one in part for place in one[:2] if place >= 0]).astype(np.int64)
        return tower(corpus.item_side.passages(rows), corpus.statements(part, rows))

    return _joined(some, len(found))


def _joined(some: Callable[[int, int], Tensor], n: int) -> Tensor:
    return torch.cat([some(low, min(low + AT_ONCE, n)) for low in range(0, max(n, 1), AT_ONCE)])
