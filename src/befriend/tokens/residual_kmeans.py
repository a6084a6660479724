"""Residual k-means: clusters the vectors, then their residuals, level by level; then refines all codebooks jointly.

The residual is what remains of a vector after subtracting its nearest code. Fitted level by level, a codebook ignores
the levels below. Refinement repeats two steps: set each code to the mean residual, after all other levels, of the
vectors with this code; and encode the vectors again. This mostly lowers the error, without another level.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from befriend.tokens.quantizer import Quantizer, decode, encode, nearest

FIT_VECTORS_PER_CODE = 256  # at most, for k-means and refinement
INIT_VECTORS_PER_CODE = 64  # at most, for the initial centroids, by k-means++ (Arthur and Vassilvitskii 2007)
REFINEMENT_PASSES = 20
JITTER_SCALE = 1e-3  # deviation of an extra code from a vector, as a share of the vectors' standard deviation


def fit_residual_kmeans(vectors: Tensor, sizes: Sequence[int], iterations: int, seed: int, threads: int) -> Quantizer:
    """A quantizer fitted to vectors, float32[n, D]. sizes: number of codes of each level; iterations: of k-means."""
    residual, codebooks = vectors, []
    for level, size in enumerate(sizes):
        codebooks.append(kmeans(residual, size, iterations, seed + level, threads))
        residual = residual - codebooks[-1][nearest(residual, codebooks[-1])]
    return Quantizer(refine_codebooks(vectors, codebooks), nn.Identity(), nn.Identity())


def refine_codebooks(vectors: Tensor, codebooks: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The codebooks, L times float32[K, D], refined jointly on vectors, float32[n, D].

    These are the codebooks with the least error, before refinement or after one of the passes.
    """
    sample = evenly_spaced(vectors, FIT_VECTORS_PER_CODE * max(len(codebook) for codebook in codebooks))
    best, min_error, refined = tuple(codebooks), float("inf"), list(codebooks)
    for _ in range(REFINEMENT_PASSES + 1):
        codes = encode(sample, refined)
        residual = sample - decode(codes, refined)
        error = float(residual.square().sum())
        if error < min_error:  # encoding is greedy, so a pass may increase the error
            best, min_error = tuple(refined), error
        for level, code in enumerate(codes.T):
            count = code.bincount(minlength=len(refined[level]))[:, None]
            shift = torch.zeros_like(refined[level]).index_add_(0, code, residual) / count.clamp(min=1)
            refined[level] = refined[level] + shift
            residual = residual - shift[code]
    return best


def kmeans(vectors: Tensor, size: int, iterations: int, seed: int, threads: int) -> Tensor:
    """float32[size, D]: centroids of vectors, float32[n, D]; if n <= size, the vectors and jittered copies of them."""
    import faiss
    from sklearn.cluster import kmeans_plusplus  # type: ignore[import-untyped]

    n, width = vectors.shape
    if n <= size:
        generator = torch.Generator().manual_seed(seed)
        copies = vectors[torch.randint(n, (size - n,), generator=generator)]
        noise = torch.randn(copies.shape, generator=generator) * vectors.std(correction=0) * JITTER_SCALE
        return torch.cat([vectors, copies + noise])
    faiss.omp_set_num_threads(threads)
    sample = evenly_spaced(vectors, FIT_VECTORS_PER_CODE * size).numpy()
    initial, _ = kmeans_plusplus(evenly_spaced(vectors, INIT_VECTORS_PER_CODE * size).numpy(), size, random_state=seed)
    clustering = faiss.Kmeans(
        width,
        size,
        niter=iterations,
        seed=seed,
        max_points_per_centroid=FIT_VECTORS_PER_CODE,
        min_points_per_centroid=1,
    )
    clustering.train(sample, init_centroids=initial)
    return torch.tensor(clustering.centroids)


def evenly_spaced(vectors: Tensor, max_rows: int) -> Tensor:
    """At most `max_rows` evenly spaced rows of the vectors."""
    return vectors if len(vectors) <= max_rows else vectors[torch.linspace(0, len(vectors) - 1, max_rows).long()]
