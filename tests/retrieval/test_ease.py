"""EASE: its closed form, against the ridge regression that it solves, and what a fit may depend on."""

from __future__ import annotations

import numpy as np
import pytest

from befriend.retrieval import ease
from befriend.retrieval.ease import Ease
from tests.conftest import make_log, random_log


def test_each_column_is_the_ridge_regression_on_the_others() -> None:
    log, counts = random_log(users=12, events=100), np.zeros((12, 12))
    fit = Ease(log).as_of(ease.MIN_EVENTS)
    is_known = log.is_contact & (np.arange(100) < ease.MIN_EVENTS)
    np.add.at(counts, (log.actor[is_known], log.target[is_known]), 1)
    x = np.log1p(counts + counts.T)[np.ix_(fit.users, fit.users)]
    for k in range(len(fit.users)):
        others = np.arange(len(fit.users)) != k
        a, b = x[:, others], x[:, k]
        ridge = np.linalg.solve(a.T @ a + ease.REGULARISATION * np.eye(a.shape[1]), a.T @ b)
        assert fit.weights[others, k] == pytest.approx(ridge, abs=1e-6)
        assert fit.weights[k, k] == 0


def test_scores_add_the_weights_of_contacts_who_are_columns() -> None:
    log = make_log([(0, "hi", 1, k) for k in range(50)] + [(2, "hi", 1, 100 + k) for k in range(50)])
    fit = Ease(log).as_of(100)
    assert fit.users.tolist() == [0, 1, 2]
    expected = np.log1p(3) * fit.weights[1].astype(float)
    assert fit.scores(np.array([1, 7]), np.array([3, 9])) == pytest.approx(expected)
    assert fit.scores(np.empty(0, np.int64), np.empty(0)).tolist() == [0, 0, 0]


def test_a_fit_knows_no_later_event_and_is_kept_until_the_log_has_grown() -> None:
    log = random_log(users=20, events=300)
    fits = Ease(log)
    assert fits.as_of(200) is fits.as_of(201)
    first = fits.as_of(150)
    cut = random_log(users=20, events=300)
    cut.target[160:] = cut.actor[160:] - 1
    assert np.array_equal(Ease(cut).as_of(150).weights, first.weights)
    assert fits.as_of(150) is not fits.as_of(290)


def test_nobody_has_a_score_before_the_first_event() -> None:
    fit = Ease(random_log()).as_of(0)
    assert not len(fit.users) and not len(fit.scores(np.array([3]), np.array([1])))
