"""Beam search against exhaustive search, and that it returns only users who exist and are allowed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from befriend.models.stu_model import NextTargetPredictionSTU
from befriend.retrieval.beam import ExclusionBounds, PrefixScores, TermBounds, beam_search, exhaustive_search
from befriend.retrieval.knn import SearchResult
from befriend.tokens.trie import Trie

CODES, HIDDEN = 5, 12


def network(
    seed: int, users: int = 40, levels: int = 3, codes: int = CODES, **options: Any
) -> tuple[NextTargetPredictionSTU, Trie, Tensor]:
    """A model with random weights, the trie of its users, and 6 random queries, float32[6, HIDDEN]."""
    torch.manual_seed(seed)
    all_stus = torch.cartesian_prod(*[torch.arange(codes)] * levels).view(-1, levels)
    stus = all_stus[torch.randperm(len(all_stus))[:users]]
    model = NextTargetPredictionSTU(2, levels, codes, 8, HIDDEN, stus=stus, **options).eval()
    with torch.no_grad():  # training starts from 0
        for parameter in model.tower_layers.parameters():
            parameter.normal_(std=0.3)
    return model, Trie.of(stus), torch.randn(6, HIDDEN) * 3


def beam(
    model: NextTargetPredictionSTU, trie: Trie, queries: Tensor, terms: Tensor, width: int, k: int
) -> SearchResult:
    return beam_search(
        model, trie, PrefixScores.of(model, trie, model.prefix_tree), queries, TermBounds(trie, terms), width, k
    )


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
@pytest.mark.parametrize("options", [{}, {"tied": True}, {"tower_type": "mlp"}, {"tower_type": "moe"}], ids=str)
def test_a_beam_as_wide_as_there_are_users_finds_what_exhaustive_search_finds(
    levels: int, options: dict[str, Any]
) -> None:
    users = min(40, CODES**levels)
    model, trie, queries = network(levels, users, levels, **options)
    terms = torch.randn(users, len(queries)) * 3
    terms[torch.rand(terms.shape) < 0.3] = -torch.inf
    wide, exhaustive = (
        beam(model, trie, queries, terms, users, users),
        exhaustive_search(model, trie, queries, terms, users),
    )
    assert torch.equal(wide.ids, exhaustive.ids)
    assert torch.allclose(wide.scores, exhaustive.scores, atol=1e-4)


@given(seed=st.integers(0, 10**6), users=st.integers(1, 60), width=st.integers(1, 8), k=st.integers(1, 12))
def test_results_are_distinct_users_who_exist_and_are_allowed(seed: int, users: int, width: int, k: int) -> None:
    model, trie, queries = network(seed, users)
    hidden = torch.rand(users, len(queries)) < torch.rand(len(queries))
    terms = torch.randn(users, len(queries)).masked_fill(hidden, -torch.inf)
    result = beam(model, trie, queries, terms, max(width, k), k)
    for row, listed in enumerate(result.ids):
        users_of_row = listed[listed >= 0]
        assert len(users_of_row.unique()) == len(users_of_row) == min(k, int((~hidden[:, row]).sum()))
        assert (users_of_row < users).all() and not hidden[trie.leaves[users_of_row].long(), row].any()


def test_exclusion_bounds_give_the_results_of_infinite_terms() -> None:
    model, trie, queries = network(1)
    indptr, users = torch.tensor([0, 3, 3, 9, 9, 12, 40]), torch.randint(40, (40,))
    terms = torch.zeros(40, len(queries))
    for row in range(len(queries)):
        terms[trie.leaves[users[indptr[row] : indptr[row + 1]]].long(), row] = -torch.inf
    bounds = ExclusionBounds(trie, trie.exclusions(indptr, users))
    by_counts = beam_search(model, trie, PrefixScores.of(model, trie, model.prefix_tree), queries, bounds, 10, 10)
    by_terms = beam(model, trie, queries, terms, 10, 10)
    assert torch.equal(by_counts.ids, by_terms.ids)


@given(seed=st.integers(0, 10**6), users=st.integers(1, 60), width=st.integers(1, 8), share=st.floats(0, 1))
def test_on_sparse_levels_results_are_distinct_allowed_users(seed: int, users: int, width: int, share: float) -> None:
    model, trie, queries = network(seed, users, codes=40)
    prefix_scores = PrefixScores.of(model, trie, model.prefix_tree)
    # With share 1, all users are excluded from all lists.
    hidden = torch.rand(len(queries), users) < torch.rand(len(queries), 1) ** (1 - share)
    indptr = torch.cat([torch.zeros(1).long(), hidden.sum(1).cumsum(0)])
    bounds = ExclusionBounds(trie, trie.exclusions(indptr, hidden.nonzero()[:, 1]))
    result = beam_search(model, trie, prefix_scores, queries, bounds, width, width).ids
    for row, listed in enumerate(result):
        users_of_row = listed[listed >= 0]
        assert len(users_of_row.unique()) == len(users_of_row) == min(width, int((~hidden[row]).sum()))
        assert not hidden[row, users_of_row].any()
    wide = beam_search(model, trie, prefix_scores, queries, bounds, users, users)
    terms = torch.zeros(users, len(queries)).masked_fill(hidden.T[trie.users.long()], -torch.inf)
    exhaustive = exhaustive_search(model, trie, queries, terms, users)
    assert torch.allclose(wide.scores, exhaustive.scores, atol=1e-4)
    assert all(set(a.tolist()) == set(b.tolist()) for a, b in zip(wide.ids, exhaustive.ids, strict=True))


def test_a_large_term_of_one_user_guides_the_beam_from_the_root() -> None:
    """A beam of width 1 finds the least probable user if the term of that user is large enough."""
    model, trie, queries = network(2)
    log_probs = model.log_probs(queries, torch.arange(40))
    least_probable = log_probs.argmin(1)
    terms = torch.zeros(40, len(queries))
    terms[trie.leaves[least_probable].long(), torch.arange(len(queries))] = 30.0
    assert torch.equal(beam(model, trie, queries, terms, 1, 1).ids.squeeze(1), least_probable)


def test_probabilities_of_all_users_sum_to_one_also_after_users_were_added() -> None:
    model, trie, queries = network(3)
    assert torch.allclose(model.log_probs(queries, torch.arange(40)).exp().sum(1), torch.ones(6))
    existing = {tuple(stu) for stu in trie.stus().tolist()}
    all_stus = torch.cartesian_prod(*[torch.arange(CODES)] * 3).tolist()
    new_stus = [stu for stu in all_stus if tuple(stu) not in existing][:9]
    model.set_users(torch.cat([model.tokens.stus, torch.tensor(new_stus)]))
    assert torch.allclose(model.log_probs(queries, torch.arange(49)).exp().sum(1), torch.ones(6))
    larger_trie = trie.insert(torch.tensor(new_stus), torch.arange(40, 49))
    terms = torch.zeros(49, len(queries))
    terms[larger_trie.leaves[48].long()] = 50.0
    assert (beam(model, larger_trie, queries, terms, 3, 3).ids[:, 0] == 48).all()
