"""Quality of STUs: collisions, usage of the codes, quantisation error, agreement with communities."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from befriend.tokens.quantizer import Quantizer

if TYPE_CHECKING:
    from scipy.sparse import csr_array  # type: ignore[import-untyped]


def collision_metrics(codes: Tensor) -> dict[str, float]:
    """Collisions of STUs, or of codes before collisions are resolved, int64[n, L].

    `unique_share`: distinct codes per user; `collision_rate`: share of users whose codes another user has too;
    `largest_bucket`: the largest number of users with equal codes.
    """
    bucket_size = torch.unique(codes, dim=0, return_counts=True)[1]
    n = max(len(codes), 1)
    return {
        "unique_share": len(bucket_size) / n,
        "collision_rate": float(bucket_size[bucket_size > 1].sum()) / n,
        "largest_bucket": float(bucket_size.max()) if len(bucket_size) else 0.0,
    }


def code_usage(tokens: Tensor, size: int) -> dict[str, float]:
    """Usage of the codes of a level, from its tokens, int64[n]: share in use, and perplexity (exp of the entropy)."""
    usage = tokens.bincount(minlength=size) / max(len(tokens), 1)
    entropy = -torch.special.xlogy(usage, usage).sum()
    return {"used_share": float((usage > 0).float().mean()), "perplexity": float(entropy.exp())}


def communities(graph: csr_array, seed: int) -> np.ndarray:
    """int64[n]: communities of the users of a graph, float64[n, n]; multilevel method of Blondel et al. (2008)."""
    import igraph  # type: ignore[import-untyped]

    edges = graph.tocoo()
    is_upper = edges.row < edges.col  # the graph is symmetric: count every edge once
    network = igraph.Graph(graph.shape[0], np.stack([edges.row[is_upper], edges.col[is_upper]], 1))
    igraph.set_random_number_generator(random.Random(seed))
    clustering = network.community_multilevel(weights=edges.data[is_upper])
    return np.array(clustering.membership, dtype=np.int64)


def community_agreement(tokens: np.ndarray, groups: np.ndarray, seed: int) -> dict[str, float]:
    """Homogeneity of tokens (Rosenberg and Hirschberg 2007), and the same with shuffled groups, as a baseline.

    1 if all users with a token are in the same group. tokens, groups: int64[n].
    """
    from sklearn.metrics import homogeneity_score  # type: ignore[import-untyped]

    shuffled = np.random.default_rng(seed).permutation(groups)
    return {"homogeneity": homogeneity_score(groups, tokens), "shuffled": homogeneity_score(shuffled, tokens)}


def describe_codebooks(
    quantizer: Quantizer, vectors: Tensor, stus: Tensor, vocabulary: tuple[int, ...]
) -> dict[str, Any]:
    """Collisions before and after they are resolved, and usage and error of each level.

    vectors: float32[n, D]; stus: int64[n, L], the STUs of the same users; vocabulary: number of codes of each level.
    """
    codes = quantizer.codes(vectors)
    errors = quantizer.errors(vectors, codes)
    levels = {
        str(level): code_usage(column, vocabulary[level]) | ({"error": errors[level]} if level < len(errors) else {})
        for level, column in enumerate(stus.T)
    }
    after = collision_metrics(stus)
    return {
        "users": len(stus),
        "before": collision_metrics(codes),
        "after": {
            "collision_rate": after["collision_rate"],
            "moved_share": float((codes != stus[:, : codes.shape[1]]).any(1).float().mean()),
        },
        "level": levels,
    }
