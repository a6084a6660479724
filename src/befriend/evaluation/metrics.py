"""Metrics of ranked lists with one relevant user each, and bootstrap intervals over users."""

from __future__ import annotations

import numpy as np

METRICS = ("ndcg@10", "hit@10", "mrr@100")


def per_list(ranks: np.ndarray) -> np.ndarray:
    """float64[len(METRICS), R]: the metrics of R lists. ranks: float64[R], of the targets, from 1; inf if missed."""
    hit = ranks <= 10
    ndcg = np.where(hit, 1 / np.log2(np.where(hit, ranks, 1) + 1), 0.0)
    return np.stack([ndcg, hit.astype(float), np.where(ranks <= 100, 1 / ranks, 0.0)])


class UserBootstrap:
    """Percentile intervals of means over lists. Users are resampled with replacement, each with all of their lists.

    Lists of the same user are not independent, so the unit that is drawn is the user (a cluster bootstrap).
    """

    def __init__(self, users: np.ndarray, resamplings: int, confidence: float, seed: int):
        """users: int[R], the user of each list."""
        unique_users, self.user_of_list = np.unique(users, return_inverse=True)
        draws = np.random.default_rng(seed).integers(0, len(unique_users), (resamplings, len(unique_users)))
        # In float64, so that six digits do not depend on the order in which threads add up.
        self.weights = np.stack([np.bincount(draw, minlength=len(unique_users)) for draw in draws]).astype(np.float64)
        self.levels = np.array([(1 - confidence) / 2, (1 + confidence) / 2])

    def intervals(self, values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """float64[M, 2]: lower and upper bounds of the means over the chosen lists. values: [M, R]; chosen: bool[R]."""
        users = self.weights.shape[1]
        user_of_list = self.user_of_list[chosen]
        counts = np.bincount(user_of_list, minlength=users).astype(np.float64)
        sums = np.stack([np.bincount(user_of_list, row[chosen], minlength=users) for row in values])
        drawn = self.weights @ counts  # lists in each resampling, (resamplings,)
        means = (self.weights @ sums.T)[drawn > 0] / drawn[drawn > 0, None]
        return np.quantile(means, self.levels, axis=0).T


def gini(counts: np.ndarray) -> float:
    """Gini coefficient of non-negative counts: 0 if all are equal, near 1 if a single entry holds everything."""
    ordered = np.sort(counts).astype(float)
    n, total = len(ordered), ordered.sum()
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * total)) if total else 0.0
