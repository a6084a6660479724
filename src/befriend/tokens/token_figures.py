"""Figures of STUs: number of users per code, and a map of users coloured by their first token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from befriend.plots import LIGHT, group_colours, saved_figure
from befriend.tokens.quantizer import Quantizer

MAX_POINTS = 20_000  # users on a map


def draw_code_usage(stus: Tensor, vocabulary: tuple[int, ...], path: Path) -> None:
    """Draws the number of users per code, in descending order, one panel per level. stus: int64[n, L]."""
    with saved_figure(path, width=3.2 * len(vocabulary), height=2.6) as figure:
        panels = figure.subplots(1, len(vocabulary), squeeze=False)
        for level, (axes, size) in enumerate(zip(panels[0], vocabulary, strict=True)):
            count = stus[:, level].bincount(minlength=size).sort(descending=True).values.numpy()
            axes.fill_between(np.arange(size), count, step="mid", color=LIGHT.series[0], lw=0)
            axes.axhline(len(stus) / size, color=LIGHT.ink, lw=0.8, ls=":")
            axes.set(title=f"token {level}: {(count > 0).mean():.0%} in use", xlabel="code, most used first")
            axes.set_ylim(bottom=0)
        panels[0, 0].set_ylabel("users (dotted: mean)")


def map_users_by_token(quantizer: Quantizer, vectors: Tensor, first: Tensor, seed: int) -> pl.DataFrame:
    """A map of users, columns user (internal id), x, y and token: codes by t-SNE, users near their code by residual.

    vectors: float32[n, D]; first: int64[n], the first tokens.
    """
    latents = quantizer.latents(vectors)
    evenly_spaced = np.unique(np.linspace(0, max(len(first) - 1, 0), MAX_POINTS).astype(int))
    sampled_users = torch.from_numpy(evenly_spaced)[: len(first)]
    code_points = tsne_codes(quantizer.codebooks[0].numpy(), seed)
    points = code_points[first[sampled_users].numpy()]
    residuals = latents[sampled_users] - quantizer.codebooks[0][first[sampled_users]]
    if len(residuals) > 1:
        principal_axes = torch.linalg.eigh(residuals.T @ residuals).eigenvectors[:, -2:]
        offsets = (residuals @ principal_axes).numpy()
        points = points + _median_nearest_distance(code_points) / 5 * offsets / max(float(offsets.std()), 1e-9)
    return map_table(sampled_users.numpy(), points, "token", first[sampled_users].numpy())


def map_table(user: np.ndarray, points: np.ndarray, name: str, group: np.ndarray) -> pl.DataFrame:
    """A map of users, columns user, x, y, and `name`, the group. user, group: int64[n]; points: float[n, 2]."""
    x, y = points.T.astype(np.float64).round(3)
    return pl.DataFrame({"user": user, "x": x, "y": y, name: group})


def draw_map(points: pl.DataFrame, num_groups: int, title: str, path: Path) -> None:
    """Draws a map of users, coloured by group. points: columns as of `map_table`."""
    colour = np.array(group_colours(num_groups))[points.to_series(3).to_numpy()]
    with saved_figure(path, width=6.4, height=6) as figure:
        axes = figure.subplots()
        axes.scatter(points["x"], points["y"], s=4, c=colour, lw=0, alpha=0.6)
        axes.set_axis_off()
        axes.set_title(title)


def tsne_codes(codebook: np.ndarray, seed: int) -> np.ndarray:
    """float64[K, 2]: codes in the plane by t-SNE; on a circle if few or all equal. codebook: float32[K, d]."""
    from sklearn.manifold import TSNE  # type: ignore[import-untyped]

    is_degenerate = len(codebook) < 4 or np.ptp(codebook, axis=0).max() == 0
    if is_degenerate:
        angle = np.linspace(0, 2 * np.pi, len(codebook), endpoint=False)
        return np.stack([np.cos(angle), np.sin(angle)], 1)
    perplexity = min(10, (len(codebook) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(codebook).astype(np.float64)


def _median_nearest_distance(points: np.ndarray) -> float:
    """Median distance from a point to its nearest neighbour. points: float64[K, 2]."""
    distance = np.hypot(*(points[:, None] - points[None]).T)
    np.fill_diagonal(distance, np.inf)
    return float(np.median(distance.min(1)))
