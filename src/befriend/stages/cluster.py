"""Stage cluster: learns clusters on top of the two-tower model, and says what they are like and what they save."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from befriend import files
from befriend.data.attributes import ATTRIBUTES_FILE, Attributes
from befriend.data.log import EVENTS_FILE, EventLog
from befriend.data.split import read_split
from befriend.data.texts import TextVectors
from befriend.evaluation.cards import cards
from befriend.evaluation.cluster_figures import draw_curve, place_users
from befriend.evaluation.protocol import ask
from befriend.evaluation.search_space import SHARES, search_curve
from befriend.models import cluster_folder
from befriend.models.cluster_settings import ClusterSettings, SearchSettings
from befriend.models.folder import load
from befriend.models.two_tower import NextTargetPredictionUserIDs
from befriend.retrieval.clusters import AT_ONCE, ClusterRetriever, ClusterView
from befriend.retrieval.moment import Moment
from befriend.retrieval.retriever import View
from befriend.tokens.catalogue import agreement, communities, use
from befriend.tokens.figures import draw_map
from befriend.tokens.user_vectors import Graph
from befriend.training.clusters import ClusterTrainee, propagated
from befriend.training.loop import fit
from befriend.training.reproducible import limited

if TYPE_CHECKING:
    from scipy.sparse import csr_array  # type: ignore[import-untyped]

MAP_FIGURE, MAP_FILE, CURVE_FIGURE, CURVE_FILE = "map.png", "map.csv", "curve.png", "curve.csv"
CARDS_FILE, REPORT = "cards.json", "report.md"
HALF_LIFE = 91.0  # days, of the graph whose communities the clusters are compared with
CURVE_EVENTS = 1000


@dataclass(frozen=True)
class ClusterResult:
    clusters: int
    used: int
    largest: float
    homogeneity: float
    kept: float
    share: float

    def summary(self) -> str:
        return (
            f"{self.used} of {self.clusters} clusters in use, the largest with {self.largest:.1%} of the users; within "
            f"communities to {self.homogeneity:.2f}; a search of {self.share:.0%} of the users and the freshest keeps "
            f"{self.kept:.1%} of the recall"
        )


def run(settings: ClusterSettings, prepared: Path, models: Path, reports: Path, checkpoints: Path) -> ClusterResult:
    """Reads the log and the two-tower model; writes clusters/ to `models`, clusters.json and clusters/ to `reports`.

    Learns from the training part alone, and goes on from what lies in checkpoints/ for the same inputs and settings.
    """
    with limited(settings.threads):
        return _run(settings, prepared, models, reports, checkpoints)


def _run(settings: ClusterSettings, prepared: Path, models: Path, reports: Path, checkpoints: Path) -> ClusterResult:
    log = EventLog.read(prepared)
    split = read_split(prepared, log)
    told = "".join(files.sha256(prepared / name) for name in (EVENTS_FILE, ATTRIBUTES_FILE))
    told += "".join(files.sha256(path) for path in sorted((models / "two_tower").iterdir()))
    digest = hashlib.sha256(f"{told}{split.to_json()}{settings.model_dump_json()}".encode()).hexdigest()[:16]
    kept = checkpoints / "cluster" / digest
    base = load(models / "two_tower", log, Attributes.read(prepared))
    observed = base.look(log, TextVectors.read(models / "text", log))
    end = split.part("train")[1]
    graph = Graph(HALF_LIFE, {}).adjacency(log, np.arange(end), int(log.timestamp[end - 1]))
    trainee = ClusterTrainee(observed, split, settings, propagated(standing(base.model, log.num_users), graph))
    with files.atomic(reports / "clusters") as drawn:
        drawn.mkdir()
        fitted = fit(trainee, settings, kept, drawn / "training")
        model = trainee.model.cpu().eval()
        search = SearchSettings(**{name: getattr(settings, name) for name in SearchSettings.model_fields})
        retriever = ClusterRetriever(base.model, observed, base.tower, model, search)
        questions = ask(log, split, "validation", min(CURVE_EVENTS, settings.validation_events), "daily")
        count = retriever.count

        def by_cluster(view: View) -> tuple[Tensor, int]:
            assert isinstance(view, ClusterView)
            return view.of[view.moment.ids], count

        curve = search_curve(retriever, log, questions, "daily", {"clusters": by_cluster}, settings.fresh)
        view = retriever.at(Moment(observed, len(log.timestamp), int(log.timestamp[-1]) + 1))
        with torch.no_grad():
            everyone = torch.arange(log.num_users).split(AT_ONCE)
            best = [retriever.shares(some, view.moment).exp().max(1) for some in everyone]
        share = torch.cat([part.values for part in best]).numpy()
        # Who has no event yet belongs where nothing tells against it.
        of = torch.where(view.of < 0, torch.cat([part.indices for part in best]), view.of).numpy()
        figures = _figures(of, count, share, graph, settings.seed)
        figures |= {"epoch": fitted.best_epoch, "found": round(fitted.value, 6)}
        figures["search"] = {
            ("beside_fresh" if beside else "alone"): {
                f"{row['share']:g}": {name: row[name] for name in ("looked", "recall", "kept")}
                for row in curve.filter(beside_fresh=beside).iter_rows(named=True)
            }
            for beside in (False, True)
        }
        told_cards = cards(log, of, count)
        files.write_json(drawn / CARDS_FILE, told_cards)
        curve.write_csv(drawn / CURVE_FILE)
        draw_curve(curve, drawn / CURVE_FIGURE)
        places = place_users(retriever, view.moment, of, settings.seed)
        places.write_csv(drawn / MAP_FILE)
        draw_map(places, count, f"{places.height:,} users by cluster ({count})", settings.seed, drawn / MAP_FIGURE)
        files.write_text(drawn / REPORT, report(figures, told_cards, curve, settings))
    cluster_folder.save(models / "clusters", model, search, log, of, share)
    files.write_json(reports / "clusters.json", figures)
    files.remove(kept.parent)
    near = min(SHARES, key=lambda s: abs(s - settings.share))
    return ClusterResult(
        count,
        int(figures["used"]),
        figures["largest_share"],
        figures["communities"]["homogeneity"],
        figures["search"]["beside_fresh"][f"{near:g}"]["kept"],
        near,
    )


@torch.no_grad()
def standing(model: NextTargetPredictionUserIDs, users: int) -> Tensor:
    """float32[N, D]: what the two-tower model knows of users, less what it knows of somebody unknown."""
    rows = model.users.rows()
    return model.users.alone(torch.arange(users), rows) - rows.table[rows.number[-1]]


def _figures(of: np.ndarray, count: int, share: np.ndarray, graph: csr_array, seed: int) -> dict[str, Any]:
    """graph: of the training part, with whose communities the clusters of its users are compared."""
    trained = np.flatnonzero(graph.sum(1) > 0)
    used = use(torch.from_numpy(of), count)
    groups = agreement(of[trained], communities(graph[trained][:, trained].tocsr(), seed), seed)
    size = np.bincount(of, minlength=count)
    return {
        "clusters": count,
        "used": int((size > 0).sum()),
        "perplexity": round(used["perplexity"], 4),
        "largest_share": round(float(size.max() / len(of)), 6),
        "decided": round(float(share.mean()), 6),
        "communities": {name: round(value, 6) for name, value in groups.items()},
    }


def report(figures: dict[str, Any], told: list[dict[str, Any]], curve: pl.DataFrame, settings: ClusterSettings) -> str:
    """The metrics file and the cards, to be read."""
    groups = figures["communities"]
    lines = [
        "# Clusters",
        "",
        f"{figures['used']} of {figures['clusters']} clusters in use, as evenly as {figures['perplexity']:.0f} equal "
        f"ones; the largest holds {figures['largest_share']:.1%} of the users. On average a user belongs to their "
        f"cluster to {figures['decided']:.0%}. They lie within communities of the contact graph to "
        f"{groups['homogeneity']:.2f} (homogeneity; shuffled users: {groups['shuffled']:.2f}).",
        "",
        f"![users by cluster]({MAP_FIGURE})",
        "",
        "## Search space",
        "",
        "Recall@10 of first contacts on the validation part, lists of the day: looking at the clusters that promise "
        f"most, alone and beside the {settings.fresh} users active last.",
        "",
        f"![share looked at against recall]({CURVE_FIGURE})",
        "",
        "| share of the users | alone | kept | beside the freshest | kept |",
        "|---:|---:|---:|---:|---:|",
    ]
    for share in SHARES:
        alone, beside = (
            curve.filter(pl.col("share") == share, beside_fresh=b).select("recall", "kept").row(0)
            if curve.height
            else (0, 0)
            for b in (False, True)
        )
        lines.append(f"| {share:.1%} | {alone[0]:.4f} | {alone[1]:.1%} | {beside[0]:.4f} | {beside[1]:.1%} |")
    lines += ["", "## Cards", ""]
    lines += [
        "| cluster | users | joined lately | within | does | in the middle | neighbours |",
        "|---:|---:|---:|---:|---|---|---|",
    ]
    for card in told:
        does = ", ".join(f"{a['action']} {a['share']:.0%} ({a['lift']:.1f}x)" for a in card["actions"])
        near = ", ".join(f"{n['cluster']} ({n['share']:.0%})" for n in card["neighbours"])
        middle = ", ".join(map(str, card["central"]))
        lines.append(
            f"| {card['cluster']} | {card['users']:,} ({card['share']:.1%}) | {card['joined']:.0%} | "
            f"{card['within']:.0%} | {does} | {middle} | {near} |"
        )
    return "\n".join(lines) + "\n"
