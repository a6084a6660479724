"""Both models on Amazon Beauty, beside what papers report for it.

    python bench/beauty.py amazon-beauty.txt [--model two-tower|stu] [--seeds 0 1 2] [--threads 1]

The file has a line a customer, `customer item item ...` in time order (McAuley et al. 2015, 5-core: 22,363 customers,
12,101 items). Leave-one-out: the last item is the test, the one before it validation, the rest training. Every item is
ranked, those of the history too; ties count against the model. The model's users are the items: a customer is nobody
but a history, and each of its positions predicts the next item in one causal pass. Settings were chosen on validation,
which also stops the training and picks its best epoch; the test is looked at once a seed.

The STU model's tokens are made of collaborative vectors, where TIGER's are made of the items' texts: the spectral
embedding of which items follow each other in the training part.
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

from befriend.models.batch import NextTargetPredictionBatch, Positions, Query, Targets
from befriend.models.query_tower import QueryTower
from befriend.models.stu import NextTargetPredictionSTU
from befriend.models.two_tower import NextTargetPredictionUserIDs
from befriend.models.users import Rows
from befriend.tokens import residual_kmeans
from befriend.tokens.collisions import reassigned
from befriend.tokens.user_vectors import Spectrum
from befriend.training.loop import fit
from befriend.training.losses import softmax_loss
from befriend.training.negatives import draw
from befriend.training.settings import TrainingSettings
from befriend.training.trainee import Losses

KEPT = 50  # latest items of a history, as in the papers
POSITIONS = 512  # about as many to predict in a batch, whatever the lengths of its histories
RANDOM = 1  # random negatives a position, beside the targets of the batch
ITEM_DROPOUT = 0.3  # share of the items that are nobody in particular in the histories of a step
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
APART = 5  # positions between two items that tie them
TOKENS = (1024, 1024, 1024)
DIMENSIONS = 64  # of the vectors that tokens are made of
TRAINING: dict[str, dict[str, Any]] = {
    "two-tower": {"epochs": 12, "patience": 3, "learning_rate": 0.002, "device": "cpu"},
    "stu": {"epochs": 24, "patience": 4, "learning_rate": 0.002, "device": "cpu"},
}
REPORTED = {  # test Recall@10 and NDCG@10 under the same protocol, as their papers report them
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
    """The items of each customer in time order, counted from 0."""
    return [np.array(line.split()[1:], dtype=np.int64) - 1 for line in path.read_text().splitlines()]


def padded(histories: Sequence[Items], nobody: int) -> NextTargetPredictionBatch:
    """A batch of histories without an example of their own."""
    width, rows = max(map(len, histories)), len(histories)
    items, mask = np.zeros((rows, width), np.int64), np.zeros((rows, width), bool)
    for row, history in enumerate(histories):
        items[row, width - len(history) :] = history
        mask[row, width - len(history) :] = True
    targets, none = torch.from_numpy(items), torch.zeros(rows, dtype=torch.long)
    return NextTargetPredictionBatch(
        none + nobody, torch.zeros_like(targets), targets, torch.from_numpy(mask), none, none
    )


class Batches(Sequence[NextTargetPredictionBatch]):
    """The batches of an epoch: histories of similar length side by side, the batches in any order."""

    def __init__(self, histories: list[Items], nobody: int, rng: np.random.Generator):
        self.histories, self.nobody = histories, nobody
        asked = np.array([len(history) - 1 for history in histories])
        order = rng.permutation(len(histories))
        order = order[np.argsort(asked[order], kind="stable")]
        before = np.cumsum(asked[order]) - asked[order]
        groups = np.split(order, np.flatnonzero(np.diff(before // POSITIONS)) + 1)
        self.groups = [groups[i] for i in rng.permutation(len(groups))]

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, number: int) -> NextTargetPredictionBatch:  # type: ignore[override]
        return padded([self.histories[row] for row in self.groups[number]], self.nobody)


class Beauty(ABC):
    """What the training loop asks for: all but the last two items to train on, the last but one to validate on."""

    metric = "ndcg"
    model: QueryTower

    def __init__(self, customers: list[Items], seed: int):
        self.customers, self.seed = customers, seed
        self.items = 1 + max(int(items.max()) for items in customers)
        self.training = [items[:-2][-KEPT - 1 :] for items in customers]
        torch.manual_seed(seed)

    def scale(self, name: str) -> float:
        return 1.0

    def batches(self, epoch: int) -> Batches:
        # equally many in every epoch: the lengths, in order, are always the same
        return Batches(self.training, self.items, np.random.default_rng([self.seed, epoch]))

    def loss(self, batch: NextTargetPredictionBatch) -> Losses:
        """Of all positions that have an item before them.

        An item of one's own history is no exception: that nobody buys twice here is for the model to learn.
        """
        model, mask = self.model, batch.actor_history_mask
        rows = model.users.rows()
        states = model.encode_history(batch, model.users.rows(ITEM_DROPOUT))
        later = mask.clone()  # what has an item before it
        later[:, 0] = False
        later[:, 1:] &= mask[:, :-1]
        row, column = later.nonzero(as_tuple=True)
        target = batch.actor_history_targets[row, column]
        query = model.query(batch, Positions(row, column, torch.zeros_like(row), target), states, rows)
        return Losses(self.softmax(query, target, rows).mean(), len(target), {})

    @abstractmethod
    def softmax(self, query: Query, target: Tensor, rows: Rows) -> Tensor:
        """float32[P]: the loss of each query's target, int64[P]; rows: of the items."""

    def validate(self) -> dict[str, float]:
        return self.figures(2)

    @torch.no_grad()
    def figures(self, back: int) -> dict[str, float]:
        """Recall@10 and NDCG@10 of every customer's last item but `back` - 1, from all that came before it."""
        model, ranks = self.model, []
        model.eval()
        rows, everything = model.users.rows(), Targets(torch.arange(self.items, device=model.device))
        customers = sorted(self.customers, key=len)
        for start in range(0, len(customers), 512):
            asked = customers[start : start + 512]
            batch = padded([items[:-back][-KEPT:] for items in asked], self.items).to(model.device)
            n, width = batch.actor_history_mask.shape
            target = torch.tensor([int(items[-back]) for items in asked], device=model.device)
            at = Positions(torch.arange(n, device=model.device), torch.full_like(target, width), 0 * target, target)
            query = model.query(batch, at, model.encode_history(batch, rows), rows)
            scores = model.score_columns(query, everything, rows)
            ranks.append((scores >= scores.gather(1, target[:, None])).sum(1))
        rank = torch.cat(ranks).double()
        hit = rank <= 10
        return {"recall": float(hit.double().mean()), "ndcg": float((hit / (rank + 1).log2()).mean())}


class TwoTowers(Beauty):
    """Softmax of each target over those of the batch and random items, corrected for how likely each was drawn."""

    model: NextTargetPredictionUserIDs

    def __init__(self, customers: list[Items], seed: int):
        super().__init__(customers, seed)
        self.model = NextTargetPredictionUserIDs(self.items, num_actions=1, **MODEL)
        seen = np.bincount(np.concatenate([items[1:] for items in self.training]), minlength=self.items)
        self.model.popularity.copy_(torch.from_numpy(seen / seen.sum()))

    def softmax(self, query: Query, target: Tensor, rows: Rows) -> Tensor:
        everything = torch.arange(self.items, device=target.device)
        columns = draw(target, self.model.popularity, everything, "mixed", RANDOM)
        scores = self.model.score_columns(query, Targets(columns.users), rows)
        own = torch.einsum("pd,pd->p", query.static, self.model.users(target, rows))
        none = scores.new_zeros(len(target), 0)
        allowed = columns.users != target[:, None]
        return softmax_loss(own, none, none.bool(), scores, allowed, columns.log_share).loss


class Stu(Beauty):
    """Tokens of items; the loss is that of a target among all items, which costs no more than its own tokens do."""

    model: NextTargetPredictionSTU

    def __init__(self, customers: list[Items], seed: int):
        super().__init__(customers, seed)
        vectors = collaborative(self.training, self.items, seed)
        quantizer = residual_kmeans.fit(vectors, TOKENS, iterations=10, seed=seed, threads=1)
        stus = reassigned(vectors, quantizer.codebooks)
        self.model = NextTargetPredictionSTU(1, len(TOKENS), TOKENS, stus=stus, **MODEL)

    def softmax(self, query: Query, target: Tensor, rows: Rows) -> Tensor:
        return -self.model.log_probs(query.static, target[:, None]).squeeze(1)


def collaborative(histories: Sequence[Items], items: int, seed: int) -> Tensor:
    """float32[n, D]: the spectral embedding of which items come near each other, by 1 / distance."""
    graph = csr_array((items, items))
    for distance in range(1, APART + 1):
        pairs = [(h[:-distance], h[distance:]) for h in histories if len(h) > distance]
        earlier, later = (np.concatenate(side) for side in zip(*pairs, strict=True))
        ends = np.concatenate([earlier, later]), np.concatenate([later, earlier])
        graph += coo_array((np.full(2 * len(later), 1 / distance), ends), shape=(items, items)).tocsr()
    graph.data = np.log1p(graph.data)
    return torch.from_numpy(Spectrum.of(graph, DIMENSIONS, seed).place(graph))


@dataclass(frozen=True)
class Result:
    seed: int
    figures: tuple[float, float, float, float]
    """Recall@10 and NDCG@10 on validation, then on the test"""
    parameters: int
    epochs: int
    best_epoch: int
    seconds: float
    """training and validation"""


def run(name: str, customers: list[Items], seed: int, threads: int) -> Result:
    start = time.perf_counter()
    beauty = MODELS[name](customers, seed)
    settings = TrainingSettings(**TRAINING[name], seed=seed, threads=threads)
    with tempfile.TemporaryDirectory() as folder:
        fitted = fit(beauty, settings, Path(folder) / "checkpoints", Path(folder) / "curves")
    seconds = time.perf_counter() - start
    validation, test = beauty.figures(2), beauty.figures(1)
    figures = (validation["recall"], validation["ndcg"], test["recall"], test["ndcg"])
    return Result(seed, figures, fitted.parameters, fitted.epochs, fitted.best_epoch, seconds)


MODELS = {"two-tower": TwoTowers, "stu": Stu}


def figures_of(values: Sequence[float]) -> str:
    return " | ".join(f"{value:.4f}" for value in values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", choices=MODELS, default="two-tower")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; other numbers give slightly other figures")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    customers = read(arguments.file)
    print("| model | seed | validation R@10 | N@10 | test R@10 | N@10 | parameters | epochs (best) | seconds |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    results = []
    for seed in arguments.seeds:
        result = run(arguments.model, customers, seed, arguments.threads)
        results.append(result)
        effort = f"{result.parameters:,} | {result.epochs} ({result.best_epoch}) | {result.seconds:.0f}"
        print(f"| {arguments.model} | {seed} | {figures_of(result.figures)} | {effort} |", flush=True)
    if len(results) > 1:
        mean = [statistics.fmean(column) for column in zip(*(result.figures for result in results), strict=True)]
        seconds = statistics.fmean(result.seconds for result in results)
        print(f"| {arguments.model} | mean | {figures_of(mean)} | | | {seconds:.0f} |")
    for name, reported in REPORTED.items():
        print(f"| {name}, reported | | | | {figures_of(reported)} | | | |")


if __name__ == "__main__":
    main()
