"""Which ranking is served in place of the ranker: where one of its sources makes better lists.

On a log with few events to learn from, a single model or heuristic can be better than the ranker on lists of one kind
and regime. That is decided on validation events: a ranker trained on the earlier half of them is compared with each of
its sources on the later half, list by list.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from befriend.data.regimes import LIST_KINDS, REGIMES
from befriend.evaluation.metrics import METRICS, UserBootstrap, metrics_per_list
from befriend.retrieval.ranker import RankerExamples, source_columns

if TYPE_CHECKING:
    import lightgbm

CONFIDENCE = 0.99  # of the interval of the difference: it is that of the best of many sources
MIN_LISTS = 50  # with fewer lists to compare, the ranker is served
RESAMPLINGS = 2000


def choose_sources(
    examples: RankerExamples,
    names: Sequence[str],
    fit: Callable[[RankerExamples], lightgbm.Booster],
    seed: int,
) -> dict[str, dict[str, str]]:
    """Kind of list -> regime -> the source whose lists are better than those of the ranker; no entry if none is.

    A source is chosen if the mean difference of its NDCG@10 to that of the ranker is the largest of all sources, and
    above 0 with its confidence interval. names: the sources, in the order of the features; fit: trains the ranker;
    seed: of the resampling.
    """
    earlier, later = examples.split(len(examples.groups) // 2)
    if not len(earlier.groups) or not len(later.groups):
        return {}
    booster = fit(earlier)
    gains = _ndcg(ranker_ranks(later, np.asarray(booster.predict(later.features, num_threads=1))))
    columns = source_columns(later.features.shape[1], names)
    target_features = later.features[later.labels]  # one row a list
    differences = {name: _ndcg(1.0 + target_features[:, column]) - gains for name, column in columns.items()}
    chosen: dict[str, dict[str, str]] = {}
    for kind, list_kind in enumerate(LIST_KINDS):
        for k, regime in enumerate(REGIMES):
            mask = (later.excludes_contacts == bool(kind)) & (later.regimes == k)
            if mask.sum() < MIN_LISTS:
                continue
            best = max(names, key=lambda name: float(differences[name][mask].mean()))
            bootstrap = UserBootstrap(later.users[mask], RESAMPLINGS, CONFIDENCE, seed)
            bounds = bootstrap.intervals(differences[best][mask][None], np.ones(int(mask.sum()), bool))
            if bounds[0, 0] > 0:
                chosen.setdefault(list_kind, {})[regime] = best
    return chosen


def ranker_ranks(examples: RankerExamples, scores: np.ndarray) -> np.ndarray:
    """float64[G]: the rank of the target of each list by the ranker, 1 for the first; earlier candidates win ties.

    scores: float64[n], of the candidates.
    """
    group = np.repeat(np.arange(len(examples.groups)), examples.groups)
    position = np.arange(len(group))
    target_score, target_position = scores[examples.labels][group], position[examples.labels][group]
    is_better = (scores > target_score) | ((scores == target_score) & (position < target_position))
    return 1.0 + np.bincount(group, is_better, len(examples.groups))


def _ndcg(ranks: np.ndarray) -> np.ndarray:
    """float64[G]: NDCG@10 by rank, NaN for a target who is not on the list."""
    return metrics_per_list(np.where(np.isnan(ranks), np.inf, ranks))[METRICS.index("ndcg@10")]
