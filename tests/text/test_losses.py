"""InfoNCE by hand; which statements become negatives."""

from __future__ import annotations

import math

import pytest
import torch

from befriend.text.losses import MARGIN, choose, info_nce

NO = torch.zeros(2, 2, dtype=torch.bool)


def test_info_nce_by_hand() -> None:
    scores = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
    rows = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-3))) / 2
    columns = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-2))) / 2
    assert float(info_nce(scores, torch.eye(2).bool())) == pytest.approx((rows + columns) / 2)


def test_further_negatives_count_for_the_rows() -> None:
    scores, further = torch.zeros(2, 2), torch.zeros(2, 3)
    chosen = torch.tensor([[True, True, False], [False, False, False]])
    expected = ((math.log(4) + math.log(2)) / 2 + math.log(2)) / 2
    assert float(info_nce(scores, torch.eye(2).bool(), further, chosen)) == pytest.approx(expected)


def test_another_true_statement_is_no_negative_in_either_direction() -> None:
    true = torch.tensor([[True, True], [False, True]])
    near, far = torch.tensor([[1.0, 9.0], [0.0, 1.0]]), torch.tensor([[1.0, -9.0], [0.0, 1.0]])
    assert float(info_nce(near, true)) == pytest.approx(float(info_nce(far, true)))
    assert float(info_nce(near, NO)) > float(info_nce(far, NO))


SCORES = torch.tensor([[0.9, 0.5, 0.4, 0.1]])
POSITIVE = torch.tensor([0.6])
ALLOWED = torch.tensor([[True, True, True, True]])


def test_hard_negatives_are_the_nearest() -> None:
    assert choose(SCORES, POSITIVE, ALLOWED, "hard", 2).tolist() == [[True, True, False, False]]


def test_semi_hard_negatives_lie_just_behind_the_true_one() -> None:
    assert MARGIN == 0.3  # so that .1 lies too far behind
    assert choose(SCORES, POSITIVE, ALLOWED, "semi-hard", 3).tolist() == [[False, True, True, False]]


def test_random_negatives_are_any_and_as_many_as_asked_for() -> None:
    torch.manual_seed(0)
    drawn = torch.stack([choose(SCORES, POSITIVE, ALLOWED, "random", 1)[0] for _ in range(200)])
    assert (drawn.sum(1) == 1).all() and (drawn.sum(0) > 20).all()


@pytest.mark.parametrize("kind", ["random", "hard", "semi-hard"])
def test_what_is_true_of_somebody_is_never_their_negative(kind: str) -> None:
    allowed = torch.tensor([[False, True, False, False]])
    for _ in range(20):
        assert choose(SCORES, POSITIVE, allowed, kind, 4).tolist() == [[False, True, False, False]]  # type: ignore[arg-type]
