"""Pictures of clusters: where users lie, and what looking at fewer of them costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import torch

from befriend.retrieval.clusters import ClusterRetriever
from befriend.retrieval.moment import Moment
from befriend.tokens.figures import SHOWN, place_codes, placed

BLUE, ORANGE = "#0072B2", "#E69F00"


def draw_curve(curve: pl.DataFrame, path: Path) -> None:
    """Share of the users looked at against the share of the full search's recall."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    style = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}
    with mpl.rc_context(style):
        figure, axes = plt.subplots(figsize=(4.6, 3), layout="constrained")
        for beside, colour, mark, label in (
            (True, BLUE, "o", "clusters and the freshest"),
            (False, ORANGE, "s", "clusters alone"),
        ):
            rows = curve.filter(beside_fresh=beside)
            axes.plot(rows["looked"], rows["kept"], color=colour, marker=mark, ms=4, label=label)
        axes.set(xscale="log", xlabel="share of the users looked at", ylabel="share of the full Recall@10")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
        figure.savefig(path, dpi=110, metadata={"Software": None})
        plt.close(figure)


@torch.no_grad()
def place_users(retriever: ClusterRetriever, moment: Moment, of: np.ndarray, seed: int) -> pl.DataFrame:
    """user (number), x, y, cluster: clusters by t-SNE, users between those to which they belong."""
    shown = np.unique(np.linspace(0, max(len(of) - 1, 0), SHOWN).astype(np.int64))
    share = retriever.shares(torch.from_numpy(shown), moment).exp().numpy()
    centres = place_codes(retriever.clusters.clusters.centres.numpy(), seed)
    spread = np.random.default_rng(seed).normal(0, np.ptp(centres) / 150, (len(shown), 2))
    return placed(shown, share @ centres + spread, "cluster", of[shown])
