"""The two text towers as a trainee: users find their statements, and one half of their texts the other."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from befriend.models.batch import Batch
from befriend.text.corpus import Corpus, Person
from befriend.text.losses import choose, info_nce
from befriend.text.protocols import author_ranks, reciprocal_ranks
from befriend.text.towers import Passages, Statements, UniversalUserEmbedding, Users
from befriend.text.vectors import statement_vectors, user_vectors
from befriend.training.trainee import Losses

CANDIDATES = 256  # statements among which the further negatives of a step are chosen


@dataclass(frozen=True)
class Known:
    """Users and what is true of them."""

    people: list[Person]
    statements: list[np.ndarray]
    """int64 each: places in the pool"""


@dataclass(frozen=True)
class TextBatch(Batch):
    """B users, the statements of some, the halves of some, and candidates for negatives."""

    user_passages: Passages
    users: Users
    statement_passages: Passages
    statements: Statements
    """those of the pairs, then the candidates"""
    asks: Tensor
    """int64[A], the users with a statement, in the order of the statements"""
    true: Tensor
    """bool[A, A + P], which statements are true of which of those users, or the same as a true one"""
    halves: tuple[Users, Users]
    """[H] users whose chunks were divided"""
    same: Tensor
    """bool[H, H], which of those are one user"""

    def to(self, device: torch.device | str) -> TextBatch:
        values: dict[str, Any] = {}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            values[name] = tuple(x.to(device) for x in value) if isinstance(value, tuple) else value.to(device)
        return TextBatch(**values)


class TextTrainee:
    """Two towers with their users and statements."""

    metric = "mrr"

    def __init__(
        self,
        model: UniversalUserEmbedding,
        corpus: Corpus,
        pool: list[tuple[int, int, np.ndarray]],
        train: Known,
        validation: Known,
        learnable: int,
    ):
        """pool: all statements, as `Corpus.statement` gives them; learnable: how many of them, the first, may be
        negatives."""
        self.model, self.corpus, self.pool = model, corpus, pool
        self.train, self.validation = train, validation
        self.config, self.learnable = corpus.config, learnable
        pairs = [(user, int(s)) for user, known in enumerate(train.statements) for s in known]
        alone = [(user, -1) for user, known in enumerate(train.statements) if not len(known)]
        if self.config.author_weight:
            pairs += [(user, none) for user, none in alone if len(train.people[user].rows) > 1]
        self.pairs = np.array([pair for pair in pairs if len(train.people[pair[0]].rows)], np.int64).reshape(-1, 2)

    def scale(self, name: str) -> float:
        """How many times as fast a parameter learns as the user tower's encoder."""
        tower = self.config.item_rate if name.startswith("item.") else 1.0
        return tower if ".encoder." in name else tower * self.config.head_rate

    def batches(self, epoch: int) -> Sequence[TextBatch]:
        return _Epoch(self, epoch)

    def batch(self, pairs: np.ndarray, rng: np.random.Generator) -> TextBatch:
        """pairs: int64[B, 2], users and their statements, -1 for none."""
        people = [self.train.people[user] for user in pairs[:, 0]]
        halved = [k for k, person in enumerate(people) if len(person.rows) > 1 and self.config.author_weight]
        parts: tuple[list[Person], list[Person]] = ([], [])
        for k in halved:
            order, size = rng.permutation(len(people[k].rows)), len(people[k].rows) // 2
            parts[0].append(people[k].only(np.sort(order[:size])))
            parts[1].append(people[k].only(np.sort(order[size:])))
        rows = np.unique(np.concatenate([person.rows for person in people]))
        asks = np.flatnonzero(pairs[:, 1] >= 0)
        wanted = pairs[asks, 1]
        many = min(CANDIDATES, self.learnable) if self.config.num_negative_samples and len(asks) else 0
        columns = np.concatenate([wanted, rng.permutation(self.learnable)[:many]])
        true = np.zeros((len(asks), len(columns)), bool)
        for k, user in enumerate(pairs[asks, 0]):
            true[k] = np.isin(columns, self.train.statements[user])
        found = [self.pool[k] for k in columns]
        texts = np.unique([place for one in found for place in one[:2] if place >= 0]).astype(np.int64)
        user = pairs[halved, 0]
        return TextBatch(
            user_passages=self.corpus.user_side.passages(rows),
            users=self.corpus.users(people, rows),
            statement_passages=self.corpus.item_side.passages(texts),
            statements=self.corpus.statements(found, texts),
            asks=torch.from_numpy(asks),
            true=torch.from_numpy(true),
            halves=(self.corpus.users(parts[0], rows), self.corpus.users(parts[1], rows)),
            same=torch.from_numpy(user[:, None] == user),
        )

    def loss(self, batch: TextBatch) -> Losses:
        model, config = self.model, self.config
        temperature = model.temperature()
        read = model.user.read(batch.user_passages)
        total, figures = temperature.new_zeros(()), {"temperature": temperature.detach()}
        retrieval = authors = temperature.new_zeros(())
        n = len(batch.asks)
        if n:
            users = model.user.pooled(read, batch.users)[batch.asks]
            items = model.item(batch.statement_passages, batch.statements)
            cosine = users @ items.T  # (A, A + P)
            pairs, further = cosine[:, :n], cosine[:, n:]
            chosen = None
            if further.shape[1]:
                chosen = choose(
                    further, pairs.diagonal(), ~batch.true[:, n:], config.negatives, config.num_negative_samples
                )
            retrieval = info_nce(pairs / temperature, batch.true[:, :n], further / temperature, chosen)
            total = total + retrieval
        if len(batch.same):
            one, other = (model.user.pooled(read, half) for half in batch.halves)
            authors = info_nce(one @ other.T / temperature, batch.same)
            total = total + config.author_weight * authors
        figures |= {"statements": retrieval.detach(), "authors": authors.detach()}
        return Losses(total, len(batch.users.mask), figures)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean reciprocal ranks among users who are not learned from: of their statements, of their other half."""
        on_cpu = next(self.model.parameters()).device.type == "cpu"
        model = (self.model if on_cpu else copy.deepcopy(self.model).cpu()).eval()
        known, figures = self.validation, {}
        found = self.scored(model)
        if found is not None:
            figures["statements"] = float(reciprocal_ranks(*found).mean())
        halves = [halved(person) for person in known.people if len(person.rows) > 1]
        if halves:
            one, other = (user_vectors(model.user, self.corpus, [half[side] for half in halves]) for side in (0, 1))
            figures["authors"] = float((1 / author_ranks((one @ other.T).numpy())).mean())
        return figures | {self.metric: sum(figures.values()) / max(len(figures), 1)}

    @torch.no_grad()
    def scored(self, model: UniversalUserEmbedding) -> tuple[np.ndarray, np.ndarray] | None:
        """Cosines of the users of validation and all that is said of any of them, float32[U, S], and what is true,
        bool[U, S]; None where nothing is said."""
        known = self.validation
        asked = [k for k, own in enumerate(known.statements) if len(own) and len(known.people[k].rows)]
        if not asked:
            return None
        pool = np.unique(np.concatenate([known.statements[k] for k in asked]))
        users = user_vectors(model.user, self.corpus, [known.people[k] for k in asked])
        scores = users @ statement_vectors(model.item, self.corpus, [self.pool[k] for k in pool]).T
        return scores.numpy(), np.stack([np.isin(pool, known.statements[k]) for k in asked])


def halved(person: Person) -> tuple[Person, Person]:
    """The newer half of somebody's chunks, and the older one."""
    k = len(person.rows) // 2
    return person.only(np.arange(k)), person.only(np.arange(k, len(person.rows)))


class _Epoch(Sequence[TextBatch]):
    """The batches of an epoch: all pairs, in an order of its own."""

    def __init__(self, trainee: TextTrainee, epoch: int):
        self.trainee, self.seed = trainee, [trainee.config.seed, epoch]
        self.order = np.random.default_rng(self.seed).permutation(len(trainee.pairs))
        self.size = trainee.config.batch_size

    def __len__(self) -> int:
        return -(-len(self.order) // self.size)

    def __getitem__(self, k: int) -> TextBatch:  # type: ignore[override]
        pairs = self.trainee.pairs[self.order[k * self.size : (k + 1) * self.size]]
        return self.trainee.batch(pairs, np.random.default_rng([*self.seed, k]))
