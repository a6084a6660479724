"""Residual k-means: cluster the vectors, then their residuals, level by level; then refine all codebooks jointly.

Fitted level by level, a codebook ignores the levels below. Refinement then repeats two steps: set each code to the mean
of what the other levels leave over for its users, and encode the users again. This is cheaper than another level.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from befriend.tokens.quantizer import Quantizer, decode, encode, nearest

FIT_VECTORS = 256  # vectors per code used for fitting
INIT_VECTORS = 64  # vectors per code used for the initial centroids, by k-means++ (Arthur and Vassilvitskii 2007)
PASSES = 20  # of joint refinement
JITTER = 1e-3  # standard deviation of extra codes around a vector, as a share of the vectors' standard deviation


def fit_residual_kmeans(vectors: Tensor, sizes: Sequence[int], iterations: int, seed: int, threads: int) -> Quantizer:
    """vectors: float32[n, D]; sizes: codes of each level. Empty clusters are filled by splitting large ones."""
    residual, codebooks = vectors, []
    for level, size in enumerate(sizes):
        codebooks.append(kmeans(residual, size, iterations, seed + level, threads))
        residual = residual - codebooks[-1][nearest(residual, codebooks[-1])]
    return Quantizer(refine_codebooks(vectors, codebooks), nn.Identity(), nn.Identity())


def refine_codebooks(vectors: Tensor, codebooks: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Codebooks, L times float32[K, D], refined jointly on vectors, float32[n, D]; the pass with the least error."""
    sample = evenly_spaced(vectors, FIT_VECTORS * max(len(codebook) for codebook in codebooks))
    best, least, books = tuple(codebooks), float("inf"), list(codebooks)
    for _ in range(PASSES + 1):
        codes = encode(sample, books)
        residual = sample - decode(codes, books)
        error = float(residual.square().sum())
        if error < least:  # encoding is greedy, so a pass may increase the error
            best, least = tuple(books), error
        for level, code in enumerate(codes.T):
            count = code.bincount(minlength=len(books[level]))[:, None]
            shift = torch.zeros_like(books[level]).index_add_(0, code, residual) / count.clamp(min=1)
            books[level] = books[level] + shift
            residual = residual - shift[code]
    return best


def kmeans(vectors: Tensor, size: int, iterations: int, seed: int, threads: int) -> Tensor:
    """float32[size, D]: centroids of vectors, float32[n, D]; if n < size, the vectors and jittered copies of them."""
    import faiss
    from sklearn.cluster import kmeans_plusplus  # type: ignore[import-untyped]

    n, width = vectors.shape
    if n <= size:
        generator = torch.Generator().manual_seed(seed)
        copies = vectors[torch.randint(n, (size - n,), generator=generator)]
        noise = torch.randn(copies.shape, generator=generator) * vectors.std(correction=0) * JITTER
        return torch.cat([vectors, copies + noise])
    faiss.omp_set_num_threads(threads)
    sample = evenly_spaced(vectors, FIT_VECTORS * size).numpy()
    initial, _ = kmeans_plusplus(evenly_spaced(vectors, INIT_VECTORS * size).numpy(), size, random_state=seed)
    clustering = faiss.Kmeans(
        width, size, niter=iterations, seed=seed, max_points_per_centroid=FIT_VECTORS, min_points_per_centroid=1
    )
    clustering.train(sample, init_centroids=initial)
    return torch.tensor(clustering.centroids)


def evenly_spaced(vectors: Tensor, most: int) -> Tensor:
    """At most `most` evenly spaced rows of the vectors."""
    return vectors if len(vectors) <= most else vectors[torch.linspace(0, len(vectors) - 1, most).long()]
