"""Retrieval equals scoring everyone by the model's own formula, all terms, at any moment."""

from __future__ import annotations

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
from befriend.retrieval.serving import Retriever
from befriend.retrieval.stu import StuRetriever
from befriend.retrieval.two_tower import TwoTowerRetriever
from tests.conftest import random_log

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
        r.refresh(visible, horizon)
        user = torch.from_numpy(rng.choice(USERS, 3, replace=False))[[0, 1, 1, 2]]  # one asks for two lists
        full = torch.full_like(user, visible)
        query = r.queries(user, full, torch.full_like(user, horizon), torch.zeros_like(user), 0)
        excluded = [rng.choice(USERS, n, replace=False) for n in (0, 3, 10, 1)]
        indptr = np.cumsum([0, *map(len, excluded)])
        found = r.search(query, user, 12, indptr, np.concatenate(excluded))
        for b in range(4):
            expected = scores_by_hand(r, query.of(slice(b, b + 1)), int(user[b]), visible, horizon)
            expected[int(user[b])] = expected[excluded[b]] = -torch.inf
            best = expected.topk(12)
            kept = best.values > -torch.inf
            assert torch.equal(found.ids[b][kept], best.indices[kept])
            assert torch.allclose(found.scores[b][kept], best.values[kept], atol=1e-4)
            assert (found.ids[b][~kept] == -1).all()
