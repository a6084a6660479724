"""Cluster search: which users a query scores, and that it returns the best of them."""

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
from befriend.features.activity import NUM_PAIR_FEATURES, NUM_USER_FEATURES
from befriend.features.feature_view import FeatureView
from befriend.features.snapshot import FeatureSnapshot
from befriend.features.text_vectors import TextVectors
from befriend.models.model_settings import ClusterSearchSettings, TwoTowerModelSettings
from befriend.models.two_tower_model import NextTargetPredictionUserIDs
from befriend.models.user_clusters import UserClusters
from befriend.retrieval.cluster_retriever import ClusterRetriever, ClusterView, InvertedLists, last_events
from befriend.retrieval.recommender import Recommender
from befriend.retrieval.requests import RequestBatch
from befriend.retrieval.retriever import ExcludedPairs, ModelView
from befriend.retrieval.two_tower_retriever import TwoTowerRetriever
from tests.conftest import random_log
from tests.retrieval.request_helpers import make_request, search_lists

USERS = 40
TOWER = TwoTowerModelSettings(embedding_dim=16, hidden_dim=32, history_length=8, history_candidates=12)


@pytest.fixture(scope="module")
def log() -> EventLog:
    return random_log(users=USERS, events=600, seed=9)


def model() -> NextTargetPredictionUserIDs:
    torch.manual_seed(2)
    m = NextTargetPredictionUserIDs(
        USERS,
        1,
        embedding_dim=16,
        hidden_dim=32,
        num_user_features=NUM_USER_FEATURES,
        num_pair_features=NUM_PAIR_FEATURES,
    ).eval()
    with torch.no_grad():
        for p in m.parameters():
            p.normal_(std=0.3)
    return m


def retriever(log: EventLog, **search: Any) -> ClusterRetriever:
    torch.manual_seed(5)
    clusters = UserClusters(torch.randn(USERS, 16), 6)
    return ClusterRetriever(model(), FeatureView.of(log), TOWER, clusters, ClusterSearchSettings(**search))


def make_requests_at(log: EventLog, num_visible: int) -> RequestBatch:
    users = range(0, USERS, 3)
    hidden = [[(u * 7 + k) % USERS for k in range(u % 4)] for u in users]
    return make_request(users, num_visible, int(log.timestamp[num_visible - 1]) + 3600, regime=1, excluded=hidden)


@pytest.mark.parametrize(
    "search_settings", [{"probe_share": 1.0, "recently_active": 0}, {"probe_share": 0.01, "recently_active": USERS}]
)
def test_a_search_over_all_users_equals_the_exact_search(log: EventLog, search_settings: dict[str, Any]) -> None:
    exact = TwoTowerRetriever(model(), FeatureView.of(log), TOWER)
    clustered = retriever(log, **search_settings)
    for num_visible in (150, 500, 90):  # cutoffs forth and back in time
        expected, actual = (search_lists(r, make_requests_at(log, num_visible), 10)[0] for r in (exact, clustered))
        assert torch.equal(actual.ids, expected.ids) and torch.equal(actual.scores, expected.scores)


def test_a_view_does_not_depend_on_the_previous_view(log: EventLog) -> None:
    r = retriever(log, probe_share=0.2, recently_active=5)
    previous = None
    for num_visible in (150, 500, 90, 300):
        snapshot = FeatureSnapshot(r.feature_view, num_visible, int(log.timestamp[num_visible - 1]) + 3600)
        without_previous, previous = r.view_at(snapshot), r.view_at(snapshot, previous)
        assert torch.equal(without_previous.cluster_of_user, previous.cluster_of_user) and torch.equal(
            without_previous.vectors, previous.vectors
        )


def test_lists_are_the_best_of_the_users_that_a_query_scores(log: EventLog) -> None:
    r, exact = (
        retriever(log, probe_share=0.2, recently_active=5),
        TwoTowerRetriever(model(), FeatureView.of(log), TOWER),
    )
    ids, query, view = search_lists(r, make_requests_at(log, 400), 10)
    exact_view = search_lists(exact, make_requests_at(log, 400), 10)[2]
    assert isinstance(view, ClusterView)
    user = torch.from_numpy(make_requests_at(log, 400).user)
    last = torch.full((USERS,), -1)
    last[view.snapshot.eligible_users] = last_events(r, view.snapshot)
    num_with_event = int((last >= 0).sum())
    most_recent = last.topk(5).indices.tolist()
    budget = view.lists.probe_budget(query.vector().float(), math.ceil(0.2 * num_with_event))
    assert (budget.sum(1) == math.ceil(0.2 * num_with_event)).all()
    for b in range(len(user)):
        own = r.pair_candidates(view, query.select(slice(b, b + 1)), user[b : b + 1])
        scored = {*own.users[own.mask].tolist(), *most_recent}
        for c in range(r.num_clusters):  # a query scores the most recently active users of each cluster first
            users_of_cluster = [
                u for u in range(USERS) if last[u] >= 0 and view.cluster_of_user[u] == c and u not in most_recent
            ]
            scored |= set(sorted(users_of_cluster, key=lambda u: -int(last[u]))[: int(budget[b, c])])
        scored -= {int(user[b]), *make_requests_at(log, 400).excluded(b).tolist()}
        score = exact.exact_scores(exact_view, query.select(slice(b, b + 1)), torch.arange(USERS)[None])[0]
        score[own.users[own.mask]] += own.scores[own.mask]
        best = sorted(scored, key=lambda u: -float(score[u]))[:10]
        assert [int(u) for u in ids.ids[b] if u >= 0] == best


def test_the_budget_goes_to_the_lists_with_the_best_centroids_first() -> None:
    vectors = torch.tensor([[3.0], [2.0], [6.0], [4.0], [1.0]])
    lists = InvertedLists.of(torch.tensor([0, 0, 1, 1, -1]), 3, vectors, torch.tensor([1, 9, 3, 2, 8]))
    assert lists.users.tolist() == [1, 0, 2, 3]  # list by list, most recently active first; the last user is on no list
    assert lists.centroids.flatten().tolist() == [2.5, 5.0, 0.0]
    assert lists.probe_budget(torch.tensor([[1.0], [-1.0]]), 3).tolist() == [[1, 2, 0], [2, 1, 0]]
    no_users = torch.zeros(0, dtype=torch.long)
    result = lists.search(torch.tensor([[1.0]]), torch.tensor([[1, 2, 0]]), 4, no_users, no_users)
    assert result.ids.tolist() == [[2, 3, 1, -1]]
    result = lists.search(
        torch.tensor([[1.0]]), torch.tensor([[2, 2, 0]]), 4, torch.tensor([0, 0]), torch.tensor([2, 4])
    )
    assert result.ids.tolist() == [[3, 0, 1, -1]]


def test_the_curve_ends_at_the_recall_of_the_full_search(log: EventLog) -> None:
    split = split_by_time(log.timestamp, 0.6, 0.8)
    r = retriever(log)
    queries = make_eval_queries(log, split, "validation", 100, "daily")

    def own(view: ModelView) -> tuple[torch.Tensor, int]:
        assert isinstance(view, ClusterView)
        return view.cluster_of_user[view.snapshot.eligible_users], r.num_clusters

    parts = {"own": own, "parity of id": lambda view: (view.snapshot.eligible_users % 2, 2)}
    curve = search_curve(r, log, queries, "daily", parts, 4)
    exact, row, hits = Recommender([TwoTowerRetriever(model(), FeatureView.of(log), TOWER)]), 0, []
    for request, events, _ in make_requests(log, r.activity.histories, {"daily": queries}):
        new = queries.row_excludes_contacts[row : row + len(request)]
        row += len(request)
        ids = exact.rank(request, ("two-tower",)).top("two-tower").ids
        hits.append(target_ranks(ids, log.target[events])[new] <= 10)
    expected = np.concatenate(hits).mean()
    full_search = curve.filter(share=1.0)
    assert full_search.height == 4
    assert full_search["recall"].to_list() == pytest.approx([expected] * 4, abs=1e-6)
    assert (full_search["relative_recall"] == 1).all() and (full_search["searched"] == 1).all()
    for (name, _), part in curve.group_by("partition", "with_recent"):
        part = part.sort("share")
        assert part["searched"].is_sorted() and (part["searched"] >= pl.Series(SHARES) - 1e-6).all(), name


def test_the_budget_covers_the_allowed_users_alone(log: EventLog) -> None:
    """With a full budget, all allowed users are scored, by their clusters or as recently active users."""
    r, exact = (
        retriever(log, probe_share=1.0, recently_active=3),
        TwoTowerRetriever(model(), FeatureView.of(log), TOWER),
    )
    request = make_requests_at(log, 400)
    user, allowed = torch.from_numpy(request.user), torch.arange(USERS) % 5 == 0
    results = []
    for searched in (r, exact):
        view = searched.view_at(
            FeatureSnapshot(searched.feature_view, int(request.num_visible[0]), int(request.cutoff[0]))
        )
        results.append(
            searched.search(view, searched.queries(request), user, 10, ExcludedPairs.of(request), allowed).ids
        )
    assert torch.equal(*results) and (results[0][results[0] >= 0] % 5 == 0).all()


def test_a_user_with_a_text_and_no_event_has_a_cluster_and_is_retrieved(log: EventLog) -> None:
    silent = int(np.flatnonzero(log.first_seen > log.timestamp[-1])[0])
    row = torch.tensor([0])
    texts = replace(
        TextVectors.none(USERS), user=torch.tensor([silent]), timestamp=row, row=row, vectors=torch.ones(1, 2)
    )
    feature_view = FeatureView.of(log, texts=texts)
    torch.manual_seed(5)
    m = NextTargetPredictionUserIDs(USERS, 1, embedding_dim=16, hidden_dim=32).eval()
    clusters, tower = (
        UserClusters(torch.randn(USERS, 16), 6),
        TwoTowerModelSettings(embedding_dim=16, recent_neighbors=0, freshness=False),
    )
    tower = tower.model_copy(update={"pointer": False})
    r = ClusterRetriever(m, feature_view, tower, clusters, ClusterSearchSettings(probe_share=1.0, recently_active=5))
    result, _, view = search_lists(r, make_requests_at(log, 600), USERS)
    assert isinstance(view, ClusterView) and view.cluster_of_user[silent] >= 0
    others = make_requests_at(log, 600).user != silent
    assert (result.ids == silent).any(1)[others].all()
