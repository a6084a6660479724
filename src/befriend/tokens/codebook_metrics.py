"""Quality of STUs over all users: collisions, use of the codes, quantisation error, agreement with communities."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from befriend.tokens.quantizer import Quantizer

if TYPE_CHECKING:
    from scipy.sparse import csr_array  # type: ignore[import-untyped]


def collision_figures(codes: Tensor) -> dict[str, float]:
    """Collisions of STUs or plain codes, int64[n, L].

    `unique_share`: distinct codes per user; `collision_rate`: share of users who share theirs; `largest_bucket`: the
    largest number of users who share one.
    """
    bucket = torch.unique(codes, dim=0, return_counts=True)[1]
    n = max(len(codes), 1)
    return {
        "unique_share": len(bucket) / n,
        "collision_rate": float(bucket[bucket > 1].sum()) / n,
        "largest_bucket": float(bucket.max()) if len(bucket) else 0.0,
    }


def code_usage(tokens: Tensor, size: int) -> dict[str, float]:
    """Use of a level's codes, from its tokens, int64[n]: the share in use, and perplexity (exp of the entropy)."""
    share = tokens.bincount(minlength=size) / max(len(tokens), 1)
    entropy = -torch.special.xlogy(share, share).sum()
    return {"used_share": float((share > 0).float().mean()), "perplexity": float(entropy.exp())}


def communities(graph: csr_array, seed: int) -> np.ndarray:
    """int64[n]: communities of the users of a graph, float64[n, n]; multilevel method of Blondel et al. (2008)."""
    import igraph  # type: ignore[import-untyped]

    ties = graph.tocoo()
    is_upper = ties.row < ties.col  # the graph is symmetric: count every tie once
    network = igraph.Graph(graph.shape[0], np.stack([ties.row[is_upper], ties.col[is_upper]], 1))
    igraph.set_random_number_generator(random.Random(seed))
    clustering = network.community_multilevel(weights=ties.data[is_upper])
    return np.array(clustering.membership, dtype=np.int64)


def community_agreement(tokens: np.ndarray, groups: np.ndarray, seed: int) -> dict[str, float]:
    """Homogeneity (Rosenberg and Hirschberg 2007): 1 if users of a token share a group; and that of shuffled users.

    tokens, groups: int64[n].
    """
    from sklearn.metrics import homogeneity_score  # type: ignore[import-untyped]

    shuffled = np.random.default_rng(seed).permutation(groups)
    return {"homogeneity": homogeneity_score(groups, tokens), "shuffled": homogeneity_score(shuffled, tokens)}


def describe_codebooks(
    quantizer: Quantizer, vectors: Tensor, stus: Tensor, vocabulary: tuple[int, ...]
) -> dict[str, Any]:
    """Token metrics of all users, without communities: collisions before and after, use and error of each level.

    vectors: float32[n, D]; stus: int64[n, L].
    """
    plain = quantizer.codes(vectors)
    errors = quantizer.errors(vectors, plain)
    levels = {
        str(level): code_usage(column, vocabulary[level]) | ({"error": errors[level]} if level < len(errors) else {})
        for level, column in enumerate(stus.T)
    }
    after = collision_figures(stus)
    return {
        "users": len(stus),
        "before": collision_figures(plain),
        "after": {
            "collision_rate": after["collision_rate"],
            "moved_share": float((plain != stus[:, : plain.shape[1]]).any(1).float().mean()),
        },
        "level": levels,
    }
