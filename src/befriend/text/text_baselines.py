"""Baselines for the towers: TF-IDF, mean of the frozen encoder's vectors, and popularity of statements."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from befriend.text.chunks import Statement, UserData, as_statement
from befriend.text.corpus import Corpus
from befriend.text.lexicon import HashedTfidf, word_counts

Users = Sequence[UserData]
Pool = Sequence[str | Statement]
Scores = Callable[[Users, Pool], np.ndarray]
"""a function that scores each statement of a pool for each user: float[U, S]"""


def tfidf_vectors(train: Users) -> Callable[[Sequence[str]], Any]:
    """A function from texts to sparse TF-IDF rows of length 1; words not in training have the highest weight."""
    from sklearn.preprocessing import normalize  # type: ignore[import-untyped]

    lexicon = HashedTfidf.of([full_text(user) for user in train], 1)
    return lambda texts: normalize(lexicon.tfidf(word_counts(texts)))


def tfidf_scores(train: Users) -> Scores:
    """Scores by cosine of TF-IDF vectors."""
    vectors = tfidf_vectors(train)

    def scores(users: Users, pool: Pool) -> np.ndarray:
        user_rows, statement_rows = (
            vectors([full_text(user) for user in users]),
            vectors([as_statement(s).text for s in pool]),
        )
        return (user_rows @ statement_rows.T).toarray()

    return scores


def frozen_encoder(corpus: Corpus) -> tuple[Callable[[Users], np.ndarray], Callable[[Pool], np.ndarray]]:
    """Functions that embed users, by the mean of their chunks' encoder vectors, and statements; without training."""
    user_side, statement_side = corpus.user_side, corpus.statement_side

    def embed_users(users: Users) -> np.ndarray:
        row = np.repeat(np.arange(len(users)), [len(user.chunks) for user in users])
        out = np.zeros((len(users), user_side.width), np.float32)
        np.add.at(out, row, user_side.vectors([chunk.text for user in users for chunk in user.chunks]))
        return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)

    def embed_statements(pool: Pool) -> np.ndarray:
        return statement_side.vectors([as_statement(s).text for s in pool])

    return embed_users, embed_statements


def popularity_scores(train: Users) -> Scores:
    """Scores by the number of training users of whom a statement is true."""
    user_counts = Counter(key for user in train for key in {as_statement(s).key for s in user.statements})

    def scores(users: Users, pool: Pool) -> np.ndarray:
        return np.tile([float(user_counts[as_statement(s).key]) for s in pool], (len(users), 1))

    return scores


def full_text(user: UserData) -> str:
    """All chunks of a user as one text."""
    return "\n".join(chunk.text for chunk in user.chunks)


def split_chunks_by_time(users: Users) -> tuple[list[UserData], list[UserData]]:
    """The older and the newer half of each user's chunks; users with fewer than two chunks are left out."""
    older, newer = [], []
    for user in users:
        chunks = sorted(user.chunks, key=lambda chunk: (chunk.utc_second or 0, chunk.text))
        k = len(chunks) // 2
        if k:
            older.append(UserData(user.user_id, chunks[:k]))
            newer.append(UserData(user.user_id, chunks[k:]))
    return older, newer
