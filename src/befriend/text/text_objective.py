"""The training objective of the two text towers: users find their statements, and one half of their texts the other."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from befriend.nn.tensors import TensorBatch
from befriend.text.contrastive import choose_negatives, info_nce
from befriend.text.corpus import ChunkedUser, Corpus
from befriend.text.embed import statement_vectors, user_vectors
from befriend.text.text_metrics import author_ranks, reciprocal_ranks
from befriend.text.towers import PassageBatch, StatementBatch, UniversalUserEmbedding, UserBatch
from befriend.training.objective import BatchLoss

CANDIDATES = 256  # statements from which the extra negatives of a step are chosen


@dataclass(frozen=True)
class LabelledUsers:
    """Users, and the statements that are true of them."""

    people: list[ChunkedUser]
    statements: list[np.ndarray]
    """int64 each: indices into the pool"""


@dataclass(frozen=True)
class TextBatch(TensorBatch):
    """B users, statements of A of them, halves of H of them, and P candidates for negatives."""

    user_passages: PassageBatch
    users: UserBatch
    statement_passages: PassageBatch
    statements: StatementBatch
    """A statements of the pairs, then P candidates"""
    asks: Tensor
    """int64[A], indices of the users with a statement, in the order of the statements"""
    true: Tensor
    """bool[A, A + P], which statements are true of which of those users, or the same as a true one"""
    halves: tuple[UserBatch, UserBatch]
    """[H] users whose chunks were divided"""
    same: Tensor
    """bool[H, H], which of those are the same user"""

    def to(self, device: torch.device | str) -> TextBatch:
        values: dict[str, Any] = {}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            values[name] = tuple(x.to(device) for x in value) if isinstance(value, tuple) else value.to(device)
        return TextBatch(**values)


class TextObjective:
    """Two towers with the users and statements that they learn from."""

    metric = "mrr"

    def __init__(
        self,
        model: UniversalUserEmbedding,
        corpus: Corpus,
        pool: list[tuple[int, int, np.ndarray]],
        train: LabelledUsers,
        validation: LabelledUsers,
        learnable: int,
    ):
        """pool: all statements, as `Corpus.statement` returns them; learnable: only the first `learnable` of them may
        be negatives."""
        self.model, self.corpus, self.pool = model, corpus, pool
        self.train, self.validation = train, validation
        self.config, self.learnable = corpus.config, learnable
        pairs = [(user, int(s)) for user, statements in enumerate(train.statements) for s in statements]
        unlabelled = [(user, -1) for user, statements in enumerate(train.statements) if not len(statements)]
        if self.config.author_weight:
            pairs += [(user, none) for user, none in unlabelled if len(train.people[user].rows) > 1]
        self.pairs = np.array([pair for pair in pairs if len(train.people[pair[0]].rows)], np.int64).reshape(-1, 2)

    def lr_multiplier(self, name: str) -> float:
        """Learning rate of a parameter, as a multiple of that of the user tower's encoder."""
        tower_rate = self.config.item_rate if name.startswith("item.") else 1.0
        return tower_rate if ".encoder." in name else tower_rate * self.config.head_rate

    def batches(self, epoch: int) -> Sequence[TextBatch]:
        return _Epoch(self, epoch)

    def batch(self, pairs: np.ndarray, rng: np.random.Generator) -> TextBatch:
        """pairs: int64[B, 2], users and their statements, -1 for none."""
        users = [self.train.people[user] for user in pairs[:, 0]]
        divided = [k for k, user in enumerate(users) if len(user.rows) > 1 and self.config.author_weight]
        halves: tuple[list[ChunkedUser], list[ChunkedUser]] = ([], [])
        for k in divided:
            order, size = rng.permutation(len(users[k].rows)), len(users[k].rows) // 2
            halves[0].append(users[k].only(np.sort(order[:size])))
            halves[1].append(users[k].only(np.sort(order[size:])))
        rows = np.unique(np.concatenate([user.rows for user in users]))
        asks = np.flatnonzero(pairs[:, 1] >= 0)
        positives = pairs[asks, 1]
        num_candidates = min(CANDIDATES, self.learnable) if self.config.num_negative_samples and len(asks) else 0
        columns = np.concatenate([positives, rng.permutation(self.learnable)[:num_candidates]])
        true = np.zeros((len(asks), len(columns)), bool)
        for k, index in enumerate(pairs[asks, 0]):
            true[k] = np.isin(columns, self.train.statements[index])
        statements = [self.pool[k] for k in columns]
        texts = np.unique([row for entry in statements for row in entry[:2] if row >= 0]).astype(np.int64)
        divided_users = pairs[divided, 0]
        return TextBatch(
            user_passages=self.corpus.user_side.passages(rows),
            users=self.corpus.users(users, rows),
            statement_passages=self.corpus.item_side.passages(texts),
            statements=self.corpus.statements(statements, texts),
            asks=torch.from_numpy(asks),
            true=torch.from_numpy(true),
            halves=(self.corpus.users(halves[0], rows), self.corpus.users(halves[1], rows)),
            same=torch.from_numpy(divided_users[:, None] == divided_users),
        )

    def loss(self, batch: TextBatch) -> BatchLoss:
        model, config = self.model, self.config
        temperature = model.temperature()
        encoded = model.user.read(batch.user_passages)
        total, metrics = temperature.new_zeros(()), {"temperature": temperature.detach()}
        retrieval = authors = temperature.new_zeros(())
        n = len(batch.asks)
        if n:
            users = model.user.pooled(encoded, batch.users)[batch.asks]
            items = model.item(batch.statement_passages, batch.statements)
            cosine = users @ items.T  # (A, A + P)
            pairs, extra = cosine[:, :n], cosine[:, n:]
            chosen = None
            if extra.shape[1]:
                chosen = choose_negatives(
                    extra, pairs.diagonal(), ~batch.true[:, n:], config.negatives, config.num_negative_samples
                )
            retrieval = info_nce(pairs / temperature, batch.true[:, :n], extra / temperature, chosen)
            total = total + retrieval
        if len(batch.same):
            first, second = (model.user.pooled(encoded, half) for half in batch.halves)
            authors = info_nce(first @ second.T / temperature, batch.same)
            total = total + config.author_weight * authors
        metrics |= {"statements": retrieval.detach(), "authors": authors.detach()}
        return BatchLoss(total, len(batch.users.mask), metrics)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean reciprocal ranks on the validation users: of their statements, and of the other half of their texts."""
        on_cpu = next(self.model.parameters()).device.type == "cpu"
        model = (self.model if on_cpu else copy.deepcopy(self.model).cpu()).eval()
        labelled, metrics = self.validation, {}
        scores_and_truth = self.scored(model)
        if scores_and_truth is not None:
            metrics["statements"] = float(reciprocal_ranks(*scores_and_truth).mean())
        halves = [halved(user) for user in labelled.people if len(user.rows) > 1]
        if halves:
            newer, older = (user_vectors(model.user, self.corpus, [half[side] for half in halves]) for side in (0, 1))
            metrics["authors"] = float((1 / author_ranks((newer @ older.T).numpy())).mean())
        return metrics | {self.metric: sum(metrics.values()) / max(len(metrics), 1)}

    @torch.no_grad()
    def scored(self, model: UniversalUserEmbedding) -> tuple[np.ndarray, np.ndarray] | None:
        """(float32[U, S] cosines, bool[U, S] which are true) of the validation users with texts and statements, and
        all statements of any of them; None where no user has both."""
        labelled = self.validation
        usable = [k for k, true in enumerate(labelled.statements) if len(true) and len(labelled.people[k].rows)]
        if not usable:
            return None
        pool = np.unique(np.concatenate([labelled.statements[k] for k in usable]))
        users = user_vectors(model.user, self.corpus, [labelled.people[k] for k in usable])
        scores = users @ statement_vectors(model.item, self.corpus, [self.pool[k] for k in pool]).T
        return scores.numpy(), np.stack([np.isin(pool, labelled.statements[k]) for k in usable])


def halved(user: ChunkedUser) -> tuple[ChunkedUser, ChunkedUser]:
    """The newer half of a user's chunks, and the older one."""
    k = len(user.rows) // 2
    return user.only(np.arange(k)), user.only(np.arange(k, len(user.rows)))


class _Epoch(Sequence[TextBatch]):
    """The batches of an epoch: all pairs, in an order that depends on the seed and the epoch."""

    def __init__(self, objective: TextObjective, epoch: int):
        self.objective, self.seed = objective, [objective.config.seed, epoch]
        self.order = np.random.default_rng(self.seed).permutation(len(objective.pairs))
        self.size = objective.config.batch_size

    def __len__(self) -> int:
        return -(-len(self.order) // self.size)

    def __getitem__(self, k: int) -> TextBatch:  # type: ignore[override]
        pairs = self.objective.pairs[self.order[k * self.size : (k + 1) * self.size]]
        return self.objective.batch(pairs, np.random.default_rng([*self.seed, k]))
