"""Charts of clusters: a map of the users, and the recall lost by searching fewer of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import torch

from befriend.features.snapshot import FeatureSnapshot
from befriend.retrieval.cluster_retriever import ClusterRetriever
from befriend.tokens.token_figures import MAX_POINTS, map_table, tsne_codes

BLUE, ORANGE = "#0072B2", "#E69F00"


def draw_curve(curve: pl.DataFrame, path: Path) -> None:
    """Plots the share of the users searched against the share of the full search's recall. curve: of `search_curve`."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    style = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}
    with mpl.rc_context(style):
        figure, axes = plt.subplots(figsize=(4.6, 3), layout="constrained")
        for with_recent, colour, mark, label in (
            (True, BLUE, "o", "clusters and the most recently active users"),
            (False, ORANGE, "s", "clusters alone"),
        ):
            rows = curve.filter(with_recent=with_recent)
            axes.plot(rows["searched"], rows["relative_recall"], color=colour, marker=mark, ms=4, label=label)
        axes.set(xscale="log", xlabel="share of the users searched", ylabel="share of the full Recall@10")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
        figure.savefig(path, dpi=110, metadata={"Software": None})
        plt.close(figure)


@torch.no_grad()
def place_users_by_cluster(
    retriever: ClusterRetriever, snapshot: FeatureSnapshot, cluster_of_user: np.ndarray, seed: int
) -> pl.DataFrame:
    """user (internal id), x, y, cluster: t-SNE of the cluster centres, users between the clusters they belong to.

    cluster_of_user: int64[N].
    """
    users = np.unique(np.linspace(0, max(len(cluster_of_user) - 1, 0), MAX_POINTS).astype(np.int64))
    memberships = retriever.log_memberships(torch.from_numpy(users), snapshot).exp().numpy()
    centres = tsne_codes(retriever.clusters.clusters.centres.numpy(), seed)
    jitter = np.random.default_rng(seed).normal(0, np.ptp(centres) / 150, (len(users), 2))
    return map_table(users, memberships @ centres + jitter, "cluster", cluster_of_user[users])
