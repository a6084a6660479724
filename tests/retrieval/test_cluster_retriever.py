"""Searching cluster by cluster: the best of what is looked at, and what is looked at."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from befriend.analysis.probe_recall import SHARES, search_curve
from befriend.data.event_log import EventLog
from befriend.data.split import split_by_time
from befriend.evaluation.protocol import make_eval_queries, make_requests, target_ranks
from befriend.features.activity import PAIR_FEATURES, USER_FEATURES
from befriend.features.feature_view import FeatureView
from befriend.features.snapshot import FeatureSnapshot
from befriend.features.text_vectors import TextVectors
from befriend.models.model_settings import ClusterSearchSettings, TowerSettings
from befriend.models.two_tower_model import NextTargetPredictionUserIDs
from befriend.models.user_clusters import UserClusters
from befriend.retrieval.cluster_retriever import ClusterRetriever, ClusterView, InvertedLists, last_seen_events
from befriend.retrieval.recommender import Recommender
from befriend.retrieval.requests import RequestBatch
from befriend.retrieval.retriever import ExcludedPairs, ModelView
from befriend.retrieval.two_tower_retriever import TwoTowerRetriever
from tests.conftest import random_log
from tests.retrieval.asking import request, search

USERS = 40
TOWER = TowerSettings(embedding_dim=16, hidden_dim=32, history_length=8, history_candidates=12)


@pytest.fixture(scope="module")
def log() -> EventLog:
    return random_log(users=USERS, events=600, seed=9)


def model() -> NextTargetPredictionUserIDs:
    torch.manual_seed(2)
    m = NextTargetPredictionUserIDs(
        USERS, 1, embedding_dim=16, hidden_dim=32, num_user_features=USER_FEATURES, num_pair_features=PAIR_FEATURES
    ).eval()
    with torch.no_grad():
        for p in m.parameters():
            p.normal_(std=0.3)
    return m


def retriever(log: EventLog, **search: Any) -> ClusterRetriever:
    torch.manual_seed(5)
    clusters = UserClusters(torch.randn(USERS, 16), 6)
    return ClusterRetriever(model(), FeatureView.of(log), TOWER, clusters, ClusterSearchSettings(**search))


def asked(log: EventLog, num_visible: int) -> RequestBatch:
    users = range(0, USERS, 3)
    hidden = [[(u * 7 + k) % USERS for k in range(u % 4)] for u in users]
    return request(users, num_visible, int(log.timestamp[num_visible - 1]) + 3600, regime=1, excluded=hidden)


@pytest.mark.parametrize(
    "search_settings", [{"probe_share": 1.0, "recently_active": 0}, {"probe_share": 0.01, "recently_active": USERS}]
)
def test_looking_at_everybody_is_the_full_search(log: EventLog, search_settings: dict[str, Any]) -> None:
    exact = TwoTowerRetriever(model(), FeatureView.of(log), TOWER)
    clustered = retriever(log, **search_settings)
    for num_visible in (150, 500, 90):  # forth and back
        one, other = (search(r, asked(log, num_visible), 10)[0] for r in (exact, clustered))
        assert torch.equal(one.ids, other.ids) and torch.equal(one.scores, other.scores)


def test_what_is_taken_from_another_moment_changes_nothing(log: EventLog) -> None:
    r = retriever(log, probe_share=0.2, recently_active=5)
    before = None
    for num_visible in (150, 500, 90, 300):
        snapshot = FeatureSnapshot(r.feature_view, num_visible, int(log.timestamp[num_visible - 1]) + 3600)
        anew, before = r.view_at(snapshot), r.view_at(snapshot, before)
        assert torch.equal(anew.cluster_of_user, before.cluster_of_user) and torch.equal(anew.vectors, before.vectors)


def test_lists_are_the_best_of_whom_a_query_looks_at(log: EventLog) -> None:
    r, exact = (
        retriever(log, probe_share=0.2, recently_active=5),
        TwoTowerRetriever(model(), FeatureView.of(log), TOWER),
    )
    ids, query, view = search(r, asked(log, 400), 10)
    plain = search(exact, asked(log, 400), 10)[2]
    assert isinstance(view, ClusterView)
    user = torch.from_numpy(asked(log, 400).user)
    last = torch.full((USERS,), -1)
    last[view.snapshot.eligible_users] = last_seen_events(r, view.snapshot)
    seen = int((last >= 0).sum())
    fresh = last.topk(5).indices.tolist()
    looks = view.lists.probe_budget(query.vector().float(), math.ceil(0.2 * seen))
    assert (looks.sum(1) == math.ceil(0.2 * seen)).all()
    for b in range(len(user)):
        own = r.contacts(view, query.select(slice(b, b + 1)), user[b : b + 1])
        there = {*own.users[own.real].tolist(), *fresh}
        for c in range(r.count):  # of each cluster, those active last come first
            people = [u for u in range(USERS) if last[u] >= 0 and view.cluster_of_user[u] == c and u not in fresh]
            there |= set(sorted(people, key=lambda u: -int(last[u]))[: int(looks[b, c])])
        there -= {int(user[b]), *asked(log, 400).excluded(b).tolist()}
        score = exact.score(plain, query.select(slice(b, b + 1)), torch.arange(USERS)[None])[0]
        score[own.users[own.real]] += own.score[own.real]
        best = sorted(there, key=lambda u: -float(score[u]))[:10]
        assert [int(u) for u in ids.ids[b] if u >= 0] == best


def test_lists_that_score_best_on_average_are_looked_at_first() -> None:
    vectors = torch.tensor([[3.0], [2.0], [6.0], [4.0], [1.0]])
    lists = InvertedLists.of(torch.tensor([0, 0, 1, 1, -1]), 3, vectors, torch.tensor([1, 9, 3, 2, 8]))
    assert lists.users.tolist() == [1, 0, 2, 3]  # list by list, active last first; the last user is on none
    assert lists.centroids.flatten().tolist() == [2.5, 5.0, 0.0]
    assert lists.probe_budget(torch.tensor([[1.0], [-1.0]]), 3).tolist() == [[1, 2, 0], [2, 1, 0]]
    nobody = torch.zeros(0, dtype=torch.long)
    found = lists.search(torch.tensor([[1.0]]), torch.tensor([[1, 2, 0]]), 4, nobody, nobody)
    assert found.ids.tolist() == [[2, 3, 1, -1]]
    found = lists.search(
        torch.tensor([[1.0]]), torch.tensor([[2, 2, 0]]), 4, torch.tensor([0, 0]), torch.tensor([2, 4])
    )
    assert found.ids.tolist() == [[3, 0, 1, -1]]


def test_the_curve_ends_at_the_recall_of_the_full_search(log: EventLog) -> None:
    split = split_by_time(log.timestamp, 0.6, 0.8)
    r = retriever(log)
    queries = make_eval_queries(log, split, "validation", 100, "daily")

    def own(view: ModelView) -> tuple[torch.Tensor, int]:
        assert isinstance(view, ClusterView)
        return view.cluster_of_user[view.snapshot.eligible_users], r.count

    parts = {"own": own, "halves": lambda view: (view.snapshot.eligible_users % 2, 2)}
    curve = search_curve(r, log, queries, "daily", parts, 4)
    full, row, hits = Recommender([TwoTowerRetriever(model(), FeatureView.of(log), TOWER)]), 0, []
    for some, events, _ in make_requests(log, r.activity.histories, {"daily": queries}):
        new = queries.row_excludes_contacts[row : row + len(some)]
        row += len(some)
        made = full.rank(some, ("two-tower",)).top("two-tower").ids
        hits.append(target_ranks(made, log.target[events])[new] <= 10)
    expected = np.concatenate(hits).mean()
    ends = curve.filter(share=1.0)
    assert ends.height == 4
    assert ends["recall"].to_list() == pytest.approx([expected] * 4, abs=1e-6)
    assert (ends["relative_recall"] == 1).all() and (ends["searched"] == 1).all()
    for (name, _), part in curve.group_by("partition", "with_recent"):
        part = part.sort("share")
        assert part["searched"].is_sorted() and (part["searched"] >= pl.Series(SHARES) - 1e-6).all(), name


def test_rules_leave_whom_they_allow_to_clusters_too(log: EventLog) -> None:
    """Among few people who may be listed, all of them are looked at by their clusters and the freshest."""
    r, exact = (
        retriever(log, probe_share=1.0, recently_active=3),
        TwoTowerRetriever(model(), FeatureView.of(log), TOWER),
    )
    some = asked(log, 400)
    user, allowed = torch.from_numpy(some.user), torch.arange(USERS) % 5 == 0
    found = []
    for one in (r, exact):
        view = one.view_at(FeatureSnapshot(one.feature_view, int(some.num_visible[0]), int(some.cutoff[0])))
        found.append(one.search(view, one.queries(some), user, 10, ExcludedPairs.of(some), allowed).ids)
    assert torch.equal(*found) and (found[0][found[0] >= 0] % 5 == 0).all()


def test_who_wrote_something_and_has_no_event_has_a_cluster_and_is_found(log: EventLog) -> None:
    silent = int(np.flatnonzero(log.first_seen > log.timestamp[-1])[0])
    row = torch.tensor([0])
    texts = replace(TextVectors.none(USERS), user=torch.tensor([silent]), second=row, row=row, vectors=torch.ones(1, 2))
    feature_view = FeatureView.of(log, texts=texts)
    torch.manual_seed(5)
    m = NextTargetPredictionUserIDs(USERS, 1, embedding_dim=16, hidden_dim=32).eval()
    clusters, tower = (
        UserClusters(torch.randn(USERS, 16), 6),
        TowerSettings(embedding_dim=16, recent_neighbors=0, freshness=False),
    )
    tower = tower.model_copy(update={"pointer": False})
    r = ClusterRetriever(m, feature_view, tower, clusters, ClusterSearchSettings(probe_share=1.0, recently_active=5))
    found, _, view = search(r, asked(log, 600), USERS)
    assert isinstance(view, ClusterView) and view.cluster_of_user[silent] >= 0
    others = asked(log, 600).user != silent
    assert (found.ids == silent).any(1)[others].all()
