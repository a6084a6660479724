"""Metrics of ranked lists with one right answer each, and user-bootstrap intervals."""

from __future__ import annotations

import numpy as np

METRICS = ("ndcg@10", "hit@10", "mrr@100")


def per_list(ranks: np.ndarray) -> np.ndarray:
    """float64[len(METRICS), R] of ranks float64[R] (from 1, inf where missed)."""
    hit = ranks <= 10
    ndcg = np.where(hit, 1 / np.log2(np.where(hit, ranks, 1) + 1), 0.0)
    return np.stack([ndcg, hit.astype(float), np.where(ranks <= 100, 1 / ranks, 0.0)])


class UserBootstrap:
    """Percentile intervals of means over lists, by resampling users with replacement (all their lists at once).

    Lists of one user are not independent, so users are the unit that is drawn (a cluster bootstrap).
    """

    def __init__(self, users: np.ndarray, resamplings: int, confidence: float, seed: int):
        """users: int[R], whose list each is."""
        found, self.of = np.unique(users, return_inverse=True)
        draws = np.random.default_rng(seed).integers(0, len(found), (resamplings, len(found)))
        # In float64, so that six digits do not depend on the order in which threads add up.
        self.weights = np.stack([np.bincount(draw, minlength=len(found)) for draw in draws]).astype(np.float64)
        self.levels = np.array([(1 - confidence) / 2, (1 + confidence) / 2])

    def intervals(self, values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """float64[M, 2], lower and upper bounds of the means over the chosen lists. values: [M, R], chosen: bool[R]."""
        users = self.weights.shape[1]
        of = self.of[chosen]
        counts = np.bincount(of, minlength=users).astype(np.float64)
        sums = np.stack([np.bincount(of, row[chosen], minlength=users) for row in values])
        drawn = self.weights @ counts  # (resamplings,)
        means = (self.weights @ sums.T)[drawn > 0] / drawn[drawn > 0, None]
        return np.quantile(means, self.levels, axis=0).T


def gini(counts: np.ndarray) -> float:
    """Gini coefficient of non-negative counts: 0 if all are equal, near 1 if one has everything."""
    ordered = np.sort(counts).astype(float)
    n, total = len(ordered), ordered.sum()
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * total)) if total else 0.0
