"""Training objective of the two text towers: contrastive learning with two tasks.

Statements: the vector of a user is close to the vectors of the statements that are true of the user. Authors: the
vector of one half of a user's chunks is close to the vector of the other half.
"""

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

NUM_NEGATIVE_CANDIDATES = 256  # statements per step, of which the extra negatives are a selection


@dataclass(frozen=True)
class LabelledUsers:
    """Users, and the statements that are true of them."""

    users: list[ChunkedUser]
    statements: list[np.ndarray]
    """for each user int64[n], indices into the pool of statements"""


@dataclass(frozen=True)
class TextBatch(TensorBatch):
    """B users: A of them with a statement, H of them with two halves of their chunks; and P candidates for negatives.

    Example, B = 2: users 7 and 9, both with several chunks, and with statements 0 and 3 of the pool. The candidate is
    statement 1, which is true of user 9. Then `labelled_rows` is [0, 1], the columns of `is_positive` are the
    statements 0, 3 and 1 (A = 2, P = 1), its rows are [1, 0, 0] and [0, 1, 1], and `is_same_user` is the identity
    matrix (H = 2).
    """

    user_passages: PassageBatch
    users: UserBatch
    statement_passages: PassageBatch
    statements: StatementBatch
    """A statements, one for each labelled row, followed by P candidates"""
    labelled_rows: Tensor
    """int64[A], rows of the users with a statement, in the order of the A statements"""
    is_positive: Tensor
    """bool[A, A + P], which statements are true of the user of each labelled row"""
    chunk_halves: tuple[UserBatch, UserBatch]
    """H users with a random half of their chunks each, and the same users with the other half"""
    is_same_user: Tensor
    """bool[H, H], which of the H rows are the same user: a user with several statements has several rows"""

    def to(self, device: torch.device | str) -> TextBatch:
        values: dict[str, Any] = {}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            values[name] = tuple(x.to(device) for x in value) if isinstance(value, tuple) else value.to(device)
        return TextBatch(**values)


class TextObjective:
    """The towers, with training users, validation users and a pool of statements."""

    metric = "mrr"

    def __init__(
        self,
        model: UniversalUserEmbedding,
        corpus: Corpus,
        pool: list[tuple[int, int, np.ndarray]],
        train: LabelledUsers,
        validation: LabelledUsers,
        num_training_statements: int,
    ):
        """pool: statements as from `Corpus.statement`; only the first `num_training_statements` may be negatives."""
        self.model, self.corpus, self.pool = model, corpus, pool
        self.train, self.validation = train, validation
        self.config, self.num_training_statements = corpus.config, num_training_statements
        pairs = [(user, int(s)) for user, statements in enumerate(train.statements) for s in statements]
        unlabelled = [(user, -1) for user, statements in enumerate(train.statements) if not len(statements)]
        if self.config.author_weight:
            pairs += [(user, none) for user, none in unlabelled if len(train.users[user].rows) > 1]
        self.pairs = np.array([pair for pair in pairs if len(train.users[pair[0]].rows)], np.int64).reshape(-1, 2)

    def lr_multiplier(self, name: str) -> float:
        """Learning rate of a parameter, as a multiple of the learning rate of the user tower's encoder."""
        tower_rate = self.config.item_rate if name.startswith("item.") else 1.0
        return tower_rate if ".encoder." in name else tower_rate * self.config.head_rate

    def batches(self, epoch: int) -> Sequence[TextBatch]:
        return _EpochBatches(self, epoch)

    def batch(self, pairs: np.ndarray, rng: np.random.Generator) -> TextBatch:
        """A batch of pairs, int64[B, 2], each a training user and an index into the pool; -1: no statement."""
        users = [self.train.users[user] for user in pairs[:, 0]]
        multi_chunk_rows = [k for k, user in enumerate(users) if len(user.rows) > 1 and self.config.author_weight]
        chunk_halves: tuple[list[ChunkedUser], list[ChunkedUser]] = ([], [])
        for k in multi_chunk_rows:
            order, size = rng.permutation(len(users[k].rows)), len(users[k].rows) // 2
            chunk_halves[0].append(users[k].select(np.sort(order[:size])))
            chunk_halves[1].append(users[k].select(np.sort(order[size:])))
        rows = np.unique(np.concatenate([user.rows for user in users]))
        labelled_rows = np.flatnonzero(pairs[:, 1] >= 0)
        positives = pairs[labelled_rows, 1]
        has_candidates = self.config.num_negative_samples and len(labelled_rows)
        num_candidates = min(NUM_NEGATIVE_CANDIDATES, self.num_training_statements) if has_candidates else 0
        columns = np.concatenate([positives, rng.permutation(self.num_training_statements)[:num_candidates]])
        is_positive = np.zeros((len(labelled_rows), len(columns)), bool)
        for k, index in enumerate(pairs[labelled_rows, 0]):
            is_positive[k] = np.isin(columns, self.train.statements[index])
        statements = [self.pool[k] for k in columns]
        text_rows = np.unique([row for entry in statements for row in entry[:2] if row >= 0]).astype(np.int64)
        multi_chunk_users = pairs[multi_chunk_rows, 0]
        return TextBatch(
            user_passages=self.corpus.user_side.passages(rows),
            users=self.corpus.users(users, rows),
            statement_passages=self.corpus.statement_side.passages(text_rows),
            statements=self.corpus.statements(statements, text_rows),
            labelled_rows=torch.from_numpy(labelled_rows),
            is_positive=torch.from_numpy(is_positive),
            chunk_halves=(self.corpus.users(chunk_halves[0], rows), self.corpus.users(chunk_halves[1], rows)),
            is_same_user=torch.from_numpy(multi_chunk_users[:, None] == multi_chunk_users),
        )

    def loss(self, batch: TextBatch) -> BatchLoss:
        model, config = self.model, self.config
        temperature = model.temperature()
        encoded = model.user.encode(batch.user_passages)
        total, metrics = temperature.new_zeros(()), {"temperature": temperature.detach()}
        retrieval_loss = author_loss = temperature.new_zeros(())
        n = len(batch.labelled_rows)
        if n:
            users = model.user.embed(encoded, batch.users)[batch.labelled_rows]
            statements = model.item(batch.statement_passages, batch.statements)
            cosine = users @ statements.T  # (A, A + P)
            in_batch, extra = cosine[:, :n], cosine[:, n:]
            is_chosen = None
            if extra.shape[1]:
                is_chosen = choose_negatives(
                    extra, in_batch.diagonal(), ~batch.is_positive[:, n:], config.negatives, config.num_negative_samples
                )
            retrieval_loss = info_nce(in_batch / temperature, batch.is_positive[:, :n], extra / temperature, is_chosen)
            total = total + retrieval_loss
        if len(batch.is_same_user):
            first, second = (model.user.embed(encoded, half) for half in batch.chunk_halves)
            author_loss = info_nce(first @ second.T / temperature, batch.is_same_user)
            total = total + config.author_weight * author_loss
        metrics |= {"statements": retrieval_loss.detach(), "authors": author_loss.detach()}
        return BatchLoss(total, len(batch.users.mask), metrics)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean reciprocal ranks on the validation users: of their statements, and of the other half of their chunks."""
        on_cpu = next(self.model.parameters()).device.type == "cpu"
        model = (self.model if on_cpu else copy.deepcopy(self.model).cpu()).eval()
        labelled, metrics = self.validation, {}
        scores_and_truth = self.validation_scores(model)
        if scores_and_truth is not None:
            metrics["statements"] = float(reciprocal_ranks(*scores_and_truth).mean())
        chunk_halves = [split_by_time(user) for user in labelled.users if len(user.rows) > 1]
        if chunk_halves:
            newer, older = (
                user_vectors(model.user, self.corpus, [half[side] for half in chunk_halves]) for side in (0, 1)
            )
            metrics["authors"] = float((1 / author_ranks((newer @ older.T).numpy())).mean())
        return metrics | {self.metric: sum(metrics.values()) / max(len(metrics), 1)}

    @torch.no_grad()
    def validation_scores(self, model: UniversalUserEmbedding) -> tuple[np.ndarray, np.ndarray] | None:
        """(float32[U, S] cosines, bool[U, S] whether true) of validation users and of all their statements.

        Users without texts or without statements are left out; None without users.
        """
        labelled = self.validation
        statement_counts = [len(statements) for statements in labelled.statements]
        labelled_users = [k for k, count in enumerate(statement_counts) if count and len(labelled.users[k].rows)]
        if not labelled_users:
            return None
        pool = np.unique(np.concatenate([labelled.statements[k] for k in labelled_users]))
        users = user_vectors(model.user, self.corpus, [labelled.users[k] for k in labelled_users])
        scores = users @ statement_vectors(model.item, self.corpus, [self.pool[k] for k in pool]).T
        return scores.numpy(), np.stack([np.isin(pool, labelled.statements[k]) for k in labelled_users])


def split_by_time(user: ChunkedUser) -> tuple[ChunkedUser, ChunkedUser]:
    """The newer half of a user's chunks, and the older half."""
    k = len(user.rows) // 2
    return user.select(np.arange(k)), user.select(np.arange(k, len(user.rows)))


class _EpochBatches(Sequence[TextBatch]):
    """The batches of an epoch: all pairs, in a random order that depends on the seed and the epoch."""

    def __init__(self, objective: TextObjective, epoch: int):
        self.objective, self.seed = objective, [objective.config.seed, epoch]
        self.order = np.random.default_rng(self.seed).permutation(len(objective.pairs))
        self.size = objective.config.batch_size

    def __len__(self) -> int:
        return -(-len(self.order) // self.size)

    def __getitem__(self, k: int) -> TextBatch:  # type: ignore[override]
        pairs = self.objective.pairs[self.order[k * self.size : (k + 1) * self.size]]
        return self.objective.batch(pairs, np.random.default_rng([*self.seed, k]))
