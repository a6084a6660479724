"""Calibration: softmax probabilities and reliability tables match values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from befriend.analysis.calibration import reliability_table, top_k_probabilities


def test_probabilities_are_the_softmax_over_all_eligible_users() -> None:
    probability, column = top_k_probabilities(torch.tensor([[1.0, 8.0, 1.0], [0.0, 1.0, 1.0]]).log())
    assert probability[0].tolist() == pytest.approx([0.8, 0.1, 0.1, *[0] * 7]) and column[0, 0] == 1
    assert probability[1].tolist() == pytest.approx([0.5, 0.5, *[0] * 8])
    assert sorted(column[1].tolist()) == [-1] * 8 + [1, 2]
    assert top_k_probabilities(torch.full((1, 2), -torch.inf))[0].sum() == 0


def test_calibrated_predictions_lie_on_the_diagonal() -> None:
    """Ten bins: in nine, the probability is 0 and no candidate is the target; in one it is 0.5, and every second is."""
    predicted = np.r_[np.zeros(90), np.full(10, 0.5)]
    is_target = np.r_[np.zeros(90, bool), np.arange(10) % 2 == 0]
    table = reliability_table(predicted, is_target)
    assert table["n"].to_list() == [10] * 10
    assert table["observed"].to_list() == [0] * 9 + [0.5] == table["predicted"].to_list()
    low, high = table.row(9)[-2:]
    assert (low, high) == pytest.approx((0.2366, 0.7634), abs=1e-4)  # Wilson, 5 of 10


def test_with_fewer_pairs_than_bins_each_pair_is_a_bin() -> None:
    table = reliability_table(np.array([0.2, 0.1]), np.array([True, False]))
    assert table["predicted"].to_list() == [0.1, 0.2]
    assert table["observed"].to_list() == [0, 1]
