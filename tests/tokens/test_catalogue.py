"""Figures of a catalogue, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from befriend.tokens.catalogue import agreement, collisions, communities, use
from befriend.tokens.settings import TokenizeSettings
from tests.tokens.test_user_vectors import START, Graph, two_circles


def test_collisions_of_six_users() -> None:
    found = collisions(torch.tensor([[0, 1], [0, 1], [0, 1], [2, 2], [2, 2], [3, 0]]))
    assert found == {"unique_share": 0.5, "collision_rate": pytest.approx(5 / 6), "largest_bucket": 3}


def test_use_of_codes() -> None:
    assert use(torch.tensor([0, 0, 1, 1]), 4) == {"used_share": 0.5, "perplexity": pytest.approx(2)}
    assert use(torch.arange(4), 4) == {"used_share": 1, "perplexity": pytest.approx(4)}


def test_communities_of_two_circles_and_how_far_tokens_keep_to_them() -> None:
    log = two_circles()
    found = communities(Graph(90, {}).adjacency(log, np.arange(log.num_events), START), seed=0)
    assert len(np.unique(found[:8])) == len(np.unique(found[8:])) == 1 and found[0] != found[8]
    assert agreement(found * 2, found, 0)["homogeneity"] == pytest.approx(1)
    assert agreement(np.zeros(16, int), found, 0)["homogeneity"] == pytest.approx(0)
    assert agreement(found, found, 0)["shuffled"] < 0.5


@pytest.mark.parametrize(("users", "levels", "codes"), [(1899, 3, 32), (10**6, 3, 256), (24_759, 4, 32), (1, 3, 4)])
def test_the_number_of_codes_follows_from_the_number_of_users(users: int, levels: int, codes: int) -> None:
    assert TokenizeSettings(num_codebooks=levels).sizes(users) == (codes,) * levels
    assert codes**levels >= 8 * users
    assert TokenizeSettings(num_codebooks=levels, codes=10_000).sizes(users) == (10_000,) * levels
