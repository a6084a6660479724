"""Retrieval equals scoring everyone by the model's own formula, all terms, at any moment."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch

from befriend.data.activity import PAIR_FEATURES, USER_FEATURES
from befriend.data.observed import Observed
from befriend.models.batch import Pairs, Query, Targets
from befriend.models.query_tower import QueryTower
from befriend.models.settings import StuTowerSettings, TowerSettings
from befriend.models.stu import NextTargetPredictionSTU
from befriend.models.two_tower import NextTargetPredictionUserIDs
from befriend.retrieval.retriever import Retriever
from befriend.retrieval.stu import StuRetriever
from befriend.retrieval.two_tower import TwoTowerRetriever
from tests.conftest import random_log
from tests.retrieval.asking import request, search

USERS, PARTNERS, OWN = 30, 3, 12
SIZES = {"embedding_dim": 16, "hidden_dim": 32}
TERMS = {"partners": True, "user_features": USER_FEATURES, "pair_features": PAIR_FEATURES, "user_weight": 0.5}
SETTINGS = {"history_length": 8, "partners": PARTNERS, "own_contacts": OWN} | SIZES


def randomised(m: QueryTower) -> None:
    """Random weights, also where training starts from 0."""
    with torch.no_grad():
        for p in m.eval().parameters():
            p.normal_(std=0.3)
    m.users.known[20:] = False


def two_tower(observed: Observed) -> TwoTowerRetriever:
    m = NextTargetPredictionUserIDs(USERS, 1, **SIZES, **TERMS)  # type: ignore[arg-type]
    randomised(m)
    return TwoTowerRetriever(m, observed, TowerSettings(**SETTINGS))  # type: ignore[arg-type]


def stu(observed: Observed, width: int | None) -> StuRetriever:
    stus = torch.cartesian_prod(*[torch.arange(4)] * 3)[torch.randperm(64)[:USERS]]
    m = NextTargetPredictionSTU(1, 3, 4, stus=stus[:20], **SIZES, **TERMS)  # type: ignore[arg-type]
    randomised(m)
    return StuRetriever(m, stus, observed, StuTowerSettings(**SETTINGS), width)  # type: ignore[arg-type]


def scores_by_hand(r: Retriever[QueryTower], query: Query, user: int, visible: int, horizon: int) -> torch.Tensor:
    """float[N]: the model's score of everyone for one user's query, all terms, one by one."""
    a, m = r.activity, r.model
    one, users = torch.tensor([user]), torch.arange(USERS)[None]
    seen, now = torch.tensor([[visible]]), torch.tensor([[horizon]])
    place = a.places(users, seen)
    targets = Targets(users, a.partners(users, place + 1, PARTNERS), a.user_features(place, seen, now))
    if isinstance(m, NextTargetPredictionSTU):  # probabilities are those of the people who are there
        m = copy.deepcopy(m)
        m.with_users(m.tokens.stus, place[0] >= 0)
    pair = a.pair_places(one[:, None], users, seen)
    end = a.histories.ends(one, seen[0])
    pairs = Pairs(pair >= end[:, None] - OWN, a.pair_features(pair, end[:, None], seen, now), a.kinds(pair))
    score = m.score_each(query, targets, pairs, m.users.rows())[0]
    return torch.where(place[0] >= 0, score, -torch.inf)


@pytest.mark.parametrize(
    "make", [two_tower, lambda o: stu(o, None), lambda o: stu(o, USERS)], ids=["two-tower", "stu", "stu-beam"]
)
@torch.no_grad()
def test_lists_are_those_of_the_full_formula_at_any_moment_in_any_order(
    make: Callable[[Observed], Retriever[QueryTower]],
) -> None:
    torch.manual_seed(3)
    log = random_log(users=USERS, events=500, seed=4)
    r = make(Observed.of(log))
    rng = np.random.default_rng(0)
    for visible in (300, 120, 499, 40, 41):  # forth and back
        horizon = int(log.timestamp[visible - 1]) + 3600
        user = rng.choice(USERS, 3, replace=False)[[0, 1, 1, 2]]  # one asks for two lists
        excluded = [rng.choice(USERS, n, replace=False).tolist() for n in (0, 3, 10, 1)]
        found, query, _ = search(r, request(user, visible, horizon, excluded=excluded), 12)
        for b in range(4):
            one = query.of(slice(b, b + 1)).to_dtype(torch.float32)
            expected = scores_by_hand(r, one, int(user[b]), visible, horizon)
            expected[int(user[b])] = expected[excluded[b]] = -torch.inf
            best = expected.topk(12)
            kept = best.values > -torch.inf
            assert torch.equal(found.ids[b][kept], best.indices[kept])
            assert torch.allclose(found.scores[b][kept], best.values[kept], atol=1e-4)
            assert (found.ids[b][~kept] == -1).all()


@pytest.mark.parametrize("make", [two_tower, lambda o: stu(o, None)], ids=["two-tower", "stu"])
def test_a_list_is_the_same_whoever_else_is_asked_for_and_however_many_are_shown(
    make: Callable[[Observed], Retriever[QueryTower]],
) -> None:
    """To the last bit: in one batch with all others, alone, short, long, and among people who may all be listed."""
    torch.manual_seed(3)
    log = random_log(users=USERS, events=500, seed=4)
    r = make(Observed.of(log))
    horizon = int(log.timestamp[399]) + 60
    everybody = list(range(USERS))
    whole, _, _ = search(r, request(everybody, 400, horizon), 20)
    for user in everybody:
        alone, _, _ = search(r, request([user], 400, horizon), 20)
        assert torch.equal(alone.ids[0], whole.ids[user]) and torch.equal(alone.scores[0], whole.scores[user])
        short, _, _ = search(r, request([user, user], 400, horizon), 3)
        assert torch.equal(short.ids[1], whole.ids[user, :3]) and torch.equal(short.scores[1], whole.scores[user, :3])


def test_equal_scores_stand_in_the_order_of_numbers_however_many_there_are() -> None:
    """A model that knows nothing of anybody: all score alike, and more of them than are proposed at first."""
    log = random_log(users=300, events=2000, seed=1)
    m = NextTargetPredictionUserIDs(300, 1, embedding_dim=8, hidden_dim=8)
    with torch.no_grad():
        for p in m.parameters():
            p.zero_()
    r = TwoTowerRetriever(
        m, Observed.of(log), TowerSettings(embedding_dim=8, partners=0, freshness=False, pointer=False)
    )
    found, _, _ = search(r, request([7], 2000, int(log.timestamp[-1]) + 1), 50)
    seen = np.flatnonzero(log.first_seen <= log.timestamp[-1])
    assert found.ids[0].tolist() == [u for u in seen.tolist() if u != 7][:50]
