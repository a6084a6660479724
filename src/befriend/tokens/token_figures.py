"""Figures of the tokens: how evenly codes are used, and a map of users coloured by their first token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from befriend.tokens.quantizer import Quantizer

MAX_POINTS = 20_000  # most users on a map
BLUE = "#0072b2"


def draw_use(stus: Tensor, vocabulary: tuple[int, ...], path: Path) -> None:
    """Draws the number of users of each code, in descending order, one panel per level. stus: int64[n, L]."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    style = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.titleweight": "bold"}
    with mpl.rc_context(style):
        figure, panels = plt.subplots(
            1, len(vocabulary), figsize=(3.2 * len(vocabulary), 2.6), layout="constrained", squeeze=False
        )
        for level, (axes, size) in enumerate(zip(panels[0], vocabulary, strict=True)):
            count = stus[:, level].bincount(minlength=size).sort(descending=True).values.numpy()
            axes.fill_between(np.arange(size), count, step="mid", color=BLUE, lw=0)
            axes.axhline(len(stus) / size, color="black", lw=0.8, ls=":")
            axes.set(title=f"token {level}: {(count > 0).mean():.0%} in use", xlabel="code, most used first")
            axes.set_ylim(bottom=0)
        panels[0, 0].set_ylabel("users (dotted: if all were equal)")
        figure.savefig(path, dpi=110, metadata={"Software": None})
        plt.close(figure)


def place_users_by_token(quantizer: Quantizer, vectors: Tensor, first: Tensor, seed: int) -> pl.DataFrame:
    """Map of users, columns user (internal id), x, y, token: codes by t-SNE, users around their code by residual.

    vectors: float32[n, D]; first: int64[n], the first tokens.
    """
    latents = quantizer.latents(vectors)
    shown = torch.from_numpy(np.unique(np.linspace(0, max(len(first) - 1, 0), MAX_POINTS).astype(int)))[: len(first)]
    code_points = tsne_codes(quantizer.codebooks[0].numpy(), seed)
    points = code_points[first[shown].numpy()]
    residual = latents[shown] - quantizer.codebooks[0][first[shown]]
    if len(residual) > 1:
        principal_axes = torch.linalg.eigh(residual.T @ residual).eigenvectors[:, -2:]
        spread = (residual @ principal_axes).numpy()
        points = points + _median_gap(code_points) / 5 * spread / max(float(spread.std()), 1e-9)
    return map_table(shown.numpy(), points, "token", first[shown].numpy())


def map_table(user: np.ndarray, points: np.ndarray, name: str, group: np.ndarray) -> pl.DataFrame:
    """Map of users, columns user, x, y, and `name`, their group. user, group: int64[n]; points: float[n, 2]."""
    x, y = points.T.astype(np.float64).round(3)
    return pl.DataFrame({"user": user, "x": x, "y": y, name: group})


def draw_map(points: pl.DataFrame, groups: int, title: str, seed: int, path: Path) -> None:
    """Draws a map of users, coloured by group. points: columns as of `map_table`; groups: number of groups."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    with mpl.rc_context({"font.size": 8}):
        figure, axes = plt.subplots(figsize=(6.4, 6), layout="constrained")
        colours = plt.get_cmap("nipy_spectral")(np.linspace(0.05, 0.95, groups))
        shuffled = np.random.default_rng(seed).permutation(groups)  # adjacent groups get unlike colours
        colour = colours[shuffled[points.to_series(3).to_numpy()]]
        axes.scatter(points["x"], points["y"], s=4, c=colour, lw=0, alpha=0.6)
        axes.set_axis_off()
        axes.set_title(title, weight="bold")
        figure.savefig(path, dpi=110, metadata={"Software": None})
        plt.close(figure)


def tsne_codes(codebook: np.ndarray, seed: int) -> np.ndarray:
    """float64[K, 2]: codes in the plane by t-SNE; on a circle if they are few or all equal. codebook: float32[K, d]."""
    from sklearn.manifold import TSNE  # type: ignore[import-untyped]

    is_degenerate = len(codebook) < 4 or np.ptp(codebook, axis=0).max() == 0
    if is_degenerate:
        angle = np.linspace(0, 2 * np.pi, len(codebook), endpoint=False)
        return np.stack([np.cos(angle), np.sin(angle)], 1)
    perplexity = min(10, (len(codebook) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(codebook).astype(np.float64)


def _median_gap(points: np.ndarray) -> float:
    """Median distance from a point to its nearest neighbour. points: float64[K, 2]."""
    gap = np.hypot(*(points[:, None] - points[None]).T)
    np.fill_diagonal(gap, np.inf)
    return float(np.median(gap.min(1)))
