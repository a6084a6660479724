"""Quantizers of befriend and of the package semantic-id: time to fit and encode, and residual variance.

    python bench/semantic_id.py [--users N] [--seconds S] [--threads T]

Installs the package from the registry into a temporary folder, which is removed afterwards. Both quantise the same user
vectors (bench/tokens_scale.py, width 64) to 3 levels of 256 codes. Residual k-means: befriend as in params.yaml,
semantic-id with its defaults (the best of 10 starts per level) and with one start. RQ-VAE: as many epochs as fit into
the given seconds, estimated from runs of one and three epochs; semantic-id initialises its codebooks by k-means, has a
latent width of 64 as befriend, and runs at its own learning rate and at ten times that.

Prints two Markdown tables. Residual variance is the mean squared error of the reconstruction, divided by that of the
mean of the vectors.
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
from tokens_scale import DIMENSIONS, network, user_vectors

from befriend.stages.tokenize import fit_quantizer
from befriend.tokens.token_settings import TokenizeSettings

PACKAGE, LEVELS, CODES = "semantic-id==0.2.5", 3, 256


def install(folder: str) -> None:
    """Installs the package without its dependencies: all that are used here are installed already."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, PACKAGE]
    subprocess.run(command, check=True)
    sys.path.insert(0, folder)


def befriend_reconstruction(vectors: np.ndarray, threads: int, **options: Any) -> np.ndarray:
    """float32[n, D]: vectors, float32[n, D], encoded and decoded by befriend."""
    settings = TokenizeSettings(num_codebooks=LEVELS, codes=CODES, threads=threads, **options)
    inputs = torch.from_numpy(vectors)
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stderr(io.StringIO()):
        quantizer = fit_quantizer(settings, inputs, Path(name) / "checkpoints", Path(name))
    return quantizer.reconstruct(quantizer.codes(inputs)).numpy()


def semantic_id_kmeans(vectors: np.ndarray, **options: Any) -> np.ndarray:
    from semantic_id.algorithms.rq_kmeans import RQKMeans  # type: ignore[import-not-found]

    encoder = RQKMeans(n_levels=LEVELS, n_clusters=CODES, random_state=0, **options).fit(vectors)
    return encoder.decode(encoder.encode(vectors))


def semantic_id_rqvae(vectors: np.ndarray, epochs: int, **options: Any) -> np.ndarray:
    from semantic_id.algorithms.rq_vae import RQVAE  # type: ignore[import-not-found]

    torch.manual_seed(0)
    encoder = RQVAE(DIMENSIONS, [CODES] * LEVELS, kmeans_init=True, epochs=epochs, **options).fit(vectors)
    return encoder.decode(encoder.encode(vectors))


def timed(vectors: np.ndarray, reconstruct: Callable[[], np.ndarray]) -> tuple[float, float]:
    """Seconds of `reconstruct`, and the residual variance as a share of the variance of the vectors."""
    start = time.perf_counter()
    reconstructed = reconstruct()
    seconds = time.perf_counter() - start
    return seconds, float(((vectors - reconstructed) ** 2).sum() / ((vectors - vectors.mean(0)) ** 2).sum())


def train_for(vectors: np.ndarray, seconds: float, train: Callable[[int], np.ndarray]) -> tuple[int, float, float]:
    """Number of epochs that fit into so many seconds, seconds that they took, residual variance."""
    timed(vectors, lambda: train(1))  # warm-up, loads what is loaded only once
    one_epoch, _ = timed(vectors, lambda: train(1))
    three_epochs, _ = timed(vectors, lambda: train(3))
    per_epoch = (three_epochs - one_epoch) / 2
    epochs = max(1, int((seconds - one_epoch) / per_epoch) + 1)
    return epochs, *timed(vectors, lambda: train(epochs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=60, help="for each RQ-VAE")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    vectors, threads = user_vectors(network(arguments.users)).numpy(), arguments.threads
    print(f"{arguments.users:,} users x {DIMENSIONS}, {LEVELS} levels of {CODES}, {threads} threads\n")
    with tempfile.TemporaryDirectory() as folder:
        install(folder)
        kmeans = {
            "befriend": lambda: befriend_reconstruction(vectors, threads),
            "semantic-id, 1 start": lambda: semantic_id_kmeans(vectors, n_init=1),
            "semantic-id, 10 starts (default)": lambda: semantic_id_kmeans(vectors),
        }
        print("| residual k-means | fit and encode | of befriend's time | residual variance |\n|---|---:|---:|---:|")
        befriend_seconds = None
        for name, run in kmeans.items():
            seconds, residual = timed(vectors, run)
            befriend_seconds = befriend_seconds or seconds
            print(f"| {name} | {seconds:.1f} s | {seconds / befriend_seconds:.1f}x | {residual:.2%} |", flush=True)
        rqvae = {
            "befriend": lambda epochs: befriend_reconstruction(vectors, threads, quantizer="rqvae", epochs=epochs),
            "semantic-id": lambda epochs: semantic_id_rqvae(vectors, epochs),
            "semantic-id, learning rate 1e-3": lambda epochs: semantic_id_rqvae(vectors, epochs, lr=1e-3),
        }
        print("\n| RQ-VAE | epochs | fit and encode | residual variance |\n|---|---:|---:|---:|")
        for name, train in rqvae.items():
            epochs, seconds, residual = train_for(vectors, arguments.seconds, train)
            print(f"| {name} | {epochs} | {seconds:.1f} s | {residual:.2%} |", flush=True)


if __name__ == "__main__":
    main()
