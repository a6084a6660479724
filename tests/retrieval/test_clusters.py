"""Searching cluster by cluster: the best of what is looked at, and what is looked at."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from befriend.data.activity import PAIR_FEATURES, USER_FEATURES
from befriend.data.log import EventLog
from befriend.data.observed import Observed
from befriend.data.split import split_by_time
from befriend.evaluation.protocol import ask, ranks, requests_and_events
from befriend.evaluation.search_space import SHARES, search_curve
from befriend.models.cluster_settings import SearchSettings
from befriend.models.clusters import UserClusters
from befriend.models.settings import TowerSettings
from befriend.models.two_tower import NextTargetPredictionUserIDs
from befriend.retrieval.clusters import ClusterRetriever, Lists, active_last
from befriend.retrieval.two_tower import TwoTowerRanker, TwoTowerRetriever
from tests.conftest import random_log

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


def search(r: TwoTowerRetriever, log: EventLog, visible: int) -> tuple[torch.Tensor, torch.Tensor, Any]:
    horizon = int(log.timestamp[visible - 1]) + 3600
    r.refresh(visible, horizon)
    user = torch.arange(0, USERS, 3)
    full = torch.full_like(user, visible)
    query = r.queries(user, full, torch.full_like(user, horizon), torch.zeros_like(user), 1)
    hidden = [np.array([(u * 7 + k) % USERS for k in range(u % 4)], np.int64) for u in user.tolist()]
    indptr = np.cumsum([0, *map(len, hidden)])
    found = r.search(query, user, 10, indptr, np.concatenate(hidden))
    return found.ids, found.scores, (query, user, hidden)


@pytest.mark.parametrize("search_settings", [{"share": 1.0, "fresh": 0}, {"share": 0.01, "fresh": USERS}])
def test_looking_at_everybody_is_the_full_search(log: EventLog, search_settings: dict[str, Any]) -> None:
    exact = TwoTowerRetriever(model(), Observed.of(log), TOWER)
    clustered = retriever(log, **search_settings)
    for visible in (150, 500, 90):  # forth and back
        ids, scores, _ = search(exact, log, visible)
        same, alike, _ = search(clustered, log, visible)
        assert torch.equal(ids, same)
        assert torch.allclose(scores, alike, atol=1e-4)


def test_lists_are_the_best_of_whom_a_query_looks_at(log: EventLog) -> None:
    r, exact = retriever(log, share=0.2, fresh=5), TwoTowerRetriever(model(), Observed.of(log), TOWER)
    ids, _, (query, user, hidden) = search(r, log, 400)
    search(exact, log, 400)
    last = active_last(r)
    seen = int((last >= 0).sum())
    fresh = last.topk(5).indices.tolist()
    looks = r.lists.looks(query.vector(), math.ceil(0.2 * seen))
    assert (looks.sum(1) == math.ceil(0.2 * seen)).all()
    for b in range(len(user)):
        own = r.contacts(query.of(slice(b, b + 1)), user[b : b + 1])
        there = {*own.users[own.real].tolist(), *fresh}
        for c in range(r.count):  # of each cluster, those active last come first
            people = [u for u in range(USERS) if last[u] >= 0 and r.of[u] == c and u not in fresh]
            there |= set(sorted(people, key=lambda u: -int(last[u]))[: int(looks[b, c])])
        there -= {int(user[b]), *hidden[b].tolist()}
        score = exact.score(query.of(slice(b, b + 1)), torch.arange(USERS)[None])[0]
        score[own.users[own.real]] += own.score[own.real]
        best = sorted(there, key=lambda u: -float(score[u]))[:10]
        assert [int(u) for u in ids[b] if u >= 0] == best


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
    halves = torch.arange(USERS) % 2
    curve = search_curve(
        r, log, questions, "daily", {"own": lambda _: (r.of, r.count), "halves": lambda _: (halves, 2)}, 4
    )
    full, row, hits = TwoTowerRanker(model(), Observed.of(log), TOWER), 0, []
    for request, events in requests_and_events(log, r.activity.histories, questions, "daily"):
        new = questions.row_is_new[row : row + len(request)]
        row += len(request)
        hits.append(ranks(full.rank(request)["two-tower"], log.target[events])[new] <= 10)
    expected = np.concatenate(hits).mean()
    ends = curve.filter(share=1.0)
    assert ends.height == 4
    assert ends["recall"].to_list() == pytest.approx([expected] * 4, abs=1e-6)
    assert (ends["kept"] == 1).all() and (ends["looked"] == 1).all()
    for (name, _), part in curve.group_by("partition", "beside_fresh"):
        part = part.sort("share")
        assert part["looked"].is_sorted() and (part["looked"] >= pl.Series(SHARES) - 1e-6).all(), name
