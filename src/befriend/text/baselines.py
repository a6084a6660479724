"""What the towers are measured beside: TF-IDF, the mean of the frozen encoder, how common a statement is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from befriend.text.corpus import Corpus
from befriend.text.data import Statement, UserData, as_statement
from befriend.text.lexicon import Lexicon, counts

Users = Sequence[UserData]
Pool = Sequence[str | Statement]
Scores = Callable[[Users, Pool], np.ndarray]
"""float[U, S]: how well each statement of a pool goes with each user"""


def tfidf_vectors(train: Users) -> Callable[[Sequence[str]], Any]:
    """Sparse rows of length 1, weighted by how rare words are among users of training; unknown ones are the rarest."""
    from sklearn.preprocessing import normalize  # type: ignore[import-untyped]

    lexicon = Lexicon.of([whole(user) for user in train], 1)
    return lambda texts: normalize(lexicon.weighed(counts(texts)))


def tfidf(train: Users) -> Scores:
    """Cosine of words in common, the rare ones counting most."""
    vectors = tfidf_vectors(train)

    def scores(users: Users, pool: Pool) -> np.ndarray:
        own, said = vectors([whole(user) for user in users]), vectors([as_statement(s).text for s in pool])
        return (own @ said.T).toarray()

    return scores


def frozen(corpus: Corpus) -> tuple[Callable[[Users], np.ndarray], Callable[[Pool], np.ndarray]]:
    """Vectors of users, the mean of what the encoder says of their chunks, and of statements; nothing is learned."""
    user_side, item_side = corpus.user_side, corpus.item_side

    def users(some: Users) -> np.ndarray:
        row = np.repeat(np.arange(len(some)), [len(user.chunks) for user in some])
        out = np.zeros((len(some), user_side.width), np.float32)
        np.add.at(out, row, user_side.vectors([chunk.text for user in some for chunk in user.chunks]))
        return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)

    def statements(pool: Pool) -> np.ndarray:
        return item_side.vectors([as_statement(s).text for s in pool])

    return users, statements


def popularity(train: Users) -> Scores:
    """Of how many users of training a statement is true."""
    common = Counter(key for user in train for key in {as_statement(s).key for s in user.statements})

    def scores(users: Users, pool: Pool) -> np.ndarray:
        return np.tile([float(common[as_statement(s).key]) for s in pool], (len(users), 1))

    return scores


def whole(user: UserData) -> str:
    """All that somebody wrote."""
    return "\n".join(chunk.text for chunk in user.chunks)


def halves(users: Users) -> tuple[list[UserData], list[UserData]]:
    """The older and the newer half of the chunks of those who have two or more."""
    older, newer = [], []
    for user in users:
        chunks = sorted(user.chunks, key=lambda chunk: (chunk.second or 0, chunk.text))
        k = len(chunks) // 2
        if k:
            older.append(UserData(user.user_id, chunks[:k]))
            newer.append(UserData(user.user_id, chunks[k:]))
    return older, newer
