"""Metrics of codebooks, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from befriend.tokens.codebook_metrics import code_usage, collision_metrics, communities, community_agreement
from befriend.tokens.token_settings import TokenizeSettings
from tests.tokens.test_user_vectors import START, InteractionGraph, two_cliques


def test_collisions_of_six_users() -> None:
    figures = collision_metrics(torch.tensor([[0, 1], [0, 1], [0, 1], [2, 2], [2, 2], [3, 0]]))
    assert figures == {"unique_share": 0.5, "collision_rate": pytest.approx(5 / 6), "largest_bucket": 3}


def test_code_usage_is_the_share_of_used_codes_and_their_perplexity() -> None:
    assert code_usage(torch.tensor([0, 0, 1, 1]), 4) == {"used_share": 0.5, "perplexity": pytest.approx(2)}
    assert code_usage(torch.arange(4), 4) == {"used_share": 1, "perplexity": pytest.approx(4)}


def test_communities_of_two_cliques_and_how_well_tokens_agree_with_them() -> None:
    log = two_cliques()
    labels = communities(InteractionGraph(90, {}).adjacency(log, np.arange(log.num_events), START), seed=0)
    assert len(np.unique(labels[:8])) == len(np.unique(labels[8:])) == 1 and labels[0] != labels[8]
    assert community_agreement(labels * 2, labels, 0)["homogeneity"] == pytest.approx(1)
    assert community_agreement(np.zeros(16, int), labels, 0)["homogeneity"] == pytest.approx(0)
    assert community_agreement(labels, labels, 0)["shuffled"] < 0.5


@pytest.mark.parametrize(("users", "levels", "codes"), [(1899, 3, 32), (10**6, 3, 256), (24_759, 4, 32), (1, 3, 4)])
def test_the_number_of_codes_follows_from_the_number_of_users(users: int, levels: int, codes: int) -> None:
    assert TokenizeSettings(num_codebooks=levels).sizes(users) == (codes,) * levels
    assert codes**levels >= 8 * users
    assert TokenizeSettings(num_codebooks=levels, codes=10_000).sizes(users) == (10_000,) * levels
