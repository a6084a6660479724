"""Vectors of many users or statements from a tower in inference, computed in blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from befriend.text.corpus import ChunkedUser, Corpus
from befriend.text.towers import StatementTower, UserTower

VECTORS_PER_BLOCK = 512  # users or statements per block


@torch.no_grad()
def user_vectors(tower: UserTower, corpus: Corpus, users: Sequence[ChunkedUser]) -> Tensor:
    """float32[n, E]; 0 for a user without chunks."""

    def embed(start: int, end: int) -> Tensor:
        block = users[start:end]
        rows = np.unique(np.concatenate([np.zeros(0, np.int64), *(user.rows for user in block)]))
        if not len(rows):
            return torch.zeros(len(block), corpus.config.embedding_dim)
        return tower(corpus.user_side.passages(rows), corpus.users(block, rows))

    return _in_blocks(embed, len(users))


@torch.no_grad()
def statement_vectors(tower: StatementTower, corpus: Corpus, encoded: Sequence[tuple[int, int, np.ndarray]]) -> Tensor:
    """float32[n, E]. encoded: statements as `Corpus.statement` returns them."""

    def embed(start: int, end: int) -> Tensor:
        block = encoded[start:end]
        rows = np.unique([row for entry in block for row in entry[:2] if row >= 0]).astype(np.int64)
        return tower(corpus.statement_side.passages(rows), corpus.statements(block, rows))

    return _in_blocks(embed, len(encoded))


def _in_blocks(embed: Callable[[int, int], Tensor], n: int) -> Tensor:
    return torch.cat(
        [embed(start, min(start + VECTORS_PER_BLOCK, n)) for start in range(0, max(n, 1), VECTORS_PER_BLOCK)]
    )
