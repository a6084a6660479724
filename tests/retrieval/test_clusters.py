"""Searching cluster by cluster: the best of what is looked at, and what is looked at."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from befriend.data.activity import PAIR_FEATURES, USER_FEATURES
from befriend.data.log import EventLog
from befriend.data.observed import Observed
from befriend.data.split import split_by_time
from befriend.data.texts import TextVectors
from befriend.evaluation.protocol import ask, ranks, requests
from befriend.evaluation.search_space import SHARES, search_curve
from befriend.models.cluster_settings import SearchSettings
from befriend.models.clusters import UserClusters
from befriend.models.settings import TowerSettings
from befriend.models.two_tower import NextTargetPredictionUserIDs
from befriend.retrieval.clusters import ClusterRetriever, ClusterView, Lists, active_last
from befriend.retrieval.moment import Moment
from befriend.retrieval.recommender import Recommender
from befriend.retrieval.requests import Request
from befriend.retrieval.retriever import Pairs, View
from befriend.retrieval.two_tower import TwoTowerRetriever
from tests.conftest import random_log
from tests.retrieval.asking import request, search

USERS = 40
TOWER = TowerSettings(embedding_dim=16, hidden_dim=32, history_length=8, own_contacts=12)


@pytest.fixture(scope="module")
def log() -> EventLog:
    return random_log(users=USERS, events=600, seed=9)


def model() -> NextTargetPredictionUserIDs:
    torch.manual_seed(2)
    m = NextTargetPredictionUserIDs(
        USERS, 1, embedding_dim=16, hidden_dim=32, user_features=USER_FEATURES, pair_features=PAIR_FEATURES
    ).eval()
    with torch.no_grad():
        for p in m.parameters():
            p.normal_(std=0.3)
    return m


def retriever(log: EventLog, **search: Any) -> ClusterRetriever:
    torch.manual_seed(5)
    clusters = UserClusters(torch.randn(USERS, 16), 6)
    return ClusterRetriever(model(), Observed.of(log), TOWER, clusters, SearchSettings(**search))


def asked(log: EventLog, visible: int) -> Request:
    users = range(0, USERS, 3)
    hidden = [[(u * 7 + k) % USERS for k in range(u % 4)] for u in users]
    return request(users, visible, int(log.timestamp[visible - 1]) + 3600, regime=1, excluded=hidden)


@pytest.mark.parametrize("search_settings", [{"share": 1.0, "fresh": 0}, {"share": 0.01, "fresh": USERS}])
def test_looking_at_everybody_is_the_full_search(log: EventLog, search_settings: dict[str, Any]) -> None:
    exact = TwoTowerRetriever(model(), Observed.of(log), TOWER)
    clustered = retriever(log, **search_settings)
    for visible in (150, 500, 90):  # forth and back
        one, other = (search(r, asked(log, visible), 10)[0] for r in (exact, clustered))
        assert torch.equal(one.ids, other.ids) and torch.equal(one.scores, other.scores)


def test_what_is_taken_from_another_moment_changes_nothing(log: EventLog) -> None:
    r = retriever(log, share=0.2, fresh=5)
    before = None
    for visible in (150, 500, 90, 300):
        moment = Moment(r.observed, visible, int(log.timestamp[visible - 1]) + 3600)
        anew, before = r.at(moment), r.at(moment, before)
        assert torch.equal(anew.of, before.of) and torch.equal(anew.vectors, before.vectors)


def test_lists_are_the_best_of_whom_a_query_looks_at(log: EventLog) -> None:
    r, exact = retriever(log, share=0.2, fresh=5), TwoTowerRetriever(model(), Observed.of(log), TOWER)
    ids, query, view = search(r, asked(log, 400), 10)
    plain = search(exact, asked(log, 400), 10)[2]
    assert isinstance(view, ClusterView)
    user = torch.from_numpy(asked(log, 400).user)
    last = torch.full((USERS,), -1)
    last[view.moment.ids] = active_last(r, view.moment)
    seen = int((last >= 0).sum())
    fresh = last.topk(5).indices.tolist()
    looks = view.lists.looks(query.vector().float(), math.ceil(0.2 * seen))
    assert (looks.sum(1) == math.ceil(0.2 * seen)).all()
    for b in range(len(user)):
        own = r.contacts(view, query.of(slice(b, b + 1)), user[b : b + 1])
        there = {*own.users[own.real].tolist(), *fresh}
        for c in range(r.count):  # of each cluster, those active last come first
            people = [u for u in range(USERS) if last[u] >= 0 and view.of[u] == c and u not in fresh]
            there |= set(sorted(people, key=lambda u: -int(last[u]))[: int(looks[b, c])])
        there -= {int(user[b]), *asked(log, 400).excluded(b).tolist()}
        score = exact.score(plain, query.of(slice(b, b + 1)), torch.arange(USERS)[None])[0]
        score[own.users[own.real]] += own.score[own.real]
        best = sorted(there, key=lambda u: -float(score[u]))[:10]
        assert [int(u) for u in ids.ids[b] if u >= 0] == best


def test_lists_that_score_best_on_average_are_looked_at_first() -> None:
    vectors = torch.tensor([[3.0], [2.0], [6.0], [4.0], [1.0]])
    lists = Lists.of(torch.tensor([0, 0, 1, 1, -1]), 3, vectors, torch.tensor([1, 9, 3, 2, 8]))
    assert lists.users.tolist() == [1, 0, 2, 3]  # list by list, active last first; the last user is on none
    assert lists.means.flatten().tolist() == [2.5, 5.0, 0.0]
    assert lists.looks(torch.tensor([[1.0], [-1.0]]), 3).tolist() == [[1, 2, 0], [2, 1, 0]]
    nobody = torch.zeros(0, dtype=torch.long)
    found = lists.best(torch.tensor([[1.0]]), torch.tensor([[1, 2, 0]]), 4, nobody, nobody)
    assert found.ids.tolist() == [[2, 3, 1, -1]]
    found = lists.best(torch.tensor([[1.0]]), torch.tensor([[2, 2, 0]]), 4, torch.tensor([0, 0]), torch.tensor([2, 4]))
    assert found.ids.tolist() == [[3, 0, 1, -1]]


def test_the_curve_ends_at_the_recall_of_the_full_search(log: EventLog) -> None:
    split = split_by_time(log.timestamp, 0.6, 0.8)
    r = retriever(log)
    questions = ask(log, split, "validation", 100, "daily")

    def own(view: View) -> tuple[torch.Tensor, int]:
        assert isinstance(view, ClusterView)
        return view.of[view.moment.ids], r.count

    parts = {"own": own, "halves": lambda view: (view.moment.ids % 2, 2)}
    curve = search_curve(r, log, questions, "daily", parts, 4)
    full, row, hits = Recommender([TwoTowerRetriever(model(), Observed.of(log), TOWER)]), 0, []
    for some, events, _ in requests(log, r.activity.histories, {"daily": questions}):
        new = questions.row_is_new[row : row + len(some)]
        row += len(some)
        made = full.rank(some, ("two-tower",)).head("two-tower").ids
        hits.append(ranks(made, log.target[events])[new] <= 10)
    expected = np.concatenate(hits).mean()
    ends = curve.filter(share=1.0)
    assert ends.height == 4
    assert ends["recall"].to_list() == pytest.approx([expected] * 4, abs=1e-6)
    assert (ends["kept"] == 1).all() and (ends["looked"] == 1).all()
    for (name, _), part in curve.group_by("partition", "beside_fresh"):
        part = part.sort("share")
        assert part["looked"].is_sorted() and (part["looked"] >= pl.Series(SHARES) - 1e-6).all(), name


def test_rules_leave_whom_they_allow_to_clusters_too(log: EventLog) -> None:
    """Among few people who may be listed, all of them are looked at by their clusters and the freshest."""
    r, exact = (retriever(log, share=1.0, fresh=3), TwoTowerRetriever(model(), Observed.of(log), TOWER))
    some = asked(log, 400)
    user, allowed = torch.from_numpy(some.user), torch.arange(USERS) % 5 == 0
    found = []
    for one in (r, exact):
        view = one.at(Moment(one.observed, int(some.visible[0]), int(some.horizon[0])))
        found.append(one.search(view, one.queries(some), user, 10, Pairs.of(some), allowed).ids)
    assert torch.equal(*found) and (found[0][found[0] >= 0] % 5 == 0).all()


def test_who_wrote_something_and_has_no_event_has_a_cluster_and_is_found(log: EventLog) -> None:
    silent = int(np.flatnonzero(log.first_seen > log.timestamp[-1])[0])
    row = torch.tensor([0])
    texts = replace(TextVectors.none(USERS), user=torch.tensor([silent]), second=row, row=row, vectors=torch.ones(1, 2))
    observed = Observed.of(log, texts=texts)
    torch.manual_seed(5)
    m = NextTargetPredictionUserIDs(USERS, 1, embedding_dim=16, hidden_dim=32).eval()
    clusters, tower = (
        UserClusters(torch.randn(USERS, 16), 6),
        TowerSettings(embedding_dim=16, partners=0, freshness=False),
    )
    tower = tower.model_copy(update={"pointer": False})
    r = ClusterRetriever(m, observed, tower, clusters, SearchSettings(share=1.0, fresh=5))
    found, _, view = search(r, asked(log, 600), USERS)
    assert isinstance(view, ClusterView) and view.of[silent] >= 0
    others = asked(log, 600).user != silent
    assert (found.ids == silent).any(1)[others].all()
