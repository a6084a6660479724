"""Recall of searches over a share of the users, for several partitions of the users; recall of other model variants.

    python bench/clusters.py PROJECT [--part test] [--events 1500] [--variants] [--figure FILE [--title TEXT]]

PROJECT is a folder after `dvc repro`. Measures Recall@10 of first contacts in the daily regime, by the share of the
users that a query scores; once with the 500 most recently active users always scored, and once without. Users are
partitioned by the clusters of stage `cluster`; by faiss k-means (IVF) with as many lists, fitted to the searched
vectors of the first cutoff, and assigned again at each cutoff; by first STU token; by communities of the contact graph;
at random. In each partition, a query searches the lists with the best mean score of their users. `--variants` also
trains the two-tower model with other components, one seed each, and measures its full search.

Prints the full search's recall; tables of recall relative to it, by share and partition; milliseconds per list for one
user at a time, as of the last cutoff, the fastest of three runs; and the recall of each variant.
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
from befriend.analysis.probe_recall import SHARES, Partition, search_curve
from befriend.config import load_params
from befriend.data.attributes import Attributes
from befriend.data.event_log import EventLog
from befriend.data.split import Split, read_split
from befriend.evaluation.model_validation import two_tower_validation
from befriend.evaluation.protocol import EvalQueries, make_eval_queries, make_requests
from befriend.features.feature_view import FeatureView
from befriend.features.snapshot import FeatureSnapshot
from befriend.features.text_vectors import TextVectors
from befriend.models import trained_clusters as cluster_folder
from befriend.models.model_settings import ClusterSearchSettings
from befriend.models.trained_model import load_two_tower
from befriend.objectives.two_tower_objective import TwoTowerObjective
from befriend.plots import LIGHT, saved_figure
from befriend.retrieval.cluster_retriever import ClusterRetriever, ClusterView
from befriend.retrieval.retriever import ExcludedPairs, ModelView
from befriend.retrieval.two_tower_retriever import TwoTowerRetriever
from befriend.tokens.codebook_metrics import communities
from befriend.tokens.tokenizer import load_tokenizer
from befriend.tokens.user_vectors import InteractionGraph
from befriend.training.loop import fit

RECENT, TIMED_REQUESTS = 500, 200
VARIANTS: dict[str, dict[str, Any]] = {
    "MoE instead of MLP": {"interaction": "moe"},
    "pooled attention instead of transformer": {"history_encoder": "simple_attention"},
    "no ID embedding, history of one event": {"id_embedding": False, "history_length": 1},
}


class KMeansLists:
    """k-means on the vectors of the first view; users of later views are assigned to the nearest centroid."""

    means: faiss.Kmeans | None = None

    def __init__(self, count: int):
        self.count = count

    def __call__(self, view: ModelView) -> tuple[Tensor, int]:
        vectors = view.vectors.numpy()
        if self.means is None:
            self.means = faiss.Kmeans(vectors.shape[1], self.count, niter=20, seed=0, min_points_per_centroid=1)
            self.means.train(vectors)
        return torch.from_numpy(self.means.index.search(vectors, 1)[1][:, 0]), self.count


def partitions(retriever: ClusterRetriever, log: EventLog, split: Split, stus: Tensor) -> dict[str, Partition]:
    """The compared partitions of the users, by name. stus: int64[N, L]."""
    count, end = retriever.num_clusters, split.part("train")[1]
    graph = InteractionGraph(91.0, {}).adjacency(log, np.arange(end), int(log.timestamp[end - 1]))
    rng = np.random.default_rng(0)
    community = communities(graph, 0)
    has_ties = graph.sum(1) > 0
    # Users without ties, the newcomers, get a random community.
    group = np.where(has_ties, community, rng.choice(community[has_ties], len(community)))
    groups = torch.from_numpy(np.unique(group, return_inverse=True)[1])
    shuffled = torch.from_numpy(rng.integers(count, size=log.num_users))

    def fixed_lists(lists: Tensor) -> Partition:
        return lambda view: (lists[view.snapshot.eligible_users], int(lists.max()) + 1)

    def by_cluster(view: ModelView) -> tuple[Tensor, int]:
        assert isinstance(view, ClusterView)
        return view.cluster_of_user[view.snapshot.eligible_users], count

    return {
        "in-model clusters": by_cluster,
        "faiss IVF": KMeansLists(count),
        "first STU token": fixed_lists(stus[:, 0]),
        "graph communities": fixed_lists(groups),
        "random groups": fixed_lists(shuffled),
    }


def milliseconds_per_list(retriever: TwoTowerRetriever, log: EventLog, queries: EvalQueries) -> float:
    """Milliseconds per list, for one user at a time as of the last cutoff."""
    *_, (request, _, _) = make_requests(log, retriever.activity.histories, {"daily": queries})
    num_visible, cutoff = (np.full(len(request), x[-1]) for x in (request.num_visible, request.cutoff))
    request = replace(request, num_visible=num_visible, cutoff=cutoff)
    rows = np.linspace(0, len(request) - 1, TIMED_REQUESTS).astype(int)
    query = retriever.queries(request).to_dtype(torch.float32)
    view = retriever.view_at(FeatureSnapshot(retriever.feature_view, int(num_visible[0]), int(cutoff[0])))
    no_pairs = torch.empty(0, dtype=torch.long)
    fastest = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        for row in rows:
            retriever.propose(view, query.select(slice(row, row + 1)), 10, ExcludedPairs(no_pairs, no_pairs), None)
        fastest = min(fastest, time.perf_counter() - start)
    return 1000 * fastest / len(rows)


def train_variant(
    root: Path, log: EventLog, texts: TextVectors, split: Split, option: dict[str, Any]
) -> TwoTowerRetriever:
    """The two-tower model, trained with one option changed."""
    settings = load_params(root / "params.yaml").train_two_tower.model_copy(update=option)
    feature_view = FeatureView.of(log, settings.received_events, texts=texts if settings.texts else None)
    validate = two_tower_validation(feature_view, split, settings)
    objective = TwoTowerObjective(feature_view, Attributes.read(root / layout.PREPARED), split, settings, validate)
    with tempfile.TemporaryDirectory() as folder:
        fit(objective, settings, Path(folder) / "checkpoints", Path(folder) / "curves")
    return TwoTowerRetriever(objective.model, feature_view, settings)


def draw(curve: pl.DataFrame, variants: dict[str, float], title: str, path: Path) -> None:
    """Draws the curves of all partitions, without and with the most recently active users, and the variants' recall."""
    colours = (*LIGHT.series[:4], LIGHT.neutral)
    with saved_figure(path, width=8.4, height=3.2) as figure:
        row = figure.subplots(1, 2, sharey=True)
        for axes, with_recent in zip(row, (False, True), strict=True):
            for colour, name in zip(colours, curve["partition"].unique(maintain_order=True), strict=True):
                points = curve.filter(partition=name, with_recent=with_recent)
                axes.plot(points["searched"], points["recall"], color=colour, marker="o", ms=3, lw=1.2, label=name)
            for marker, (name, recall) in zip("^vD", variants.items(), strict=False):
                axes.plot([1.2], [recall], marker, color=LIGHT.ink, ms=4, mfc="none", label=name)
            axes.set(xscale="log", xlabel="share of users searched")
            axes.set_title(f"{title}, {'with the 500 most recently active' if with_recent else 'best lists alone'}")
        row[0].set_ylabel("Recall@10, first contacts, daily")
        row[0].set_ylim(bottom=0)
        handles, labels = row[0].get_legend_handles_labels()
        count = len(handles) - len(variants)
        row[0].legend(handles[:count], labels[:count], fontsize=7)
        if variants:
            row[1].legend(handles[count:], labels[count:], fontsize=7, title="full search by")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("--part", choices=["validation", "test"], default="validation")
    parser.add_argument("--events", type=int, default=1500)
    parser.add_argument("--variants", action="store_true", help="also train and measure other two-tower models")
    parser.add_argument("--figure", type=Path, help="file to draw the curves to")
    parser.add_argument("--title", help="title of the figure; default: the name of the folder")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    root = arguments.project
    log = EventLog.read(root / layout.PREPARED)
    split, texts = read_split(root / layout.PREPARED, log), TextVectors.read(root / layout.TEXT, log)
    base = load_two_tower(root / layout.TWO_TOWER, log, Attributes.read(root / layout.PREPARED))
    feature_view = base.feature_view(log, texts)
    model, search = cluster_folder.load_clusters(root / layout.CLUSTERS, log)
    retriever = ClusterRetriever(base.model, feature_view, base.settings, model, search)
    stus = load_tokenizer(root / layout.TOKENS, log, texts).add_newcomers(log).table.stus
    queries = make_eval_queries(log, split, arguments.part, arguments.events, "daily")
    named_partitions = partitions(retriever, log, split, stus)
    curve = search_curve(retriever, log, queries, "daily", named_partitions, RECENT)
    full = float(curve["recall"][-1])
    num_lists = int(queries.row_excludes_contacts.sum())
    print(f"{log.num_users:,} users, {retriever.num_clusters} clusters, {num_lists:,} lists; ", end="")
    print(f"Recall@10 of the full search {full:.4f}\n")
    for with_recent in (False, True):
        print(f"with the {RECENT} most recently active users:" if with_recent else "without them:")
        print(f"\n| share | {' | '.join(named_partitions)} |\n|---:|{'---:|' * len(named_partitions)}")
        for share in SHARES[:-1]:
            cells = curve.filter(pl.col("share") == share, with_recent=with_recent)
            relative_recall = dict(cells.select("partition", "relative_recall").iter_rows())
            print(f"| {share:.1%} | {' | '.join(f'{relative_recall[name]:.1%}' for name in named_partitions)} |")
        print()
    exact = TwoTowerRetriever(base.model, feature_view, base.settings)
    approximate = TwoTowerRetriever(base.model, feature_view, base.settings, approximate=True)
    cluster_search = ClusterRetriever(
        base.model, feature_view, base.settings, model, ClusterSearchSettings(probe_share=0.05, recently_active=RECENT)
    )
    for name, searcher in (
        ("full search", exact),
        ("5 % of the users and the most recently active", cluster_search),
        ("approximate index", approximate),
    ):
        print(f"one list, {name}: {milliseconds_per_list(searcher, log, queries):.2f} ms")
    variant_recall = {}
    for name, option in VARIANTS.items() if arguments.variants else ():
        variant = train_variant(root, log, texts, split, option)
        full_search = search_curve(
            variant,
            log,
            queries,
            "daily",
            {"all": lambda view: (torch.zeros_like(view.snapshot.eligible_users), 1)},
            RECENT,
        )
        variant_recall[name] = float(full_search["recall"][-1])
        print(f"{name}: Recall@10 {variant_recall[name]:.4f} ({variant_recall[name] / full:.1%})", flush=True)
    if arguments.figure:
        draw(curve, variant_recall, arguments.title or root.resolve().name, arguments.figure)


if __name__ == "__main__":
    main()
