"""What looking at fewer people costs, and what a more complex model gives: the two on one axis.

    python bench/clusters.py PROJECT [--part test] [--events 1500] [--variants] [--figure FILE [--title TEXT]]

PROJECT is a folder after `dvc repro`. Recall@10 of first contacts, lists of the day, by the share of the users that a
query looks at, alone and beside the 500 who were active last. Users are parted by the clusters of stage `cluster`; by
faiss k-means (IVF) with as many lists on the very vectors that are searched, learned at the first moment, everybody
assigned anew at each; by first STU tokens; by communities of the contact graph; at random. Of each partition a query
looks at the lists whose users score best on average. `--variants` trains the two-tower model anew with other parts, one
seed each, and gives its full search. Times are of lists for one user at a time, as of the last moment, the fastest of
three runs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import polars as pl
import torch
from torch import Tensor

from befriend import layout
from befriend.config import load_params
from befriend.data.attributes import Attributes
from befriend.data.log import EventLog
from befriend.data.observed import Observed
from befriend.data.split import Split, read_split
from befriend.data.texts import TextVectors
from befriend.evaluation.protocol import Questions, ask, requests
from befriend.evaluation.search_space import SHARES, Partition, search_curve
from befriend.models import cluster_folder
from befriend.models.cluster_settings import SearchSettings
from befriend.models.folder import load
from befriend.retrieval.clusters import ClusterRetriever, ClusterView
from befriend.retrieval.moment import Moment
from befriend.retrieval.retriever import Pairs, View
from befriend.retrieval.two_tower import TwoTowerRetriever
from befriend.tokens.catalogue import communities
from befriend.tokens.folder import load as load_tokens
from befriend.tokens.user_vectors import Graph
from befriend.training.loop import fit
from befriend.training.two_tower import TwoTowerTrainee

FRESH, ONE_BY_ONE = 500, 200
VARIANTS: dict[str, dict[str, Any]] = {
    "MoE instead of MLP": {"interaction": "moe"},
    "pooled attention instead of transformer": {"history_encoder": "simple_attention"},
    "no ID embedding, history of one event": {"id_embedding": False, "history_length": 1},
}


class Lists:
    """k-means on the vectors of the first moment; whoever is asked about later goes to the nearest mean."""

    means: faiss.Kmeans | None = None

    def __init__(self, count: int):
        self.count = count

    def __call__(self, view: View) -> tuple[Tensor, int]:
        vectors = view.vectors.numpy()
        if self.means is None:
            self.means = faiss.Kmeans(vectors.shape[1], self.count, niter=20, seed=0, min_points_per_centroid=1)
            self.means.train(vectors)
        return torch.from_numpy(self.means.index.search(vectors, 1)[1][:, 0]), self.count


def partitions(retriever: ClusterRetriever, log: EventLog, split: Split, stus: Tensor) -> dict[str, Partition]:
    count, end = retriever.count, split.part("train")[1]
    graph = Graph(91.0, {}).adjacency(log, np.arange(end), int(log.timestamp[end - 1]))
    rng = np.random.default_rng(0)
    found = communities(graph, 0)
    tied = graph.sum(1) > 0
    placed = np.where(tied, found, rng.choice(found[tied], len(found)))  # newcomers: anywhere
    groups = torch.from_numpy(np.unique(placed, return_inverse=True)[1])
    shuffled = torch.from_numpy(rng.integers(count, size=log.num_users))

    def of(lists: Tensor) -> Partition:
        return lambda view: (lists[view.moment.ids], int(lists.max()) + 1)

    def by_cluster(view: View) -> tuple[Tensor, int]:
        assert isinstance(view, ClusterView)
        return view.of[view.moment.ids], count

    return {
        "in-model clusters": by_cluster,
        "faiss IVF": Lists(count),
        "first STU token": of(stus[:, 0]),
        "graph communities": of(groups),
        "random groups": of(shuffled),
    }


def waits(retriever: TwoTowerRetriever, log: EventLog, questions: Questions) -> float:
    """Milliseconds of a list for one user."""
    *_, (request, _, _) = requests(log, retriever.activity.histories, {"daily": questions})
    visible, horizon = (np.full(len(request), x[-1]) for x in (request.visible, request.horizon))
    request = replace(request, visible=visible, horizon=horizon)
    rows = np.linspace(0, len(request) - 1, ONE_BY_ONE).astype(int)
    query = retriever.queries(request).to_dtype(torch.float32)
    view = retriever.at(Moment(retriever.observed, int(visible[0]), int(horizon[0])))
    none = torch.empty(0, dtype=torch.long)
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        for row in rows:
            retriever.propose(view, query.of(slice(row, row + 1)), 10, Pairs(none, none), None)
        best = min(best, time.perf_counter() - start)
    return 1000 * best / len(rows)


def trained(root: Path, log: EventLog, texts: TextVectors, split: Split, option: dict[str, Any]) -> TwoTowerRetriever:
    settings = load_params(root / "params.yaml").train_two_tower.model_copy(update=option)
    observed = Observed.of(log, settings.received_events, texts=texts if settings.texts else None)
    trainee = TwoTowerTrainee(observed, Attributes.read(root / layout.PREPARED), split, settings)
    with tempfile.TemporaryDirectory() as folder:
        fit(trainee, settings, Path(folder) / "checkpoints", Path(folder) / "curves")
    return TwoTowerRetriever(trainee.model, observed, settings)


def draw(curve: pl.DataFrame, variants: dict[str, float], title: str, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    colours = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#7F7F7F")
    with mpl.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        figure, row = plt.subplots(1, 2, figsize=(8.4, 3.2), sharey=True, layout="constrained")
        for axes, beside in zip(row, (False, True), strict=True):
            for colour, name in zip(colours, curve["partition"].unique(maintain_order=True), strict=True):
                points = curve.filter(partition=name, beside_fresh=beside)
                axes.plot(points["looked"], points["recall"], color=colour, marker="o", ms=3, lw=1.2, label=name)
            for mark, (name, recall) in zip("^vD", variants.items(), strict=False):
                axes.plot([1.2], [recall], mark, color="black", ms=4, mfc="none", label=name)
            axes.set(xscale="log", xlabel="share of the users looked at")
            axes.set_title(f"{title}, {'beside the 500 freshest' if beside else 'alone'}", weight="bold")
        row[0].set_ylabel("Recall@10, first contacts, daily")
        row[0].set_ylim(bottom=0)
        handles, labels = row[0].get_legend_handles_labels()
        count = len(handles) - len(variants)
        row[0].legend(handles[:count], labels[:count], frameon=False, fontsize=7)
        if variants:
            row[1].legend(handles[count:], labels[count:], frameon=False, fontsize=7, title="everybody, by")
        figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("--part", choices=["validation", "test"], default="validation")
    parser.add_argument("--events", type=int, default=1500)
    parser.add_argument("--variants", action="store_true", help="train other two-tower models, and measure them")
    parser.add_argument("--figure", type=Path, help="where to draw the curves")
    parser.add_argument("--title", help="of the figure; the folder's name without")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    root = arguments.project
    log = EventLog.read(root / layout.PREPARED)
    split, texts = read_split(root / layout.PREPARED, log), TextVectors.read(root / layout.TEXT, log)
    base = load(root / layout.TWO_TOWER, log, Attributes.read(root / layout.PREPARED))
    observed = base.look(log, texts)
    model, search = cluster_folder.load(root / layout.CLUSTERS, log)
    retriever = ClusterRetriever(base.model, observed, base.tower, model, search)
    stus = load_tokens(root / layout.TOKENS, log, texts).joined(log).table.stus
    questions = ask(log, split, arguments.part, arguments.events, "daily")
    parted = partitions(retriever, log, split, stus)
    curve = search_curve(retriever, log, questions, "daily", parted, FRESH)
    full = float(curve["recall"][-1])
    print(f"{log.num_users:,} users, {retriever.count} clusters, {int(questions.row_is_new.sum()):,} lists; ", end="")
    print(f"Recall@10 of the full search {full:.4f}\n")
    for beside in (False, True):
        print(f"beside the {FRESH} freshest:" if beside else "alone:")
        print(f"\n| share | {' | '.join(parted)} |\n|---:|{'---:|' * len(parted)}")
        for share in SHARES[:-1]:
            cells = curve.filter(pl.col("share") == share, beside_fresh=beside)
            kept = dict(cells.select("partition", "kept").iter_rows())
            print(f"| {share:.1%} | {' | '.join(f'{kept[name]:.1%}' for name in parted)} |")
        print()
    exact = TwoTowerRetriever(base.model, observed, base.tower)
    approximate = TwoTowerRetriever(base.model, observed, base.tower, approximate=True)
    few = ClusterRetriever(base.model, observed, base.tower, model, SearchSettings(share=0.05, fresh=FRESH))
    for name, one in (("everybody", exact), ("5 % in clusters and the freshest", few), ("index", approximate)):
        print(f"a list for one user, {name}: {waits(one, log, questions):.2f} ms")
    found = {}
    for name, option in VARIANTS.items() if arguments.variants else ():
        other = trained(root, log, texts, split, option)
        alone = search_curve(
            other, log, questions, "daily", {"all": lambda view: (torch.zeros_like(view.moment.ids), 1)}, FRESH
        )
        found[name] = float(alone["recall"][-1])
        print(f"{name}: Recall@10 {found[name]:.4f} ({found[name] / full:.1%})", flush=True)
    if arguments.figure:
        draw(curve, found, arguments.title or root.resolve().name, arguments.figure)


if __name__ == "__main__":
    main()
