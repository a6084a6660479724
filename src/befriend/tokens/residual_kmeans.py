"""Residual k-means: cluster the vectors, then what is left of each, and so on; then make the codebooks fit each other.

Level by level, no codebook knows of those to come. So afterwards each becomes what the others leave over, on average
over the users of each code, and the users are coded anew, a few times: that takes less time than another level.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from befriend.tokens.quantizer import Quantizer, decode, encode, nearest

SEEN = 256  # vectors a code that fitting sees
BEGUN = 64  # of these k-means++ (Arthur and Vassilvitskii 2007), of which clustering begins
PASSES = 20  # over the codebooks, together
JITTER = 1e-3  # deviation of codes beyond the number of vectors, as a share of the vectors'


def fit(vectors: Tensor, sizes: Sequence[int], iterations: int, seed: int, threads: int) -> Quantizer:
    """vectors: float32[n, D]; sizes: codes of each level. Empty clusters are filled by splitting large ones."""
    left, codebooks = vectors, []
    for level, size in enumerate(sizes):
        codebooks.append(kmeans(left, size, iterations, seed + level, threads))
        left = left - codebooks[-1][nearest(left, codebooks[-1])]
    return Quantizer(together(vectors, codebooks), nn.Identity(), nn.Identity())


def together(vectors: Tensor, codebooks: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The codebooks, L times float32[K, D], made to fit each other on vectors, float32[n, D]."""
    some = spread(vectors, SEEN * max(len(codebook) for codebook in codebooks))
    best, least, books = tuple(codebooks), float("inf"), list(codebooks)
    for _ in range(PASSES + 1):
        codes = encode(some, books)
        left = some - decode(codes, books)
        error = float(left.square().sum())
        if error < least:  # coding is greedy: a pass may also lose
            best, least = tuple(books), error
        for level, code in enumerate(codes.T):
            count = code.bincount(minlength=len(books[level]))[:, None]
            shift = torch.zeros_like(books[level]).index_add_(0, code, left) / count.clamp(min=1)
            books[level] = books[level] + shift
            left = left - shift[code]
    return best


def kmeans(vectors: Tensor, size: int, iterations: int, seed: int, threads: int) -> Tensor:
    """float32[size, D]: centroids; where there are fewer vectors, the vectors and near copies of them."""
    import faiss
    from sklearn.cluster import kmeans_plusplus  # type: ignore[import-untyped]

    n, width = vectors.shape
    if n <= size:
        generator = torch.Generator().manual_seed(seed)
        more = vectors[torch.randint(n, (size - n,), generator=generator)]
        noise = torch.randn(more.shape, generator=generator) * vectors.std(correction=0) * JITTER
        return torch.cat([vectors, more + noise])
    faiss.omp_set_num_threads(threads)
    some = spread(vectors, SEEN * size).numpy()
    begin, _ = kmeans_plusplus(spread(vectors, BEGUN * size).numpy(), size, random_state=seed)
    clustering = faiss.Kmeans(
        width, size, niter=iterations, seed=seed, max_points_per_centroid=SEEN, min_points_per_centroid=1
    )
    clustering.train(some, init_centroids=begin)
    return torch.tensor(clustering.centroids)


def spread(vectors: Tensor, most: int) -> Tensor:
    """Evenly spread rows, so many at most."""
    return vectors if len(vectors) <= most else vectors[torch.linspace(0, len(vectors) - 1, most).long()]
