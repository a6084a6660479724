"""Next-item prediction on Amazon Beauty: both models on a public benchmark, next to results that papers report for it.

    python bench/amazon_beauty.py amazon-beauty.txt [--model two-tower|stu] [--seeds 0 1 2] [--threads 1]

The file has a line for each customer, `customer item item ...` in time order (McAuley et al. 2015, 5-core: 22,363
customers, 12,101 items). Leave-one-out: the last item is for the test, the one before it for validation, the rest for
training. Ties count against the model. The items take the place of befriend's users: a customer has no embedding, only
a history, and each position of it predicts the next item in one causal pass. Settings were chosen on validation, which
also stops the training and picks its best epoch; the test is evaluated once per seed and training.

Papers do not agree on two points, and each is measured both ways. *history ranked* ranks all items; *history excluded*
leaves out the items of the customer's history, of which nobody here buys one twice (as the examples of RecTools do).
*refit* trains once more, for as many epochs as were best, on validation items too; without it, the model has never seen
the item before the one to predict as a target.

The STU model's tokens come from collaborative vectors (TIGER's come from the items' texts): a spectral embedding of
which items are close to each other in the histories of the training part.

Prints a Markdown table: Recall@10 and NDCG@10 with the history ranked, then excluded, on validation and test, epochs
and seconds for each seed and training, their means, and the published results.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array  # type: ignore[import-untyped]
from torch import Tensor

from befriend.models.model_inputs import CandidateInputs, NextTargetPredictionBatch, Positions, Query
from befriend.models.negatives import draw_negatives
from befriend.models.query_tower import QueryTower
from befriend.models.sampled_softmax import softmax_loss
from befriend.models.stu_model import NextTargetPredictionSTU
from befriend.models.two_tower_model import NextTargetPredictionUserIDs
from befriend.models.user_embedding import EmbeddingLookup
from befriend.tokens import residual_kmeans
from befriend.tokens.collisions import assign_by_distance
from befriend.tokens.user_vectors import SpectralEmbedding
from befriend.training.loop import fit
from befriend.training.objective import BatchLoss
from befriend.training.training_settings import TrainingSettings

HISTORY_LENGTH = 50  # latest items, as in the papers
POSITIONS_PER_BATCH = 512  # predicted positions per batch, approximately, whatever the lengths of its histories
NUM_RAND_NEGS = 1  # random negatives per position, in addition to the targets of the batch
ITEM_DROPOUT = 0.3  # share of the items without their own embedding in the histories of a training step
MODEL: dict[str, Any] = {
    "embedding_dim": 128,
    "hidden_dim": 256,
    "dropout": 0.5,
    "history_encoder_type": "simple_attention",
    "history_projection": False,
    "history_scale": 10.0,
    "shortcut": True,
    "latent_cross": False,
}
MAX_DISTANCE = 5  # positions between two items that count as a pair
VOCABULARY = (1024, 1024, 1024)
DIMENSIONS = 64  # of the vectors that are quantised into tokens
TRAINING: dict[str, dict[str, Any]] = {
    "two-tower": {"epochs": 12, "patience": 3, "learning_rate": 0.002, "device": "cpu"},
    "stu": {"epochs": 24, "patience": 4, "learning_rate": 0.002, "device": "cpu"},
}
PUBLISHED = {  # test Recall@10 and NDCG@10, leave-one-out over all items, as papers report them
    "SASRec, binary loss": (0.0605, 0.0318),
    "TIGER": (0.0648, 0.0384),
    "ICLRec": (0.0744, 0.0403),
    "ActionPiece": (0.0775, 0.0424),
    "HSTU": (0.0788, 0.0439),
    "SASRec, sampled softmax": (0.0921, 0.0531),
    "eSASRec": (0.0928, 0.0523),
}
Items = NDArray[np.int64]


def read(path: Path) -> list[Items]:
    """The items of each customer in time order, numbered from 0."""
    return [np.array(line.split()[1:], dtype=np.int64) - 1 for line in path.read_text().splitlines()]


def padded(histories: Sequence[Items], no_actor: int) -> NextTargetPredictionBatch:
    """A batch of histories, padded on the left, without examples. no_actor: id of all actors, without an embedding."""
    width, count = max(map(len, histories)), len(histories)
    items, mask = np.zeros((count, width), np.int64), np.zeros((count, width), bool)
    for row, history in enumerate(histories):
        items[row, width - len(history) :] = history
        mask[row, width - len(history) :] = True
    targets, zeros = torch.from_numpy(items), torch.zeros(count, dtype=torch.long)
    return NextTargetPredictionBatch(
        zeros + no_actor, torch.zeros_like(targets), targets, torch.from_numpy(mask), zeros, zeros
    )


class Batches(Sequence[NextTargetPredictionBatch]):
    """The batches of an epoch, in random order: histories of similar length share a batch."""

    def __init__(self, histories: list[Items], no_actor: int, rng: np.random.Generator):
        self.histories, self.no_actor = histories, no_actor
        num_positions = np.array([len(history) - 1 for history in histories])
        order = rng.permutation(len(histories))
        order = order[np.argsort(num_positions[order], kind="stable")]
        positions_before = np.cumsum(num_positions[order]) - num_positions[order]
        groups = np.split(order, np.flatnonzero(np.diff(positions_before // POSITIONS_PER_BATCH)) + 1)
        self.groups = [groups[i] for i in rng.permutation(len(groups))]

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> NextTargetPredictionBatch:  # type: ignore[override]
        return padded([self.histories[row] for row in self.groups[index]], self.no_actor)


class NextItemObjective(ABC):
    """Objective of the training loop: trains on all but the last two items, validates on the last but one."""

    metric = "ndcg"
    model: QueryTower

    def __init__(self, customers: list[Items], seed: int, held_out: int):
        """held_out: number of items at the end of each history that are not trained on: 2, or 1 to refit."""
        self.customers, self.seed, self.held_out = customers, seed, held_out
        self.num_items = 1 + max(int(items.max()) for items in customers)
        self.training = [items[:-held_out][-HISTORY_LENGTH - 1 :] for items in customers]
        self.num_epochs = 0
        torch.manual_seed(seed)

    def lr_multiplier(self, name: str) -> float:
        return 1.0

    def batches(self, epoch: int) -> Batches:
        # The number of batches is the same in every epoch, since the sorted lengths are.
        return Batches(self.training, self.num_items, np.random.default_rng([self.seed, epoch]))

    def loss(self, batch: NextTargetPredictionBatch) -> BatchLoss:
        """Mean loss of all positions that have an item before them.

        Items of the customer's own history stay candidates: the model has to learn that nobody buys an item twice here.
        """
        model, mask = self.model, batch.actor_history_mask
        lookup = model.users.lookup()
        states = model.encode_history(batch, model.users.lookup(ITEM_DROPOUT))
        has_previous = mask.clone()  # positions that have an item before them
        has_previous[:, 0] = False
        has_previous[:, 1:] &= mask[:, :-1]
        row, column = has_previous.nonzero(as_tuple=True)
        target = batch.actor_history_targets[row, column]
        query = model.query(batch, Positions(row, column, torch.zeros_like(row), target), states, lookup)
        return BatchLoss(self.softmax(query, target, lookup).mean(), len(target), {})

    @abstractmethod
    def softmax(self, query: Query, target: Tensor, lookup: EmbeddingLookup) -> Tensor:
        """float32[P], the loss of each query. target: int64[P], items; lookup: embeddings of all items."""

    def validate(self) -> dict[str, float]:
        if self.held_out == 1:  # validation items are trained on: the last epoch counts
            self.num_epochs += 1
            return {self.metric: float(self.num_epochs)}
        recall, ndcg, _, _ = self.evaluate(2)
        return {"recall": recall, self.metric: ndcg}

    @torch.no_grad()
    def evaluate(self, from_end: int) -> list[float]:
        """Recall@10 and NDCG@10 of each customer's item at index -`from_end`, predicted from all items before it.

        First with all items ranked, then without those of the history.
        """
        model, all_ranks, new_ranks = self.model, [], []
        model.eval()
        lookup, all_items = model.users.lookup(), CandidateInputs(torch.arange(self.num_items, device=model.device))
        customers = sorted(self.customers, key=len)
        for start in range(0, len(customers), 512):
            block = customers[start : start + 512]
            batch = padded([items[:-from_end][-HISTORY_LENGTH:] for items in block], self.num_items).to(model.device)
            n, width = batch.actor_history_mask.shape
            target = torch.tensor([int(items[-from_end]) for items in block], device=model.device)
            positions = Positions(
                torch.arange(n, device=model.device), torch.full_like(target, width), 0 * target, target
            )
            query = model.query(batch, positions, model.encode_history(batch, lookup), lookup)
            scores = model.static_scores(query, all_items.users, lookup)
            is_ahead = scores >= scores.gather(1, target[:, None])
            all_ranks.append(is_ahead.sum(1))
            for row, items in enumerate(block):
                is_ahead[row, torch.from_numpy(items[:-from_end])] = False
            new_ranks.append(is_ahead.sum(1))
        metrics = []
        for ranks in (all_ranks, new_ranks):
            rank = torch.cat(ranks).double()
            hit = rank <= 10
            metrics += [float(hit.double().mean()), float((hit / (rank + 1).log2()).mean())]
        return metrics


class TwoTowers(NextItemObjective):
    """Sampled softmax of each target against the targets of the batch and random items, with log-Q correction."""

    model: NextTargetPredictionUserIDs

    def __init__(self, customers: list[Items], seed: int, held_out: int):
        super().__init__(customers, seed, held_out)
        self.model = NextTargetPredictionUserIDs(self.num_items, num_actions=1, **MODEL)
        target_count = np.bincount(np.concatenate([items[1:] for items in self.training]), minlength=self.num_items)
        self.model.popularity.copy_(torch.from_numpy(target_count / target_count.sum()))

    def softmax(self, query: Query, target: Tensor, lookup: EmbeddingLookup) -> Tensor:
        all_items = torch.arange(self.num_items, device=target.device)
        negatives = draw_negatives(target, self.model.popularity, all_items, "mixed", len(target) * NUM_RAND_NEGS)
        scores = self.model.static_scores(query, negatives.users, lookup)
        positive = torch.einsum("pd,pd->p", query.static, self.model.users(target, lookup))
        return softmax_loss(positive, scores, negatives.users != target[:, None], negatives.log_q).loss


class Stu(NextItemObjective):
    """Items as tokens; full softmax over all items, which costs no more than the loss of the tokens of the target."""

    model: NextTargetPredictionSTU

    def __init__(self, customers: list[Items], seed: int, held_out: int):
        super().__init__(customers, seed, held_out)
        vectors = collaborative_vectors(self.training, self.num_items, seed)
        quantizer = residual_kmeans.fit_residual_kmeans(vectors, VOCABULARY, iterations=10, seed=seed, threads=1)
        stus = assign_by_distance(vectors, quantizer.codebooks)
        self.model = NextTargetPredictionSTU(1, len(VOCABULARY), VOCABULARY, stus=stus, **MODEL)

    def softmax(self, query: Query, target: Tensor, lookup: EmbeddingLookup) -> Tensor:
        return -self.model.log_probs(query.static, target[:, None]).squeeze(1)


def collaborative_vectors(histories: Sequence[Items], num_items: int, seed: int) -> Tensor:
    """float32[n, D]: spectral embedding of the items; pairs in a history are weighted by 1 / distance."""
    graph = csr_array((num_items, num_items))
    for distance in range(1, MAX_DISTANCE + 1):
        pairs = [(h[:-distance], h[distance:]) for h in histories if len(h) > distance]
        earlier, later = (np.concatenate(side) for side in zip(*pairs, strict=True))
        ends = np.concatenate([earlier, later]), np.concatenate([later, earlier])
        graph += coo_array((np.full(2 * len(later), 1 / distance), ends), shape=(num_items, num_items)).tocsr()
    graph.data = np.log1p(graph.data)
    return torch.from_numpy(SpectralEmbedding.of(graph, DIMENSIONS, seed).embed(graph))


@dataclass(frozen=True)
class Result:
    """One training."""

    validation: list[float]
    """as of `NextItemObjective.evaluate`; of a refit, which is trained on these items, NaN"""
    test: list[float]
    best_epoch: int
    seconds: float
    """of training and validation"""


def run(name: str, customers: list[Items], seed: int, threads: int, refit_epochs: int | None = None) -> Result:
    start = time.perf_counter()
    objective = MODELS[name](customers, seed, held_out=2 if refit_epochs is None else 1)
    options = TRAINING[name] | ({} if refit_epochs is None else {"epochs": refit_epochs})
    settings = TrainingSettings(**options, seed=seed, threads=threads)
    with tempfile.TemporaryDirectory() as folder:
        fitted = fit(objective, settings, Path(folder) / "checkpoints", Path(folder) / "curves")
    seconds = time.perf_counter() - start
    validation = objective.evaluate(2) if refit_epochs is None else [float("nan")] * 4
    return Result(validation, objective.evaluate(1), fitted.best_epoch, seconds)


MODELS = {"two-tower": TwoTowers, "stu": Stu}


def row_cells(values: Sequence[float]) -> str:
    return " | ".join("" if value != value else f"{value:.4f}" for value in values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", choices=MODELS, default="two-tower")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--threads", type=int, default=1, help="CPU threads; the results depend slightly on their number"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    customers = read(arguments.file)
    figures = "R@10 | N@10 | excluded R@10 | N@10"
    print(f"| model | seed | validation {figures} | test {figures} | best epoch | seconds |")
    print("|---|---:|" + "---:|" * 10, flush=True)
    results: dict[str, list[Result]] = {arguments.model: [], f"{arguments.model}, refit": []}
    for seed in arguments.seeds:
        refit_epochs = None
        for name, of_seeds in results.items():
            result = run(arguments.model, customers, seed, arguments.threads, refit_epochs)
            refit_epochs = result.best_epoch
            of_seeds.append(result)
            cells = row_cells([*result.validation, *result.test])
            print(f"| {name} | {seed} | {cells} | {result.best_epoch} | {result.seconds:.0f} |", flush=True)
    for name, of_seeds in results.items():
        if len(of_seeds) > 1:
            columns = zip(*([*result.validation, *result.test] for result in of_seeds), strict=True)
            print(f"| {name} | mean | {row_cells([statistics.fmean(column) for column in columns])} | | |")
    for name, published in PUBLISHED.items():
        print(f"| {name}, published | | | | | | {row_cells(published)} | | | | |")


if __name__ == "__main__":
    main()
