"""InfoNCE by hand, and which statements become negatives."""

from __future__ import annotations

import math

import pytest
import torch

from befriend.text.contrastive import MARGIN, choose_negatives, info_nce

NONE_TRUE = torch.zeros(2, 2, dtype=torch.bool)


def test_info_nce_matches_the_value_computed_by_hand() -> None:
    scores = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
    rows = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-3))) / 2
    columns = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-2))) / 2
    assert float(info_nce(scores, torch.eye(2).bool())) == pytest.approx((rows + columns) / 2)


def test_extra_negatives_count_for_the_rows_only() -> None:
    scores, extra = torch.zeros(2, 2), torch.zeros(2, 3)
    chosen = torch.tensor([[True, True, False], [False, False, False]])
    expected = ((math.log(4) + math.log(2)) / 2 + math.log(2)) / 2
    assert float(info_nce(scores, torch.eye(2).bool(), extra, chosen)) == pytest.approx(expected)


def test_another_true_statement_is_no_negative_in_either_direction() -> None:
    true = torch.tensor([[True, True], [False, True]])
    similar, dissimilar = torch.tensor([[1.0, 9.0], [0.0, 1.0]]), torch.tensor([[1.0, -9.0], [0.0, 1.0]])
    assert float(info_nce(similar, true)) == pytest.approx(float(info_nce(dissimilar, true)))
    assert float(info_nce(similar, NONE_TRUE)) > float(info_nce(dissimilar, NONE_TRUE))


SCORES = torch.tensor([[0.9, 0.5, 0.4, 0.1]])
POSITIVE = torch.tensor([0.6])
ALLOWED = torch.tensor([[True, True, True, True]])


def test_hard_negatives_have_the_highest_scores() -> None:
    assert choose_negatives(SCORES, POSITIVE, ALLOWED, "hard", 2).tolist() == [[True, True, False, False]]


def test_semi_hard_negatives_score_just_below_the_true_statement() -> None:
    assert MARGIN == 0.3  # so that 0.1 is too far below 0.6
    assert choose_negatives(SCORES, POSITIVE, ALLOWED, "semi-hard", 3).tolist() == [[False, True, True, False]]


def test_random_negatives_may_be_any_and_have_the_requested_number() -> None:
    torch.manual_seed(0)
    drawn = torch.stack([choose_negatives(SCORES, POSITIVE, ALLOWED, "random", 1)[0] for _ in range(200)])
    assert (drawn.sum(1) == 1).all() and (drawn.sum(0) > 20).all()


@pytest.mark.parametrize("kind", ["random", "hard", "semi-hard"])
def test_a_statement_that_is_true_of_a_user_is_never_a_negative(kind: str) -> None:
    allowed = torch.tensor([[False, True, False, False]])
    for _ in range(20):
        assert choose_negatives(SCORES, POSITIVE, allowed, kind, 4).tolist() == [[False, True, False, False]]  # type: ignore[arg-type]
