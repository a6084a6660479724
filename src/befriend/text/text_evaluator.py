"""Inference and evaluation with trained towers: vectors of users and statements, and their similarity."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
from torch import Tensor

from befriend.text import saved_towers, text_metrics
from befriend.text.chunks import Statement, UserChunk, UserData, as_statement
from befriend.text.corpus import Corpus, EncoderSide
from befriend.text.embed import statement_vectors, user_vectors
from befriend.text.lexicon import HashedTfidf
from befriend.text.text_baselines import split_chunks_by_time
from befriend.text.text_trainer import CACHE
from befriend.text.towers import StatementTower, UserTower

Chunks = Sequence[str | UserChunk]


class UniversalUserEmbeddingEvaluator:
    """Both towers of a folder. Each tower is loaded on first use."""

    def __init__(self, folder: Path | str, cache: Path = CACHE):
        self.folder, self.cache = Path(folder), cache

    def get_user_embedding(self, user_chunks: Chunks | UserData) -> Tensor:
        """float32[E]: the vector of a user's texts, given in any order, of length 1; 0 without texts."""
        user = user_chunks if isinstance(user_chunks, UserData) else _user_data(user_chunks)
        return self.get_user_embeddings([user])[0]

    def get_statement_embedding(self, statement: str | Statement, context: str = "") -> Tensor:
        """float32[E], of length 1. context: what the statement refers to; replaces the context of a `Statement`."""
        plain = as_statement(statement)
        return self.get_statement_embeddings([Statement(plain.text, context, plain.metadata) if context else plain])[0]

    def compute_similarity(self, user_chunks: Chunks | UserData, statement: str | Statement) -> float:
        """Cosine of a user and a statement, from -1 to 1."""
        return float(self.get_user_embedding(user_chunks) @ self.get_statement_embedding(statement))

    def get_user_embeddings(self, users: Sequence[UserData]) -> Tensor:
        """float32[n, E]."""
        tower, corpus, lexicon = self._user
        chunked = [corpus.chunked_user(user) for user in users]
        _index_new_texts(corpus.user_side, lexicon)
        return user_vectors(cast(UserTower, tower), corpus, chunked)

    def get_statement_embeddings(self, statements: Sequence[str | Statement]) -> Tensor:
        """float32[n, E]."""
        tower, corpus, lexicon = self._item
        encoded = [corpus.statement(statement) for statement in statements]
        _index_new_texts(corpus.statement_side, lexicon)
        return statement_vectors(cast(StatementTower, tower), corpus, encoded)

    def scores(self, users: Sequence[UserData], statements: Sequence[str | Statement]) -> np.ndarray:
        """float32[U, S], cosines."""
        return (self.get_user_embeddings(users) @ self.get_statement_embeddings(statements).T).numpy()

    def evaluate_retrieval(self, users: Sequence[UserData], pool: Sequence[str | Statement]) -> dict[str, float]:
        """How high the true statements of each user rank among the pool: see `text_metrics.retrieval`."""
        return text_metrics.retrieval(self.scores(users, pool), true_statement_mask(users, pool))

    def evaluate_zero_shot(
        self, users: Sequence[UserData], unseen: Sequence[str | Statement], threshold: float
    ) -> dict[str, float]:
        """How well statements that are not in training are classified: see `text_metrics.zero_shot`."""
        return text_metrics.zero_shot(self.scores(users, unseen), true_statement_mask(users, unseen), threshold)

    def choose_threshold(self, users: Sequence[UserData], statements: Sequence[str | Statement]) -> float:
        """The cosine from which a statement counts as true, with the best F1. Do not use test users here."""
        return text_metrics.best_threshold(self.scores(users, statements), true_statement_mask(users, statements))

    def evaluate_user_similarity(self, users: Sequence[UserData]) -> dict[str, float]:
        """Whether users with similar vectors have statements in common: see `text_metrics.similarity`."""
        pool = sorted({as_statement(s).key: as_statement(s) for user in users for s in user.statements}.items())
        return text_metrics.similarity(
            self.get_user_embeddings(users).numpy(), true_statement_mask(users, [s for _, s in pool])
        )

    def evaluate_statement_similarity(
        self, users: Sequence[UserData], statements: Sequence[str | Statement]
    ) -> dict[str, float]:
        """Whether statements with similar vectors are true of the same users: see `text_metrics.similarity`."""
        return text_metrics.similarity(
            self.get_statement_embeddings(statements).numpy(), true_statement_mask(users, statements).T
        )

    def analyze_embedding_space(
        self, users: Sequence[UserData], statements: Sequence[str | Statement]
    ) -> dict[str, float]:
        """How the vectors are distributed: see `text_metrics.embedding_space`."""
        vectors = self.get_user_embeddings(users).numpy(), self.get_statement_embeddings(statements).numpy()
        return text_metrics.embedding_space(*vectors, true_statement_mask(users, statements))

    def evaluate_authors(self, users: Sequence[UserData]) -> dict[str, float]:
        """Whether the older half of a user's chunks finds the newer half: see `text_metrics.author_retrieval`.

        Users with fewer than two chunks are left out.
        """
        older, newer = (self.get_user_embeddings(half).numpy() for half in split_chunks_by_time(users))
        return text_metrics.author_retrieval(older @ newer.T)

    @cached_property
    def _user(self) -> tuple[UserTower | StatementTower, Corpus, HashedTfidf]:
        return saved_towers.load_tower(self.folder, saved_towers.USER, self.cache)

    @cached_property
    def _item(self) -> tuple[UserTower | StatementTower, Corpus, HashedTfidf]:
        return saved_towers.load_tower(self.folder, saved_towers.STATEMENT, self.cache)


def true_statement_mask(users: Sequence[UserData], pool: Sequence[str | Statement]) -> np.ndarray:
    """bool[U, S]: which statements of a pool are true of which users."""
    columns: dict[tuple[str, str], list[int]] = {}
    for k, statement in enumerate(pool):
        columns.setdefault(as_statement(statement).key, []).append(k)
    is_true = np.zeros((len(users), len(pool)), bool)
    for row, user in zip(is_true, users, strict=True):
        for statement in user.statements:
            row[columns.get(as_statement(statement).key, [])] = True
    return is_true


def _user_data(chunks: Chunks) -> UserData:
    return UserData("", [UserChunk(chunk) if isinstance(chunk, str) else chunk for chunk in chunks])


def _index_new_texts(side: EncoderSide, lexicon: HashedTfidf) -> None:
    """Counts and encodes texts that were added to a side since the last call."""
    if side.num_indexed < len(side.texts):
        side.index_new_texts(lexicon)
