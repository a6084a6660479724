"""Lists equal those of scoring all users with the formula of the model, with all terms, at any cutoff."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch

from befriend.features.activity import NUM_PAIR_FEATURES, NUM_USER_FEATURES
from befriend.features.feature_view import FeatureView
from befriend.features.two_hop import NUM_TWO_HOP_FEATURES, log_features
from befriend.models.model_inputs import CandidateInputs, CandidatePairs, PairFeatures, Query
from befriend.models.model_settings import StuModelSettings, TwoTowerModelSettings
from befriend.models.query_tower import QueryTower
from befriend.models.stu_model import NextTargetPredictionSTU
from befriend.models.two_tower_model import NextTargetPredictionUserIDs
from befriend.retrieval.retriever import Retriever
from befriend.retrieval.stu_retriever import StuRetriever
from befriend.retrieval.two_tower_retriever import TwoTowerRetriever
from tests.conftest import random_log
from tests.retrieval.request_helpers import make_request, search_lists

USERS, PARTNERS, OWN, TWO_HOP = 30, 3, 12, 5
SIZES = {"embedding_dim": 16, "hidden_dim": 32}
TERMS = {
    "recent_neighbors": True,
    "num_user_features": NUM_USER_FEATURES,
    "num_pair_features": NUM_PAIR_FEATURES,
    "num_two_hop_features": NUM_TWO_HOP_FEATURES,
    "static_score_weight": 0.5,
}
SETTINGS = {
    "history_length": 8,
    "recent_neighbors": PARTNERS,
    "history_candidates": OWN,
    "two_hop_candidates": TWO_HOP,
} | SIZES


def randomised(m: QueryTower) -> None:
    """Random weights, also where training starts from 0."""
    with torch.no_grad():
        for p in m.eval().parameters():
            p.normal_(std=0.3)
    m.users.has_embedding[20:] = False


def two_tower(feature_view: FeatureView) -> TwoTowerRetriever:
    m = NextTargetPredictionUserIDs(USERS, 1, **SIZES, **TERMS)  # type: ignore[arg-type]
    randomised(m)
    return TwoTowerRetriever(m, feature_view, TwoTowerModelSettings(**SETTINGS))  # type: ignore[arg-type]


def stu(feature_view: FeatureView, width: int | None) -> StuRetriever:
    stus = torch.cartesian_prod(*[torch.arange(4)] * 3)[torch.randperm(64)[:USERS]]
    m = NextTargetPredictionSTU(1, 3, 4, stus=stus[:20], **SIZES, **TERMS)  # type: ignore[arg-type]
    randomised(m)
    return StuRetriever(m, stus, feature_view, StuModelSettings(**SETTINGS), width)  # type: ignore[arg-type]


def scores_by_hand(r: Retriever[QueryTower], query: Query, user: int, num_visible: int, cutoff: int) -> torch.Tensor:
    """float[N]: the score of all users for the query of one user, from the formula of the model."""
    a, m = r.activity, r.model
    one, users = torch.tensor([user]), torch.arange(USERS)[None]
    visible, cutoffs = torch.tensor([[num_visible]]), torch.tensor([[cutoff]])
    entry = a.last_entries(users, visible)
    targets = CandidateInputs(
        users, a.recent_neighbors(users, entry + 1, PARTNERS), a.user_features(entry, visible, cutoffs)
    )
    if isinstance(m, NextTargetPredictionSTU):  # probabilities sum to 1 over the eligible users
        m = copy.deepcopy(m)
        m.set_users(m.tokens.stus, entry[0] >= 0)
    pair = a.last_pair_entries(one[:, None], users, visible)
    end = a.histories.end_offsets(one, visible[0])
    row, column = (pair >= end[:, None] - OWN).nonzero(as_tuple=True)
    entry_of_pair = pair[row, column]
    features = a.pair_features(entry_of_pair, end[row], visible[0], cutoffs[0])
    history = PairFeatures(row, column, features, a.edge_types(entry_of_pair))
    neighbors = r.feature_view.two_hop.neighbors(one, visible[0], cutoffs[0])
    has_two_hop = torch.isin(users[0], neighbors.neighbor)
    has_two_hop[column] = False  # those in the history have the pointer term alone
    closest = has_two_hop.nonzero().squeeze(1)
    two_hop = log_features(neighbors.features_of(torch.tensor(0), closest))
    pairs = CandidatePairs(history, PairFeatures(torch.zeros_like(closest), closest, two_hop))
    score = m.score_candidates(query, targets, pairs, m.users.lookup())[0]
    return torch.where(entry[0] >= 0, score, -torch.inf)


@pytest.mark.parametrize(
    "make", [two_tower, lambda o: stu(o, None), lambda o: stu(o, USERS)], ids=["two-tower", "stu", "stu-beam"]
)
@torch.no_grad()
def test_lists_equal_those_of_the_formula_at_any_cutoff_in_any_order(
    make: Callable[[FeatureView], Retriever[QueryTower]],
) -> None:
    torch.manual_seed(3)
    log = random_log(users=USERS, events=500, seed=4)
    r = make(FeatureView.of(log))
    rng = np.random.default_rng(0)
    for num_visible in (300, 120, 499, 40, 41):  # cutoffs forth and back in time
        cutoff = int(log.timestamp[num_visible - 1]) + 3600
        user = rng.choice(USERS, 3, replace=False)[[0, 1, 1, 2]]  # one user gets two lists
        excluded = [rng.choice(USERS, n, replace=False).tolist() for n in (0, 3, 10, 1)]
        result, query, _ = search_lists(r, make_request(user, num_visible, cutoff, excluded=excluded), 12)
        for b in range(4):
            one = query.select(slice(b, b + 1)).to_dtype(torch.float32)
            expected = scores_by_hand(r, one, int(user[b]), num_visible, cutoff)
            expected[int(user[b])] = expected[excluded[b]] = -torch.inf
            best = expected.topk(12)
            is_listed = best.values > -torch.inf
            assert torch.equal(result.ids[b][is_listed], best.indices[is_listed])
            assert torch.allclose(result.scores[b][is_listed], best.values[is_listed], atol=1e-4)
            assert (result.ids[b][~is_listed] == -1).all()


@pytest.mark.parametrize("make", [two_tower, lambda o: stu(o, None)], ids=["two-tower", "stu"])
def test_a_list_depends_neither_on_the_batch_nor_on_its_length(
    make: Callable[[FeatureView], Retriever[QueryTower]],
) -> None:
    """Equal to the last bit: in one batch with all users, alone, and cut to a shorter length."""
    torch.manual_seed(3)
    log = random_log(users=USERS, events=500, seed=4)
    r = make(FeatureView.of(log))
    cutoff = int(log.timestamp[399]) + 60
    all_users = list(range(USERS))
    together, _, _ = search_lists(r, make_request(all_users, 400, cutoff), 20)
    for user in all_users:
        alone, _, _ = search_lists(r, make_request([user], 400, cutoff), 20)
        assert torch.equal(alone.ids[0], together.ids[user]) and torch.equal(alone.scores[0], together.scores[user])
        short, _, _ = search_lists(r, make_request([user, user], 400, cutoff), 3)
        assert torch.equal(short.ids[1], together.ids[user, :3]) and torch.equal(
            short.scores[1], together.scores[user, :3]
        )


def test_users_with_equal_scores_are_in_the_order_of_ids() -> None:
    """All users have the same score, and there are more of them than the first search proposes."""
    log = random_log(users=300, events=2000, seed=1)
    m = NextTargetPredictionUserIDs(300, 1, embedding_dim=8, hidden_dim=8)
    with torch.no_grad():
        for p in m.parameters():
            p.zero_()
    r = TwoTowerRetriever(
        m,
        FeatureView.of(log),
        TwoTowerModelSettings(embedding_dim=8, recent_neighbors=0, freshness=False, pointer=False),
    )
    result, _, _ = search_lists(r, make_request([7], 2000, int(log.timestamp[-1]) + 1), 50)
    seen = np.flatnonzero(log.first_seen <= log.timestamp[-1])
    assert result.ids[0].tolist() == [u for u in seen.tolist() if u != 7][:50]
