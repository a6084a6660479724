"""Pictures of a catalogue: how evenly codes are used, and where users with the same first token lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from befriend.tokens.quantizer import Quantizer

SHOWN = 20_000  # users on the map at most
BLUE = "#0072b2"


def draw_use(stus: Tensor, vocabulary: tuple[int, ...], path: Path) -> None:
    """Users of each code, most first, one panel a level. stus: int64[n, L]."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    style = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.titleweight": "bold"}
    with mpl.rc_context(style):
        figure, row = plt.subplots(
            1, len(vocabulary), figsize=(3.2 * len(vocabulary), 2.6), layout="constrained", squeeze=False
        )
        for level, (axes, size) in enumerate(zip(row[0], vocabulary, strict=True)):
            count = stus[:, level].bincount(minlength=size).sort(descending=True).values.numpy()
            axes.fill_between(np.arange(size), count, step="mid", color=BLUE, lw=0)
            axes.axhline(len(stus) / size, color="black", lw=0.8, ls=":")
            axes.set(title=f"token {level}: {(count > 0).mean():.0%} in use", xlabel="code, most used first")
            axes.set_ylim(bottom=0)
        row[0, 0].set_ylabel("users (dotted: if all were equal)")
        figure.savefig(path, dpi=110, metadata={"Software": None})
        plt.close(figure)


def place_users(quantizer: Quantizer, vectors: Tensor, first: Tensor, seed: int) -> pl.DataFrame:
    """user (number), x, y, token: the codes by t-SNE, users around them by what their code leaves over.

    vectors: float32[n, D]; first: int64[n], the first tokens.
    """
    latents = quantizer.latents(vectors)
    shown = torch.from_numpy(np.unique(np.linspace(0, max(len(first) - 1, 0), SHOWN).astype(int)))[: len(first)]
    place_of = place_codes(quantizer.codebooks[0].numpy(), seed)
    place = place_of[first[shown].numpy()]
    left = latents[shown] - quantizer.codebooks[0][first[shown]]
    if len(left) > 1:
        axes_of = torch.linalg.eigh(left.T @ left).eigenvectors[:, -2:]
        around = (left @ axes_of).numpy()
        place = place + _apart(place_of) / 5 * around / max(float(around.std()), 1e-9)
    return placed(shown.numpy(), place, "token", first[shown].numpy())


def placed(user: np.ndarray, place: np.ndarray, name: str, group: np.ndarray) -> pl.DataFrame:
    """user, x, y and the group, under its name. place: float[n, 2]."""
    x, y = place.T.astype(np.float64).round(3)
    return pl.DataFrame({"user": user, "x": x, "y": y, name: group})


def draw_map(places: pl.DataFrame, groups: int, title: str, seed: int, path: Path) -> None:
    """places: user, x, y and the group, by which users are coloured; groups: how many there are."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    with mpl.rc_context({"font.size": 8}):
        figure, axes = plt.subplots(figsize=(6.4, 6), layout="constrained")
        colours = plt.get_cmap("nipy_spectral")(np.linspace(0.05, 0.95, groups))
        mixed = np.random.default_rng(seed).permutation(groups)  # neighbours do not look alike
        colour = colours[mixed[places.to_series(3).to_numpy()]]
        axes.scatter(places["x"], places["y"], s=4, c=colour, lw=0, alpha=0.6)
        axes.set_axis_off()
        axes.set_title(title, weight="bold")
        figure.savefig(path, dpi=110, metadata={"Software": None})
        plt.close(figure)


def place_codes(codebook: np.ndarray, seed: int) -> np.ndarray:
    """float64[K, 2]: where codes lie in the plane, near codes near each other. codebook: float32[K, d]."""
    from sklearn.manifold import TSNE  # type: ignore[import-untyped]

    few = len(codebook) < 4 or np.ptp(codebook, axis=0).max() == 0
    if few:
        turn = np.linspace(0, 2 * np.pi, len(codebook), endpoint=False)
        return np.stack([np.cos(turn), np.sin(turn)], 1)
    perplexity = min(10, (len(codebook) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(codebook).astype(np.float64)


def _apart(places: np.ndarray) -> float:
    """How far the nearest other one is, in the median. places: float64[K, 2]."""
    apart = np.hypot(*(places[:, None] - places[None]).T)
    np.fill_diagonal(apart, np.inf)
    return float(np.median(apart.min(1)))
