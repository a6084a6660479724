"""The ranker: merging of candidates, ranks, training examples, and training."""

from __future__ import annotations

import numpy as np
import pytest

from befriend.retrieval.ranker import (
    CandidateLists,
    RankerExamples,
    fit_ranker,
    merge_candidates,
    rank_in_list,
    source_columns,
)
from befriend.retrieval.ranker_settings import RankerSettings


def test_candidates_are_the_distinct_users_at_the_top_of_all_lists() -> None:
    lists = CandidateLists({"a": np.array([[3, 1, -1], [5, -1, -1]]), "b": np.array([[1, 2, 3], [-1, -1, -1]])}, {})
    assert merge_candidates(lists, ("a", "b")).tolist() == [[1, 2, 3], [5, -1, -1]]
    assert merge_candidates(lists, ("a",)).tolist() == [[1, 3], [5, -1]]


def test_rank_in_list_gives_the_position_of_each_user() -> None:
    ids, users = np.array([[7, 4, 9], [4, -1, -1]] * 50), np.array([[4, 7, 8, -1], [4, 9, -1, -1]] * 50)
    assert rank_in_list(ids, users)[:2].tolist() == [[1, 0, -1, -1], [0, -1, -1, -1]]
    assert (rank_in_list(ids, users)[::2] == [1, 0, -1, -1]).all()


MODEL = ("two-tower",)  # features: rank, score, score minus the best


def examples(lists: int, seed: int) -> RankerExamples:
    """Examples with the features of one model, in which the target is the candidate with the best score."""
    rng = np.random.default_rng(seed)
    groups = rng.integers(3, 9, lists)
    rows = rng.normal(size=(groups.sum(), 3)).astype(np.float32)
    list_of_row, labels = np.repeat(np.arange(lists), groups), np.zeros(groups.sum(), bool)
    for k in range(lists):
        rows_of_list = np.flatnonzero(list_of_row == k)
        labels[rows_of_list[rows[rows_of_list, 1].argmax()]] = True
    return RankerExamples(rows, labels, groups, *list_columns(np.arange(lists)))


def list_columns(timestamps: np.ndarray) -> list[np.ndarray]:
    """timestamps, users, regimes and excludes_contacts of lists `any` in streaming, each of a user of its own."""
    return [timestamps, np.arange(len(timestamps)), np.zeros_like(timestamps), np.zeros(len(timestamps), bool)]


def test_the_ranker_learns_which_candidate_comes_first() -> None:
    booster = fit_ranker(examples(400, 0), MODEL, RankerSettings(trees=60, threads=1))
    later = examples(100, 1)
    score, start = booster.predict(later.features), 0
    is_correct = []
    for count in later.groups:
        is_correct.append(later.labels[start + score[start : start + count].argmax()])
        start += count
    assert np.mean(is_correct) > 0.8


def test_the_same_seed_gives_the_same_trees() -> None:
    settings = [RankerSettings(trees=10, threads=1, seed=seed) for seed in (0, 0, 1)]
    one, two, other = (fit_ranker(examples(200, 0), MODEL, s) for s in settings)
    assert one.model_to_string() == two.model_to_string() != other.model_to_string()


def test_a_higher_score_of_a_model_never_lowers_that_of_the_ranker() -> None:
    """Not even where the candidates with the lowest scores are the targets."""
    reversed_scores = examples(400, 0)
    reversed_scores.features[:, 1:] *= -1
    booster = fit_ranker(reversed_scores, MODEL, RankerSettings(trees=60, threads=1))
    model_score = np.linspace(-3, 3, 50)
    for below_best in (-2.0, 0.0):
        features = np.stack([np.zeros(50), model_score, np.full(50, below_best)], 1)
        assert (np.diff(booster.predict(features)) >= 0).all()


def test_concat_sorts_lists_by_time() -> None:
    a = RankerExamples(
        np.array([[1.0], [2.0], [3.0]]),
        np.array([True, False, True]),
        np.array([2, 1]),
        *list_columns(np.array([5, 9])),
    )
    b = RankerExamples(np.array([[7.0], [8.0]]), np.array([False, True]), np.array([2]), *list_columns(np.array([7])))
    joined = RankerExamples.concat([a, b])
    assert joined.features[:, 0].tolist() == [1, 2, 7, 8, 3]
    assert joined.labels.tolist() == [True, False, False, True, True]
    assert joined.groups.tolist() == [2, 2, 1] and joined.timestamps.tolist() == [5, 7, 9]
    assert joined.users.tolist() == [0, 0, 1]
    first, rest = joined.split(1)
    assert first.features[:, 0].tolist() == [1, 2] and first.timestamps.tolist() == [5]
    assert rest.features[:, 0].tolist() == [7, 8, 3] and rest.groups.tolist() == [2, 1]


def test_source_columns_are_the_last_ones_and_models_have_three() -> None:
    assert source_columns(20, ("two-tower", "ppr", "stu", "popularity")) == {
        "two-tower": 12,
        "ppr": 15,
        "stu": 16,
        "popularity": 19,
    }


@pytest.mark.parametrize("objective", ["contact", "answered"])
def test_the_objective_chooses_the_events(objective: str) -> None:
    from befriend.stages.train_ranker import _example_mask
    from tests.conftest import make_log

    day = 86_400
    log = make_log(
        [
            (0, "m", 1, 0),
            (2, "m", 1, 0),
            (1, "m", 0, day),
            (1, "m", 2, 20 * day),
            (0, "m", 1, 28 * day),
            (1, "m", 0, 29 * day),
        ]
    )
    example_mask = _example_mask(log, 30 * day, np.array([0, 1, 4]), RankerSettings(objective=objective))  # type: ignore[arg-type]
    # The last event is answered, but an answer after the end of the data would be missed, so it is no example.
    assert example_mask.tolist() == ([True, True, True] if objective == "contact" else [True, False, False])
