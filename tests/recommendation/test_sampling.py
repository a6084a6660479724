"""Sampled lists follow the model's probabilities, and hold eligible candidates only, each once."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from befriend.recommendation.sampling import Sampling, gumbel, sample

SHARES = torch.tensor([0.5, 0.3, 0.15, 0.05])


def draws(count: int, k: int, sampling: Sampling, seed: int = 0) -> torch.Tensor:
    """int64[count, k]: lists of candidates whose probabilities are SHARES."""
    noise = gumbel(count, len(SHARES), generator=torch.Generator().manual_seed(seed))
    return sample(SHARES.log().expand(count, -1), k, sampling, noise)


def test_pairs_are_drawn_with_the_probability_of_drawing_without_replacement() -> None:
    count = 40_000
    lists = draws(count, 2, Sampling())
    for a, b in permutations(range(4), 2):
        expected = float(SHARES[a] * SHARES[b] / (1 - SHARES[a]))
        share = ((lists[:, 0] == a) & (lists[:, 1] == b)).double().mean().item()
        assert share == pytest.approx(expected, abs=4 * (expected / count) ** 0.5)


def test_a_low_temperature_sharpens_and_a_high_one_flattens() -> None:
    share_of_best = {t: draws(20_000, 1, Sampling(temperature=t)).eq(0).double().mean().item() for t in (0.5, 1, 50)}
    assert share_of_best[0.5] == pytest.approx(0.25 / (0.25 + 0.09 + 0.0225 + 0.0025), abs=0.02)
    assert share_of_best[1] == pytest.approx(0.5, abs=0.02)
    assert share_of_best[50] == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(
    ("sampling", "drawn"),
    [
        (Sampling(top_k=2), {0, 1}),
        (Sampling(nucleus=0.5), {0}),
        (Sampling(nucleus=0.51), {0, 1}),
        (Sampling(nucleus=0.96), {0, 1, 2, 3}),
        (Sampling(top_k=1, nucleus=0.9), {0}),
    ],
    ids=str,
)
def test_top_k_and_nucleus_limit_who_is_drawn(sampling: Sampling, drawn: set[int]) -> None:
    lists = draws(2000, 4, sampling)
    assert set(lists.unique().tolist()) == drawn | ({-1} if len(drawn) < 4 else set())


def test_equal_seeds_give_equal_lists() -> None:
    assert torch.equal(draws(50, 3, Sampling(), seed=3), draws(50, 3, Sampling(), seed=3))
    assert not torch.equal(draws(50, 3, Sampling(), seed=3), draws(50, 3, Sampling(), seed=4))


@given(
    st.lists(st.floats(-30, 30) | st.just(-torch.inf), min_size=1, max_size=20), st.integers(1, 25), st.integers(0, 99)
)
def test_lists_hold_eligible_candidates_once_and_are_as_long_as_possible(
    scores: list[float], k: int, seed: int
) -> None:
    row = torch.tensor(sorted(scores, reverse=True))
    noise = gumbel(1, len(row), generator=torch.Generator().manual_seed(seed))
    columns = sample(row[None], k, Sampling(), noise)[0]
    eligible = (row > -torch.inf).nonzero().squeeze(1).tolist()
    listed = columns[columns >= 0].tolist()
    assert len(set(listed)) == len(listed) == min(k, len(eligible)) and set(listed) <= set(eligible)
