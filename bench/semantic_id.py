"""Quantizers beside those of the package semantic-id: time to fit and encode, and what is left over.

    python bench/semantic_id.py [--users N] [--seconds S] [--threads T]

The package comes from the registry into a temporary folder, and is gone afterwards. Both see the same user vectors
(bench/tokens_scale.py, width 64) and make 3 levels of 256 codes. Residual k-means: ours as in params.yaml, theirs with
the defaults (the best of 10 starts a level) and with one start. RQ-VAE: as many epochs as fit into the given seconds,
timed by two first; theirs begins its codebooks by k-means and has a latent width of 64 as ours, at its own learning
rate and at ten times that. Variance left over is the mean squared error of reconstruction over that of the vectors'
mean.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokens_scale import DIMENSIONS, network, people

from befriend.stages.tokenize import fit_quantizer
from befriend.tokens.settings import TokenizeSettings

PACKAGE, LEVELS, CODES = "semantic-id==0.2.5", 3, 256


def install(folder: str) -> None:
    """Without what it depends on: all that is used here is there already."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, PACKAGE]
    subprocess.run(command, check=True)
    sys.path.insert(0, folder)


def ours(vectors: np.ndarray, threads: int, **options: Any) -> np.ndarray:
    """float32[n, D]: vectors, coded and decoded again."""
    settings = TokenizeSettings(num_codebooks=LEVELS, codes=CODES, threads=threads, **options)
    given = torch.from_numpy(vectors)
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stderr(io.StringIO()):
        quantizer = fit_quantizer(settings, given, Path(name) / "checkpoints", Path(name))
    return quantizer.decoded(quantizer.codes(given)).numpy()


def their_kmeans(vectors: np.ndarray, **options: Any) -> np.ndarray:
    from semantic_id.algorithms.rq_kmeans import RQKMeans  # type: ignore[import-not-found]

    encoder = RQKMeans(n_levels=LEVELS, n_clusters=CODES, random_state=0, **options).fit(vectors)
    return encoder.decode(encoder.encode(vectors))


def their_rqvae(vectors: np.ndarray, epochs: int, **options: Any) -> np.ndarray:
    from semantic_id.algorithms.rq_vae import RQVAE  # type: ignore[import-not-found]

    torch.manual_seed(0)
    encoder = RQVAE(DIMENSIONS, [CODES] * LEVELS, kmeans_init=True, epochs=epochs, **options).fit(vectors)
    return encoder.decode(encoder.encode(vectors))


def timed(vectors: np.ndarray, again: Callable[[], np.ndarray]) -> tuple[float, float]:
    """Seconds, and the share of the variance that is left over."""
    start = time.perf_counter()
    decoded = again()
    seconds = time.perf_counter() - start
    return seconds, float(((vectors - decoded) ** 2).sum() / ((vectors - vectors.mean(0)) ** 2).sum())


def in_time(vectors: np.ndarray, seconds: float, train: Callable[[int], np.ndarray]) -> tuple[int, float, float]:
    """Epochs that fit into so many seconds; what they took; what is left over."""
    timed(vectors, lambda: train(1))  # what is loaded only once
    start, _ = timed(vectors, lambda: train(1))
    more, _ = timed(vectors, lambda: train(3))
    each = (more - start) / 2
    epochs = max(1, int((seconds - start) / each) + 1)
    return epochs, *timed(vectors, lambda: train(epochs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=60, help="for each RQ-VAE")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    vectors, threads = people(network(arguments.users)).numpy(), arguments.threads
    print(f"{arguments.users:,} users x {DIMENSIONS}, {LEVELS} levels of {CODES}, {threads} threads\n")
    with tempfile.TemporaryDirectory() as folder:
        install(folder)
        kmeans = {
            "befriend": lambda: ours(vectors, threads),
            "semantic-id, 1 start": lambda: their_kmeans(vectors, n_init=1),
            "semantic-id, 10 starts (default)": lambda: their_kmeans(vectors),
        }
        print("| residual k-means | fit and encode | of befriend's time | variance left over |\n|---|---:|---:|---:|")
        first = None
        for name, run in kmeans.items():
            seconds, left = timed(vectors, run)
            first = first or seconds
            print(f"| {name} | {seconds:.1f} s | {seconds / first:.1f}x | {left:.2%} |", flush=True)
        rqvae = {
            "befriend": lambda epochs: ours(vectors, threads, quantizer="rqvae", epochs=epochs),
            "semantic-id": lambda epochs: their_rqvae(vectors, epochs),
            "semantic-id, learning rate 1e-3": lambda epochs: their_rqvae(vectors, epochs, lr=1e-3),
        }
        print("\n| RQ-VAE | epochs | fit and encode | variance left over |\n|---|---:|---:|---:|")
        for name, train in rqvae.items():
            epochs, seconds, left = in_time(vectors, arguments.seconds, train)
            print(f"| {name} | {epochs} | {seconds:.1f} s | {left:.2%} |", flush=True)


if __name__ == "__main__":
    main()
