"""Beam search finds what scoring everyone finds, and never anybody who does not exist or may not be shown."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
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
    """A model with random weights, the trie of its users, and what 6 requests ask for."""
    torch.manual_seed(seed)
    everything = torch.cartesian_prod(*[torch.arange(codes)] * levels).view(-1, levels)
    stus = everything[torch.randperm(len(everything))[:users]]
    model = NextTargetPredictionSTU(2, levels, codes, 8, HIDDEN, stus=stus, **options).eval()
    with torch.no_grad():  # training starts from 0
        for parameter in model.tower_layers.parameters():
            parameter.normal_(std=0.3)
    return model, Trie.of(stus), torch.randn(6, HIDDEN) * 3


def beam(model: NextTargetPredictionSTU, trie: Trie, asked: Tensor, terms: Tensor, width: int, k: int) -> SearchResult:
    return beam_search(model, trie, PrefixScores.of(model, trie, model.paths), asked, TermBounds(trie, terms), width, k)


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
@pytest.mark.parametrize("options", [{}, {"tied": True}, {"tower_type": "mlp"}, {"tower_type": "moe"}], ids=str)
def test_a_beam_as_wide_as_there_are_users_finds_what_scoring_everyone_finds(
    levels: int, options: dict[str, Any]
) -> None:
    users = min(40, CODES**levels)
    model, trie, asked = network(levels, users, levels, **options)
    terms = torch.randn(users, len(asked)) * 3
    terms[torch.rand(terms.shape) < 0.3] = -torch.inf
    wide, all_ = beam(model, trie, asked, terms, users, users), exhaustive_search(model, trie, asked, terms, users)
    assert torch.equal(wide.ids, all_.ids)
    assert torch.allclose(wide.scores, all_.scores, atol=1e-4)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 10**6), users=st.integers(1, 60), width=st.integers(1, 8), k=st.integers(1, 12))
def test_only_people_who_exist_and_may_be_shown_come_out(seed: int, users: int, width: int, k: int) -> None:
    model, trie, asked = network(seed, users)
    hidden = torch.rand(users, len(asked)) < torch.rand(len(asked))
    terms = torch.randn(users, len(asked)).masked_fill(hidden, -torch.inf)
    found = beam(model, trie, asked, terms, max(width, k), k)
    for row, listed in enumerate(found.ids):
        people = listed[listed >= 0]
        assert len(people.unique()) == len(people) == min(k, int((~hidden[:, row]).sum()))
        assert (people < users).all() and not hidden[trie.leaves[people].long(), row].any()


def test_exclusion_by_counts_is_exclusion_by_users() -> None:
    model, trie, asked = network(1)
    indptr, users = torch.tensor([0, 3, 3, 9, 9, 12, 40]), torch.randint(40, (40,))
    terms = torch.zeros(40, len(asked))
    for row in range(len(asked)):
        terms[trie.leaves[users[indptr[row] : indptr[row + 1]]].long(), row] = -torch.inf
    shown = ExclusionBounds(trie, trie.exclusions(indptr, users))
    one = beam_search(model, trie, PrefixScores.of(model, trie, model.paths), asked, shown, 10, 10)
    other = beam(model, trie, asked, terms, 10, 10)
    assert torch.equal(one.ids, other.ids)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**6), users=st.integers(1, 60), width=st.integers(1, 8), share=st.floats(0, 1))
def test_where_few_tokens_lead_on_nobody_hidden_comes_out_either(
    seed: int, users: int, width: int, share: float
) -> None:
    model, trie, asked = network(seed, users, codes=40)
    following = PrefixScores.of(model, trie, model.paths)
    hidden = torch.rand(len(asked), users) < torch.rand(len(asked), 1) ** (1 - share)  # at 1, everybody to everyone
    indptr = torch.cat([torch.zeros(1).long(), hidden.sum(1).cumsum(0)])
    shown = ExclusionBounds(trie, trie.exclusions(indptr, hidden.nonzero()[:, 1]))
    found = beam_search(model, trie, following, asked, shown, width, width).ids
    for row, listed in enumerate(found):
        people = listed[listed >= 0]
        assert len(people.unique()) == len(people) == min(width, int((~hidden[row]).sum()))
        assert not hidden[row, people].any()
    wide = beam_search(model, trie, following, asked, shown, users, users)
    terms = torch.zeros(users, len(asked)).masked_fill(hidden.T[trie.users.long()], -torch.inf)
    everyone = exhaustive_search(model, trie, asked, terms, users)
    assert torch.allclose(wide.scores, everyone.scores, atol=1e-4)
    assert all(set(a.tolist()) == set(b.tolist()) for a, b in zip(wide.ids, everyone.ids, strict=True))


def test_what_one_user_adds_is_seen_from_the_root() -> None:
    """Somebody improbable who is right at the moment: a beam of one finds them."""
    model, trie, asked = network(2)
    log = model.log_probs(asked, torch.arange(40))
    least = log.argmin(1)
    terms = torch.zeros(40, len(asked))
    terms[trie.leaves[least].long(), torch.arange(len(asked))] = 30.0
    assert torch.equal(beam(model, trie, asked, terms, 1, 1).ids.squeeze(1), least)


def test_probabilities_of_everyone_sum_to_one_whoever_was_added() -> None:
    model, trie, asked = network(3)
    assert torch.allclose(model.log_probs(asked, torch.arange(40)).exp().sum(1), torch.ones(6))
    taken = {tuple(stu) for stu in trie.stus().tolist()}
    more = [stu for stu in torch.cartesian_prod(*[torch.arange(CODES)] * 3).tolist() if tuple(stu) not in taken][:9]
    model.set_users(torch.cat([model.tokens.stus, torch.tensor(more)]))
    assert torch.allclose(model.log_probs(asked, torch.arange(49)).exp().sum(1), torch.ones(6))
    bigger = trie.insert(torch.tensor(more), torch.arange(40, 49))
    terms = torch.zeros(49, len(asked))
    terms[bigger.leaves[48].long()] = 50.0
    assert (beam(model, bigger, asked, terms, 3, 3).ids[:, 0] == 48).all()
