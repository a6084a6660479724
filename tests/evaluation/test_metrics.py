"""Ranking metrics and the Gini index match values computed by hand; bootstrap intervals have the right width."""

from __future__ import annotations

import numpy as np
import pytest

from befriend.evaluation.metrics import UserBootstrap, gini, metrics_per_list


def test_metrics_of_single_ranks_match_values_computed_by_hand() -> None:
    ndcg, hit, mrr = metrics_per_list(np.array([1, 3, 10, 11, 100, 101, np.inf]))
    assert ndcg == pytest.approx([1, 0.5, 1 / np.log2(11), 0, 0, 0, 0])
    assert hit.tolist() == [1, 1, 1, 0, 0, 0, 0]
    assert mrr == pytest.approx([1, 1 / 3, 1 / 10, 1 / 11, 1 / 100, 0, 0])


def test_intervals_contain_the_mean_and_depend_on_the_seed_only() -> None:
    rng = np.random.default_rng(0)
    users, values = rng.integers(0, 200, 1000), rng.random((2, 1000))
    all_lists = np.ones(1000, bool)
    first = UserBootstrap(users, 500, 0.95, seed=3).intervals(values, all_lists)
    assert (first[:, 0] < values.mean(1)).all() and (values.mean(1) < first[:, 1]).all()
    assert (first == UserBootstrap(users, 500, 0.95, seed=3).intervals(values, all_lists)).all()
    assert (first != UserBootstrap(users, 500, 0.95, seed=4).intervals(values, all_lists)).any()


def test_lists_of_one_user_are_resampled_together() -> None:
    """Ten copies of each list add no information: the interval stays as wide as with one."""
    rng = np.random.default_rng(1)
    value = rng.random(100)
    single = UserBootstrap(np.arange(100), 2000, 0.95, 0).intervals(value[None], np.ones(100, bool))
    repeated = UserBootstrap(np.repeat(np.arange(100), 10), 2000, 0.95, 0).intervals(
        value.repeat(10)[None], np.ones(1000, bool)
    )
    assert np.ptp(repeated) == pytest.approx(np.ptp(single), rel=0.02)
    standard_error = value.std() / 10
    assert np.ptp(single) == pytest.approx(2 * 1.96 * standard_error, rel=0.1)


def test_gini_is_0_for_equal_shares_and_grows_with_inequality() -> None:
    assert gini(np.array([3, 3, 3])) == pytest.approx(0)
    assert gini(np.array([0, 0, 0, 4])) == pytest.approx(0.75)
    assert gini(np.array([1, 3])) == pytest.approx(0.25)
    assert gini(np.zeros(3)) == 0
