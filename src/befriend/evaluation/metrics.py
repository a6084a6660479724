"""Ranking metrics of lists with one relevant user each, their bootstrap intervals over users, and the Gini index."""

from __future__ import annotations

import numpy as np

METRICS = ("ndcg@10", "hit@10", "mrr@100")


def metrics_per_list(ranks: np.ndarray) -> np.ndarray:
    """float64[len(METRICS), R]: the metrics of R lists, in the order of METRICS.

    ranks: float64[R], the rank of each target, 1 for the first of a list; inf if the target is not on the list.
    """
    is_hit = ranks <= 10
    ndcg = np.where(is_hit, 1 / np.log2(np.where(is_hit, ranks, 1) + 1), 0.0)
    return np.stack([ndcg, is_hit.astype(float), np.where(ranks <= 100, 1 / ranks, 0.0)])


class UserBootstrap:
    """Confidence intervals of means over lists by the percentile bootstrap.

    Resamples users with replacement, each with all of their lists (a cluster bootstrap), as lists of the same user are
    not independent.
    """

    def __init__(self, users: np.ndarray, resamplings: int, confidence: float, seed: int):
        """users: int[R], the user who gets each list; resamplings: number of bootstrap samples."""
        unique_users, self.user_of_list = np.unique(users, return_inverse=True)
        draws = np.random.default_rng(seed).integers(0, len(unique_users), (resamplings, len(unique_users)))
        # float64, so that results with six digits do not depend on the order in which threads add up.
        self.weights = np.stack([np.bincount(draw, minlength=len(unique_users)) for draw in draws]).astype(np.float64)
        self.levels = np.array([(1 - confidence) / 2, (1 + confidence) / 2])

    def intervals(self, values: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """float64[M, 2]: lower and upper bounds of M means over the lists in the mask.

        values: float64[M, R], M values of each list; mask: bool[R]. Bootstrap samples without a list in the mask are
        left out.
        """
        num_users = self.weights.shape[1]
        user_of_list = self.user_of_list[mask]
        counts = np.bincount(user_of_list, minlength=num_users).astype(np.float64)
        sums = np.stack([np.bincount(user_of_list, row[mask], minlength=num_users) for row in values])
        num_lists = self.weights @ counts  # float64[resamplings]
        means = (self.weights @ sums.T)[num_lists > 0] / num_lists[num_lists > 0, None]
        return np.quantile(means, self.levels, axis=0).T


def gini(counts: np.ndarray) -> float:
    """Gini coefficient of non-negative counts: 0 if all are equal, near 1 if only one of many is not 0."""
    ordered = np.sort(counts).astype(float)
    n, total = len(ordered), ordered.sum()
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * total)) if total else 0.0
