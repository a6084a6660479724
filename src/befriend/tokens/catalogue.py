"""How good a catalogue of STUs is, over all its users: collisions, use of the codes, what is lost, communities kept."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from befriend.tokens.quantizer import Quantizer

if TYPE_CHECKING:
    from scipy.sparse import csr_array  # type: ignore[import-untyped]


def collisions(codes: Tensor) -> dict[str, float]:
    """Of plain codes, int64[n, L], before anything was done about it."""
    shared = torch.unique(codes, dim=0, return_counts=True)[1]
    n = max(len(codes), 1)
    return {
        "unique_share": len(shared) / n,
        "collision_rate": float(shared[shared > 1].sum()) / n,
        "largest_bucket": float(shared.max()) if len(shared) else 0.0,
    }


def use(tokens: Tensor, size: int) -> dict[str, float]:
    """Of one level's tokens, int64[n]: the share of codes in use, and exp of the entropy of their use."""
    share = tokens.bincount(minlength=size) / max(len(tokens), 1)
    entropy = -torch.special.xlogy(share, share).sum()
    return {"used_share": float((share > 0).float().mean()), "perplexity": float(entropy.exp())}


def communities(graph: csr_array, seed: int) -> np.ndarray:
    """int64[n]: the community of each user, by the multilevel method of Blondel et al. (2008)."""
    import igraph  # type: ignore[import-untyped]

    upper = graph.tocoo()
    once = upper.row < upper.col
    network = igraph.Graph(graph.shape[0], np.stack([upper.row[once], upper.col[once]], 1))
    igraph.set_random_number_generator(random.Random(seed))
    found = network.community_multilevel(weights=upper.data[once])
    return np.array(found.membership, dtype=np.int64)


def agreement(tokens: np.ndarray, groups: np.ndarray, seed: int) -> dict[str, float]:
    """How far tokens lie within groups (homogeneity, Rosenberg and Hirschberg 2007), beside shuffled users."""
    from sklearn.metrics import homogeneity_score  # type: ignore[import-untyped]

    shuffled = np.random.default_rng(seed).permutation(groups)
    return {"homogeneity": homogeneity_score(groups, tokens), "shuffled": homogeneity_score(shuffled, tokens)}


def describe(quantizer: Quantizer, vectors: Tensor, stus: Tensor, vocabulary: tuple[int, ...]) -> dict[str, Any]:
    """What the metrics file says of all users but their communities. vectors: float32[n, D]; stus: int64[n, L]."""
    plain = quantizer.codes(vectors)
    errors = quantizer.errors(vectors, plain)
    levels = {
        str(level): use(column, vocabulary[level]) | ({"error": errors[level]} if level < len(errors) else {})
        for level, column in enumerate(stus.T)
    }
    after = collisions(stus)
    return {
        "users": len(stus),
        "before": collisions(plain),
        "after": {
            "collision_rate": after["collision_rate"],
            "moved_share": float((plain != stus[:, : plain.shape[1]]).any(1).float().mean()),
        },
        "level": levels,
    }
