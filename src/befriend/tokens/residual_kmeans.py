"""Residual k-means: cluster the vectors, then what is left of each, and so on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from befriend.tokens.quantizer import Quantizer, nearest

SEEN = 256  # vectors a code that k-means sees
JITTER = 1e-3  # deviation of codes beyond the number of vectors, as a share of the vectors'


def fit(vectors: Tensor, sizes: Sequence[int], iterations: int, seed: int, threads: int) -> Quantizer:
    """vectors: float32[n, D]; sizes: codes of each level. Empty clusters are filled by splitting large ones."""
    left, codebooks = vectors, []
    for level, size in enumerate(sizes):
        codebooks.append(kmeans(left, size, iterations, seed + level, threads))
        left = left - codebooks[-1][nearest(left, codebooks[-1])]
    return Quantizer(tuple(codebooks), nn.Identity(), nn.Identity())


def kmeans(vectors: Tensor, size: int, iterations: int, seed: int, threads: int) -> Tensor:
    """float32[size, D]: centroids; where there are fewer vectors, the vectors and near copies of them."""
    import faiss

    n, width = vectors.shape
    if n <= size:
        generator = torch.Generator().manual_seed(seed)
        more = vectors[torch.randint(n, (size - n,), generator=generator)]
        noise = torch.randn(more.shape, generator=generator) * vectors.std(correction=0) * JITTER
        return torch.cat([vectors, more + noise])
    faiss.omp_set_num_threads(threads)
    clustering = faiss.Kmeans(
        width, size, niter=iterations, seed=seed, max_points_per_centroid=SEEN, min_points_per_centroid=1
    )
    clustering.train(vectors.numpy())
    return torch.tensor(clustering.centroids)
