"""The measures, on tables small enough to do by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from befriend.text import protocols

SCORES = np.array([[0.9, 0.8, 0.1, 0.0], [0.2, 0.9, 0.8, 0.1], [0.5, 0.4, 0.3, 0.2]])
TRUE = np.array([[True, False, True, False], [False, False, True, False], [False] * 4])


def test_retrieval_by_hand() -> None:
    found = protocols.retrieval(SCORES, TRUE, (2,))  # who has no true statement does not count
    assert found["precision@2"] == 0.5 and found["recall@2"] == pytest.approx(0.75)
    assert found["f1@2"] == pytest.approx((0.5 + 2 / 3) / 2)
    second = 1 / math.log2(3)
    assert found["ndcg@2"] == pytest.approx((1 / (1 + second) + second) / 2)
    assert found["mrr"] == pytest.approx((1 + 1 / 2) / 2)


def test_ties_count_half() -> None:
    assert protocols.reciprocal_ranks(np.zeros((1, 3)), np.array([[True, False, False]])).tolist() == [1 / 2]
    assert protocols.author_ranks(np.zeros((3, 3))).tolist() == [2, 2, 2]


def test_the_threshold_is_the_one_with_the_best_f1() -> None:
    scores, true = np.array([[0.9, 0.7, 0.6, 0.1]]), np.array([[True, True, False, False]])
    assert protocols.best_threshold(scores, true) == 0.7
    assert protocols.zero_shot(scores, true, 0.7) == {"f1": 1.0, "auc": 1.0}
    assert protocols.zero_shot(scores, true, 0.6)["f1"] == pytest.approx(0.8)


def test_auc_is_how_often_the_true_one_lies_ahead() -> None:
    found = protocols.zero_shot(np.array([[0.5, 0.9, 0.1, 0.5]]), np.array([[True, False, False, False]]), 0)
    assert found["auc"] == pytest.approx((0 + 1 + 0.5) / 3)


def test_authors_by_hand() -> None:
    found = protocols.authors(np.array([[0.9, 0.1], [0.8, 0.2]]))
    assert found == {"mrr": 0.75, "recall@1": 0.5, "recall@10": 1.0}


def test_users_who_have_something_in_common_are_near() -> None:
    vectors = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    held = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], bool)
    found = protocols.similarity(vectors, held)
    assert found["spearman"] == pytest.approx(1) and found["everybody"] == pytest.approx(1 / 3)


def test_the_shape_of_a_space() -> None:
    users, statements = np.eye(3), np.eye(3)
    found = protocols.space(users, statements, np.eye(3, dtype=bool))
    assert found["alignment"] == 0 and found["anisotropy"] == pytest.approx(0)
    assert found["uniformity"] == pytest.approx(-4) and found["effective_rank"] == pytest.approx(2)
