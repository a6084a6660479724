"""Figures of the clusters: a map of the users, and recall by the share of the users that a query searches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import torch

from befriend.features.snapshot import FeatureSnapshot
from befriend.plots import LIGHT, saved_figure
from befriend.retrieval.cluster_retriever import ClusterRetriever
from befriend.tokens.token_figures import MAX_POINTS, map_table, tsne_codes


def draw_curve(curve: pl.DataFrame, path: Path) -> None:
    """Draws recall relative to the full search against the share of the users searched. curve: of `search_curve`."""
    with saved_figure(path, width=4.6, height=3) as figure:
        axes = figure.subplots()
        for with_recent, colour, mark, label in (
            (True, LIGHT.series[0], "o", "clusters and the most recently active users"),
            (False, LIGHT.series[1], "s", "clusters alone"),
        ):
            rows = curve.filter(with_recent=with_recent)
            axes.plot(rows["searched"], rows["relative_recall"], color=colour, marker=mark, ms=4, label=label)
        axes.set(xscale="log", xlabel="share of the users searched", ylabel="share of the full Recall@10")
        axes.set_ylim(bottom=0)
        axes.legend()


@torch.no_grad()
def place_users_by_cluster(
    retriever: ClusterRetriever, snapshot: FeatureSnapshot, cluster_of_user: np.ndarray, seed: int
) -> pl.DataFrame:
    """Map of users, columns user (internal id), x, y, cluster.

    Cluster centres are placed by t-SNE, and users at the mean of the centres, weighted by their memberships.
    cluster_of_user: int64[N].
    """
    users = np.unique(np.linspace(0, max(len(cluster_of_user) - 1, 0), MAX_POINTS).astype(np.int64))
    memberships = retriever.log_memberships(torch.from_numpy(users), snapshot).exp().numpy()
    centres = tsne_codes(retriever.clusters.clusters.centres.numpy(), seed)
    jitter = np.random.default_rng(seed).normal(0, np.ptp(centres) / 150, (len(users), 2))
    return map_table(users, memberships @ centres + jitter, "cluster", cluster_of_user[users])
