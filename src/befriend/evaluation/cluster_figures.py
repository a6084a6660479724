"""Pictures of clusters: where users lie, and what looking at fewer of them costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import torch

from befriend.retrieval.clusters import ClusterRetriever
from befriend.tokens.figures import place_codes

SHOWN = 20_000  # users on the map at most
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
def draw_map(retriever: ClusterRetriever, of: np.ndarray, seed: int, path: Path) -> None:
    """Users in the plane, coloured by cluster: clusters by t-SNE, users between the two to which they belong most."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    shown = np.unique(np.linspace(0, max(len(of) - 1, 0), SHOWN).astype(np.int64))
    share = retriever.shares(torch.from_numpy(shown)).exp().numpy()
    centres = place_codes(retriever.clusters.clusters.centres.numpy(), seed)
    spread = np.random.default_rng(seed).normal(0, np.ptp(centres) / 150, (len(shown), 2))
    place = share @ centres + spread
    with mpl.rc_context({"font.size": 8}):
        figure, axes = plt.subplots(figsize=(6.4, 6), layout="constrained")
        colours = plt.get_cmap("nipy_spectral")(np.linspace(0.05, 0.95, len(centres)))
        mixed = np.random.default_rng(seed).permutation(len(colours))  # neighbours do not look alike
        axes.scatter(*place.T, s=4, c=colours[mixed[of[shown]]], lw=0, alpha=0.6)
        axes.set_axis_off()
        axes.set_title(f"{len(shown):,} users by cluster ({len(centres)})", weight="bold")
        figure.savefig(path, dpi=110, metadata={"Software": None})
        plt.close(figure)
