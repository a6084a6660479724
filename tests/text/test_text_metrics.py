"""Text metrics, on tables small enough to compute by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from befriend.text import text_metrics

SCORES = np.array([[0.9, 0.8, 0.1, 0.0], [0.2, 0.9, 0.8, 0.1], [0.5, 0.4, 0.3, 0.2]])
TRUE = np.array([[True, False, True, False], [False, False, True, False], [False] * 4])


def test_retrieval_metrics_match_values_computed_by_hand() -> None:
    metrics = text_metrics.retrieval(SCORES, TRUE, (2,))  # the user without a true statement does not count
    assert metrics["precision@2"] == 0.5 and metrics["recall@2"] == pytest.approx(0.75)
    assert metrics["f1@2"] == pytest.approx((0.5 + 2 / 3) / 2)
    second_gain = 1 / math.log2(3)
    assert metrics["ndcg@2"] == pytest.approx((1 / (1 + second_gain) + second_gain) / 2)
    assert metrics["mrr"] == pytest.approx((1 + 1 / 2) / 2)


def test_ties_count_half() -> None:
    assert text_metrics.reciprocal_ranks(np.zeros((1, 3)), np.array([[True, False, False]])).tolist() == [1 / 2]
    assert text_metrics.author_ranks(np.zeros((3, 3))).tolist() == [2, 2, 2]


def test_the_threshold_is_the_one_with_the_best_f1() -> None:
    scores, is_true = np.array([[0.9, 0.7, 0.6, 0.1]]), np.array([[True, True, False, False]])
    assert text_metrics.best_threshold(scores, is_true) == 0.7
    assert text_metrics.zero_shot(scores, is_true, 0.7) == {"f1": 1.0, "auc": 1.0}
    assert text_metrics.zero_shot(scores, is_true, 0.6)["f1"] == pytest.approx(0.8)


def test_auc_is_the_share_of_pairs_in_which_the_true_statement_scores_higher() -> None:
    metrics = text_metrics.zero_shot(np.array([[0.5, 0.9, 0.1, 0.5]]), np.array([[True, False, False, False]]), 0)
    assert metrics["auc"] == pytest.approx((0 + 1 + 0.5) / 3)


def test_author_metrics_match_values_computed_by_hand() -> None:
    metrics = text_metrics.author_retrieval(np.array([[0.9, 0.1], [0.8, 0.2]]))
    assert metrics == {"mrr": 0.75, "recall@1": 0.5, "recall@10": 1.0}


def test_similarity_compares_cosines_with_shared_attributes() -> None:
    vectors = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    attributes = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], bool)
    metrics = text_metrics.similarity(vectors, attributes)
    # Of the six pairs, two have the same attribute; the three nearest of each user are all the others.
    assert metrics["spearman"] == pytest.approx(1) and metrics["everybody"] == pytest.approx(1 / 3)
    assert metrics["neighbours"] == pytest.approx(1 / 3)
    assert text_metrics.similarity(vectors[[0, 2, 1, 3]], attributes)["spearman"] == pytest.approx(-0.5)


def test_space_metrics_of_orthogonal_users_match_values_computed_by_hand() -> None:
    users, statements = np.eye(3), np.eye(3)
    metrics = text_metrics.embedding_space(users, statements, np.eye(3, dtype=bool))
    assert metrics["alignment"] == 0 and metrics["anisotropy"] == pytest.approx(0)
    assert metrics["uniformity"] == pytest.approx(-4) and metrics["effective_rank"] == pytest.approx(2)
