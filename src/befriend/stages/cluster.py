"""Stage cluster: learns user clusters on top of the two-tower model, and measures recall when few are searched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from befriend import artifacts, files
from befriend.analysis.cluster_figures import draw_curve, place_users_by_cluster
from befriend.analysis.cluster_summary import summarize_clusters
from befriend.analysis.probe_recall import SHARES, search_curve
from befriend.data.attributes import ATTRIBUTES_FILE, Attributes
from befriend.data.event_log import EVENTS_FILE, EventLog
from befriend.data.split import Split, read_split
from befriend.evaluation.protocol import make_eval_queries
from befriend.features.snapshot import FeatureSnapshot
from befriend.features.text_vectors import TextVectors
from befriend.models import trained_clusters as cluster_folder
from befriend.models.model_settings import ClusterSearchSettings
from befriend.models.trained_model import load_two_tower
from befriend.models.two_tower_model import NextTargetPredictionUserIDs
from befriend.objectives.cluster_objective import ClusterObjective, subspace_iteration
from befriend.objectives.cluster_settings import ClusterSettings
from befriend.retrieval.cluster_retriever import USERS_PER_BATCH, ClusterRetriever, ClusterView
from befriend.retrieval.retriever import ModelView
from befriend.tokens.codebook_metrics import code_usage, communities, community_agreement
from befriend.tokens.token_figures import draw_map
from befriend.tokens.user_vectors import InteractionGraph
from befriend.training.determinism import thread_limits
from befriend.training.loop import fit

if TYPE_CHECKING:
    from scipy.sparse import csr_array  # type: ignore[import-untyped]

MAP_FIGURE, MAP_FILE, CURVE_FIGURE, CURVE_FILE = "map.png", "map.csv", "curve.png", "curve.csv"
SUMMARIES_FILE, REPORT = "summaries.json", "report.md"
HALF_LIFE = 91.0  # days; of the edge weights of the graph whose communities the clusters are compared with
CURVE_EVENTS = 1000  # of the search curve, at most


@dataclass(frozen=True)
class ClusterResult:
    num_clusters: int
    num_used: int
    """clusters with at least one user"""
    largest_share: float
    """share of the users in the largest cluster"""
    homogeneity: float
    """of the clusters with respect to communities of the contact graph"""
    relative_recall: float
    """recall of the cluster search divided by that of the full search, at `searched_share`"""
    searched_share: float
    """share of the users that the cluster search scores, besides the most recently active ones"""

    def summary(self) -> str:
        return (
            f"{self.num_used} of {self.num_clusters} clusters in use, the largest with {self.largest_share:.1%} of the "
            f"users; homogeneity with respect to communities {self.homogeneity:.2f}; searching "
            f"{self.searched_share:.0%} of the users and the most recently active ones has {self.relative_recall:.1%} "
            "of the recall of the full search"
        )


def run(settings: ClusterSettings, prepared: Path, models: Path, reports: Path, checkpoints: Path) -> ClusterResult:
    """Reads the log and the two-tower model; writes clusters/ to `models`, clusters.json and clusters/ to `reports`.

    Trains on the training part alone. Resumes from `checkpoints` if these are of the same inputs and settings.
    """
    with thread_limits(settings.threads):
        return _run(settings, prepared, models, reports, checkpoints)


def _run(settings: ClusterSettings, prepared: Path, models: Path, reports: Path, checkpoints: Path) -> ClusterResult:
    log = EventLog.read(prepared)
    split = read_split(prepared, log)
    checkpoint = checkpoints / "cluster" / _input_digest(settings, split, prepared, models)
    base = load_two_tower(models / "two_tower", log, Attributes.read(prepared))
    feature_view = base.feature_view(log, TextVectors.read(models / "text", log))
    end = split.part("train")[1]
    graph = InteractionGraph(HALF_LIFE, {}).adjacency(log, np.arange(end), int(log.timestamp[end - 1]))
    objective = ClusterObjective(
        feature_view, split, settings, subspace_iteration(centered_embeddings(base.model, log.num_users), graph)
    )
    with files.atomic(reports / "clusters") as report_folder:
        report_folder.mkdir()
        fitted = fit(objective, settings, checkpoint, report_folder / "training")
        model = objective.model.cpu().eval()
        search = ClusterSearchSettings(**{name: getattr(settings, name) for name in ClusterSearchSettings.model_fields})
        retriever = ClusterRetriever(base.model, feature_view, base.settings, model, search)
        curve = _search_curve(retriever, log, split, settings)
        view = retriever.view_at(FeatureSnapshot(feature_view, len(log.timestamp), int(log.timestamp[-1]) + 1))
        cluster_of_user, membership = _assign_users(retriever, view)
        metrics = _usage_metrics(cluster_of_user, retriever.num_clusters, membership, graph, settings.seed)
        metrics |= {"epoch": fitted.best_epoch, "recall_at_share": round(fitted.best_value, 6)}
        metrics["search"] = _search_metrics(curve)
        _write_reports(report_folder, log, retriever, view, cluster_of_user, curve, metrics, settings)
    cluster_folder.save_clusters(models / "clusters", model, search, log, cluster_of_user, membership)
    files.write_json(reports / "clusters.json", metrics)
    files.remove(checkpoint.parent)
    nearest_share = min(SHARES, key=lambda share: abs(share - settings.probe_share))
    return ClusterResult(
        retriever.num_clusters,
        int(metrics["used"]),
        metrics["largest_share"],
        metrics["communities"]["homogeneity"],
        metrics["search"]["with_recent"][f"{nearest_share:g}"]["relative_recall"],
        nearest_share,
    )


def _input_digest(settings: ClusterSettings, split: Split, prepared: Path, models: Path) -> str:
    """Digest of all inputs and settings; names the folder of checkpoints."""
    model_digest = artifacts.fingerprint(models, artifacts.files_in(models / "two_tower"))
    tables = [prepared / name for name in (EVENTS_FILE, ATTRIBUTES_FILE)]
    return artifacts.fingerprint(prepared, tables, model_digest, f"{split.to_json()}", settings.model_dump_json())[:16]


def _search_curve(retriever: ClusterRetriever, log: EventLog, split: Split, settings: ClusterSettings) -> pl.DataFrame:
    """The table of `search_curve`, on daily evaluation queries of the validation part."""
    queries = make_eval_queries(log, split, "validation", min(CURVE_EVENTS, settings.validation_events), "daily")

    def by_cluster(view: ModelView) -> tuple[Tensor, int]:
        assert isinstance(view, ClusterView)
        return view.cluster_of_user[view.snapshot.eligible_users], retriever.num_clusters

    return search_curve(retriever, log, queries, "daily", {"clusters": by_cluster}, settings.recently_active)


def _assign_users(retriever: ClusterRetriever, view: ClusterView) -> tuple[np.ndarray, np.ndarray]:
    """int64[N], the cluster of each user as of the view, and float32[N], the user's largest membership.

    The view has no cluster for users without an event. They get the cluster with their largest membership.
    """
    with torch.no_grad():
        blocks = torch.arange(len(view.cluster_of_user)).split(USERS_PER_BATCH)
        best = [retriever.log_memberships(users, view.snapshot).exp().max(1) for users in blocks]
    membership = torch.cat([block.values for block in best]).numpy()
    best_cluster = torch.cat([block.indices for block in best])
    return torch.where(view.cluster_of_user < 0, best_cluster, view.cluster_of_user).numpy(), membership


def _search_metrics(curve: pl.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """The search curve for clusters.json: alone or with_recent -> share of the users -> metrics."""
    return {
        ("with_recent" if with_recent else "alone"): {
            f"{row['share']:g}": {name: row[name] for name in ("searched", "recall", "relative_recall")}
            for row in curve.filter(with_recent=with_recent).iter_rows(named=True)
        }
        for with_recent in (False, True)
    }


def _write_reports(
    folder: Path,
    log: EventLog,
    retriever: ClusterRetriever,
    view: ClusterView,
    cluster_of_user: np.ndarray,
    curve: pl.DataFrame,
    metrics: dict[str, Any],
    settings: ClusterSettings,
) -> None:
    """Writes the cluster summaries, the search curve, the map of the users and report.md to a folder."""
    summaries = summarize_clusters(log, cluster_of_user, retriever.num_clusters)
    files.write_json(folder / SUMMARIES_FILE, summaries)
    curve.write_csv(folder / CURVE_FILE)
    draw_curve(curve, folder / CURVE_FIGURE)
    points = place_users_by_cluster(retriever, view.snapshot, cluster_of_user, settings.seed)
    points.write_csv(folder / MAP_FILE)
    title = f"{points.height:,} users by cluster ({retriever.num_clusters})"
    draw_map(points, retriever.num_clusters, title, folder / MAP_FIGURE)
    files.write_text(folder / REPORT, report(metrics, summaries, curve, settings))


@torch.no_grad()
def centered_embeddings(model: NextTargetPredictionUserIDs, num_users: int) -> Tensor:
    """float32[N, D]: the two-tower model's static vectors of all users, minus its vector of an unknown user."""
    lookup = model.users.lookup()
    return model.users.without_clusters(torch.arange(num_users), lookup) - lookup.table[lookup.row_of_user[-1]]


def _usage_metrics(
    cluster_of_user: np.ndarray, num_clusters: int, membership: np.ndarray, graph: csr_array, seed: int
) -> dict[str, Any]:
    """Metrics of the assignment of users to clusters, for clusters.json.

    cluster_of_user: int64[N]; membership: float32[N], the largest of each user; graph: the contact graph of the
    training part, with whose communities the clusters of its users are compared.
    """
    trained_users = np.flatnonzero(graph.sum(1) > 0)
    usage = code_usage(torch.from_numpy(cluster_of_user), num_clusters)
    agreement = community_agreement(
        cluster_of_user[trained_users], communities(graph[trained_users][:, trained_users].tocsr(), seed), seed
    )
    size = np.bincount(cluster_of_user, minlength=num_clusters)
    return {
        "clusters": num_clusters,
        "used": int((size > 0).sum()),
        "perplexity": round(usage["perplexity"], 4),
        "largest_share": round(float(size.max() / len(cluster_of_user)), 6),
        "decided": round(float(membership.mean()), 6),
        "communities": {name: round(value, 6) for name, value in agreement.items()},
    }


def report(
    metrics: dict[str, Any], summaries: list[dict[str, Any]], curve: pl.DataFrame, settings: ClusterSettings
) -> str:
    """The metrics of clusters.json, the search curve and the cluster summaries, as Markdown."""
    agreement = metrics["communities"]
    lines = [
        "# Clusters",
        "",
        f"{metrics['used']} of {metrics['clusters']} clusters are in use, as evenly as {metrics['perplexity']:.0f} "
        f"clusters of equal size (perplexity); the largest has {metrics['largest_share']:.1%} of the users. The mean "
        f"of the largest membership of each user is {metrics['decided']:.0%}. The homogeneity of the clusters with "
        f"respect to the communities of the contact graph is {agreement['homogeneity']:.2f} (shuffled users: "
        f"{agreement['shuffled']:.2f}).",
        "",
        f"![users by cluster]({MAP_FIGURE})",
        "",
        "## Search space",
        "",
        "Recall@10 of first contacts on the validation part, with daily lists. Only a share of the users is scored: "
        f"those in the best clusters, alone or with the {settings.recently_active} most recently active users. "
        "Relative recall is the recall divided by that of the full search.",
        "",
        f"![share of the users searched against recall]({CURVE_FIGURE})",
        "",
        "| share of the users | clusters alone | relative | with recently active users | relative |",
        "|---:|---:|---:|---:|---:|",
    ]
    for share in SHARES:
        alone, recent = (
            curve.filter(pl.col("share") == share, with_recent=with_recent).select("recall", "relative_recall").row(0)
            if curve.height
            else (0, 0)
            for with_recent in (False, True)
        )
        lines.append(f"| {share:.1%} | {alone[0]:.4f} | {alone[1]:.1%} | {recent[0]:.4f} | {recent[1]:.1%} |")
    lines += ["", "## Summaries", ""]
    lines += [
        "| cluster | users | joined recently | contacts within | actions | most central users | neighbours |",
        "|---:|---:|---:|---:|---|---|---|",
    ]
    for summary in summaries:
        actions = ", ".join(f"{a['action']} {a['share']:.0%} ({a['lift']:.1f}x)" for a in summary["actions"])
        neighbours = ", ".join(f"{n['cluster']} ({n['share']:.0%})" for n in summary["neighbours"])
        central = ", ".join(map(str, summary["central"]))
        lines.append(
            f"| {summary['cluster']} | {summary['users']:,} ({summary['share']:.1%}) | {summary['joined']:.0%} | "
            f"{summary['within']:.0%} | {actions} | {central} | {neighbours} |"
        )
    return "\n".join(lines) + "\n"
