"""Which source is served in place of the ranker."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from befriend.evaluation.served_sources import MIN_LISTS, choose_sources, ranker_ranks
from befriend.retrieval.ranker import RankerExamples

NAMES = ("ppr", "popularity")


class ByFirstColumn:
    """A ranker that orders candidates by their first feature."""

    def predict(self, features: np.ndarray, num_threads: int) -> np.ndarray:
        return features[:, 0]


def make_examples(num_lists: int, target_rank: dict[str, float], target_score: float) -> RankerExamples:
    """Lists of two candidates: the target, whom the sources rank as given, and another with the score 0.5."""
    target = [target_score, *(target_rank[name] for name in NAMES)]
    features = np.array([target, [0.5, np.nan, np.nan]] * num_lists, np.float32)
    labels = np.array([True, False] * num_lists)
    lists = np.arange(num_lists)
    return RankerExamples(features, labels, np.full(num_lists, 2), lists, lists, np.full(num_lists, 2), lists % 2 == 0)


def fit(_: RankerExamples) -> Any:
    return ByFirstColumn()


@pytest.mark.parametrize("target_score", [0.0, 1.0])
def test_a_source_is_served_where_its_lists_are_better_than_those_of_the_ranker(target_score: float) -> None:
    examples = make_examples(4 * MIN_LISTS, {"ppr": 0, "popularity": 40}, target_score)
    chosen = choose_sources(examples, NAMES, fit, 0)
    # PPR puts the target first, the ranker second or, with a larger score, first too.
    assert chosen == ({"any": {"daily": "ppr"}, "new": {"daily": "ppr"}} if target_score == 0 else {})


def test_few_lists_decide_nothing() -> None:
    assert choose_sources(make_examples(2 * MIN_LISTS, {"ppr": 0, "popularity": 9}, 0.0), NAMES, fit, 0) == {}
    assert choose_sources(make_examples(1, {"ppr": 0, "popularity": 9}, 0.0), NAMES, fit, 0) == {}


def test_a_difference_within_the_noise_decides_nothing() -> None:
    examples = make_examples(4 * MIN_LISTS, {"ppr": 0, "popularity": np.nan}, 0.0)
    is_worse = np.arange(len(examples.labels)) // 2 % 4 < 2
    examples.features[is_worse & examples.labels, :2] = [1.0, 1.0]  # the ranker first, PPR second
    assert choose_sources(examples, NAMES, fit, 0) == {}


def test_ranks_of_the_ranker_count_better_candidates_and_earlier_ones_with_the_same_score() -> None:
    lists = np.arange(2)
    examples = RankerExamples(
        np.zeros((5, 1), np.float32),
        np.array([False, True, False, True, False]),
        np.array([3, 2]),
        lists,
        lists,
        lists,
        lists > 5,
    )
    assert ranker_ranks(examples, np.array([0.5, 0.5, 0.9, 0.1, 0.1])).tolist() == [3, 1]
