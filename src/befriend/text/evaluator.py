"""A trained folder in use: vectors of users and of statements, what is likely of whom, and how good it is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
from torch import Tensor

from befriend.text import folder as on_disk
from befriend.text import protocols
from befriend.text.baselines import halves
from befriend.text.corpus import Corpus, Side
from befriend.text.data import Statement, UserChunk, UserData, as_statement
from befriend.text.lexicon import Lexicon
from befriend.text.towers import ItemTower, UserTower
from befriend.text.trainer import CACHE
from befriend.text.vectors import statement_vectors, user_vectors

Chunks = Sequence[str | UserChunk]


class UniversalUserEmbeddingEvaluator:
    """The two towers of a folder; each is loaded when it is first asked."""

    def __init__(self, folder: Path | str, cache: Path = CACHE):
        self.folder, self.cache = Path(folder), cache

    def get_user_embedding(self, user_chunks: Chunks | UserData) -> Tensor:
        """float32[E], of length 1: a user by texts in any order; 0 without any."""
        user = user_chunks if isinstance(user_chunks, UserData) else _user(user_chunks)
        return self.get_user_embeddings([user])[0]

    def get_statement_embedding(self, statement: str | Statement, context: str = "") -> Tensor:
        """float32[E], of length 1."""
        found = as_statement(statement)
        return self.get_statement_embeddings([Statement(found.text, context, found.metadata) if context else found])[0]

    def compute_similarity(self, user_chunks: Chunks | UserData, statement: str | Statement) -> float:
        """Cosine of a user and a statement, from -1 to 1."""
        return float(self.get_user_embedding(user_chunks) @ self.get_statement_embedding(statement))

    def get_user_embeddings(self, users: Sequence[UserData]) -> Tensor:
        """float32[n, E]."""
        tower, corpus, lexicon = self._user
        people = [corpus.person(user) for user in users]
        _read(corpus.user_side, lexicon)
        return user_vectors(cast(UserTower, tower), corpus, people)

    def get_statement_embeddings(self, statements: Sequence[str | Statement]) -> Tensor:
        """float32[n, E]."""
        tower, corpus, lexicon = self._item
        found = [corpus.statement(statement) for statement in statements]
        _read(corpus.item_side, lexicon)
        return statement_vectors(cast(ItemTower, tower), corpus, found)

    def scores(self, users: Sequence[UserData], statements: Sequence[str | Statement]) -> np.ndarray:
        """float32[U, S], cosines."""
        return (self.get_user_embeddings(users) @ self.get_statement_embeddings(statements).T).numpy()

    def evaluate_retrieval(self, users: Sequence[UserData], pool: Sequence[str | Statement]) -> dict[str, float]:
        """Which of the pool's statements are found for users of whom they are true: see `protocols.retrieval`."""
        return protocols.retrieval(self.scores(users, pool), truth(users, pool))

    def evaluate_zero_shot(
        self, users: Sequence[UserData], unseen: Sequence[str | Statement], threshold: float
    ) -> dict[str, float]:
        """Whether statements that were not learned from are called true: see `protocols.zero_shot`."""
        return protocols.zero_shot(self.scores(users, unseen), truth(users, unseen), threshold)

    def choose_threshold(self, users: Sequence[UserData], statements: Sequence[str | Statement]) -> float:
        """The cosine from which on a statement is called true, best for these users, who are not those of a test."""
        return protocols.best_threshold(self.scores(users, statements), truth(users, statements))

    def evaluate_user_similarity(self, users: Sequence[UserData]) -> dict[str, float]:
        """Whether users who are near have statements in common: see `protocols.similarity`."""
        pool = sorted({as_statement(s).key: as_statement(s) for user in users for s in user.statements}.items())
        return protocols.similarity(self.get_user_embeddings(users).numpy(), truth(users, [s for _, s in pool]))

    def evaluate_statement_similarity(
        self, users: Sequence[UserData], statements: Sequence[str | Statement]
    ) -> dict[str, float]:
        """Whether statements that are near are true of the same users: see `protocols.similarity`."""
        return protocols.similarity(self.get_statement_embeddings(statements).numpy(), truth(users, statements).T)

    def analyze_embedding_space(
        self, users: Sequence[UserData], statements: Sequence[str | Statement]
    ) -> dict[str, float]:
        """The shape of the space: see `protocols.space`."""
        vectors = self.get_user_embeddings(users).numpy(), self.get_statement_embeddings(statements).numpy()
        return protocols.space(*vectors, truth(users, statements))

    def evaluate_authors(self, users: Sequence[UserData]) -> dict[str, float]:
        """Whether the older half of somebody's chunks finds the newer half, among users with two chunks or more."""
        one, other = (self.get_user_embeddings(half).numpy() for half in halves(users))
        return protocols.authors(one @ other.T)

    @cached_property
    def _user(self) -> tuple[UserTower | ItemTower, Corpus, Lexicon]:
        return on_disk.load_tower(self.folder, on_disk.USER, self.cache)

    @cached_property
    def _item(self) -> tuple[UserTower | ItemTower, Corpus, Lexicon]:
        return on_disk.load_tower(self.folder, on_disk.ITEM, self.cache)


def truth(users: Sequence[UserData], pool: Sequence[str | Statement]) -> np.ndarray:
    """bool[U, S]: which statements of a pool are true of which users."""
    place: dict[tuple[str, str], list[int]] = {}
    for k, statement in enumerate(pool):
        place.setdefault(as_statement(statement).key, []).append(k)
    found = np.zeros((len(users), len(pool)), bool)
    for row, user in zip(found, users, strict=True):
        for statement in user.statements:
            row[place.get(as_statement(statement).key, [])] = True
    return found


def _user(chunks: Chunks) -> UserData:
    return UserData("", [UserChunk(chunk) if isinstance(chunk, str) else chunk for chunk in chunks])


def _read(side: Side, lexicon: Lexicon) -> None:
    """What was added since the last time is read too; the cache has the rest."""
    if side.known < len(side.texts):
        side.read(lexicon)
