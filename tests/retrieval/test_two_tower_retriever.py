"""Retrieval with the two-tower model: what its lists depend on, and who is on them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from befriend.data.attributes import Attributes
from befriend.data.event_log import EventLog
from befriend.data.regimes import REGIMES, UNKNOWN_ACTION
from befriend.data.split import split_by_time
from befriend.errors import CallError, DataError
from befriend.evaluation.protocol import make_eval_queries, make_requests
from befriend.features.activity import NUM_PAIR_FEATURES, NUM_USER_FEATURES
from befriend.features.feature_view import FeatureView
from befriend.models.model_settings import TwoTowerModelSettings
from befriend.models.two_tower_model import NextTargetPredictionUserIDs
from befriend.recommendation.list_maker import ListMaker
from befriend.recommendation.recommend_options import RecommendOptions
from befriend.recommendation.request_table import requests_table
from befriend.retrieval.recommender import Recommender
from befriend.retrieval.two_tower_retriever import TwoTowerRetriever
from tests.conftest import random_log
from tests.retrieval.request_helpers import make_request, search_lists

TOWER = TwoTowerModelSettings(
    embedding_dim=16, hidden_dim=32, history_length=8, recent_neighbors=3, history_candidates=12
)
USERS = 30


def model(**options: Any) -> NextTargetPredictionUserIDs:
    """Random weights, also where training starts from 0."""
    torch.manual_seed(3)
    known = {"recent_neighbors": True, "num_user_features": NUM_USER_FEATURES, "num_pair_features": NUM_PAIR_FEATURES}
    m = NextTargetPredictionUserIDs(USERS, 1, embedding_dim=16, hidden_dim=32, **known | options).eval()
    with torch.no_grad():
        for p in m.parameters():
            p.normal_(std=0.3)
    m.users.has_embedding[20:] = False
    return m


@pytest.fixture(scope="module")
def log() -> EventLog:
    return random_log(users=USERS, events=500, seed=4)


def test_lists_depend_on_the_pointer_term_and_on_the_cutoff(log: EventLog) -> None:
    feature_view = FeatureView.of(log)

    def lists(m: NextTargetPredictionUserIDs, tower: TwoTowerModelSettings, later: int) -> torch.Tensor:
        cutoff = int(log.timestamp[299]) + later
        return search_lists(TwoTowerRetriever(m, feature_view, tower), make_request(range(10), 300, cutoff), 10)[0].ids

    plain = lists(model(), TOWER, 60)
    assert not torch.equal(plain, lists(model(), TOWER, 86_400 * 30))  # the cutoff is later, the events are the same
    without = model()
    without.pointer = None
    assert not torch.equal(plain, lists(without, TOWER, 60))


def test_lists_satisfy_the_evaluation_protocol_in_every_regime(log: EventLog) -> None:
    split = split_by_time(log.timestamp, 0.8, 0.9)
    feature_view = FeatureView.of(log)
    recommender = Recommender([TwoTowerRetriever(model(), feature_view, TOWER)])
    for regime in REGIMES:
        queries = make_eval_queries(log, split, "test", 40, regime)
        requests = make_requests(log, feature_view.activity.histories, {regime: queries})
        lists = np.concatenate([recommender.rank(x, ("two-tower",)).top("two-tower").ids for x, _, _ in requests])
        assert len(lists) == len(queries.row_event)
        actors = log.actor[queries.events[queries.row_event]]
        for row, users in enumerate(lists):
            real = users[users >= 0]
            assert len(set(real.tolist())) == len(real) > 0
            assert actors[row] not in real
            assert (log.first_seen[real] < queries.cutoff[queries.row_event[row]]).all()
        newcomers = np.flatnonzero(log.first_seen[actors] >= split.t_validation)
        assert (lists[newcomers, 0] >= 0).all()  # users without an embedding get lists too


def recommend(log: EventLog, users: pl.Series, k: int = 10, **fields: Any) -> pl.DataFrame:
    feature_view, n = FeatureView.of(log), log.num_users
    no_attributes = Attributes(np.zeros((n, 0), np.int32), {}, np.zeros((n, 0), np.float32), ())
    recommender = Recommender([TwoTowerRetriever(model(), feature_view, TOWER)])
    options = RecommendOptions("two-tower", k)
    maker = ListMaker(recommender, feature_view, log.first_seen, no_attributes, np.ones((n, 1), np.float32), options)
    return maker.make_lists(requests_table(users, **fields))


def test_lists_leave_out_the_user_and_existing_contacts_on_request(log: EventLog) -> None:
    lists = recommend(log, pl.Series([105, 111]), k=20)
    assert lists.group_by("user").len().sort("user").rows() == [(105, 20), (111, 20)]
    assert not (lists["user"] == lists["recommended"]).any()
    assert lists["contact"].any() and lists["known"].all()
    contacts = {100 + int(other) for a, b in ((log.actor, log.target), (log.target, log.actor)) for other in b[a == 5]}
    assert set(lists.filter(pl.col("contact"), user=105)["recommended"]) <= contacts
    new = recommend(log, pl.Series([105]), k=20, new_only=True)
    assert not new["contact"].any()
    assert not set(new["recommended"]) & contacts


def test_an_unknown_user_gets_the_cold_start_list(log: EventLog) -> None:
    lists = recommend(log, pl.Series([99_999, 105]), k=5)
    assert lists["known"].to_list() == [False] * 5 + [True] * 5
    assert not lists.filter(~pl.col("known"))["contact"].any()


def test_lists_do_not_depend_on_events_after_the_cutoff(log: EventLog) -> None:
    at = datetime.fromtimestamp(int(log.timestamp[60]), UTC)
    lists = recommend(log, pl.Series([100]), at=at, k=USERS)
    known = {100 + u for u in range(USERS) if log.first_seen[u] < log.timestamp[60]} - {100}
    assert set(lists["recommended"]) == known
    assert (lists["last_active"] < at).all()
    with pytest.raises(DataError, match="the log begins on"):
        recommend(log, pl.Series([100]), at=datetime(2000, 1, 1, tzinfo=UTC))
    with pytest.raises(CallError, match="There are: hi"):
        recommend(log, pl.Series([100]), action="wave")


def test_the_query_depends_on_a_known_action(log: EventLog) -> None:
    r = TwoTowerRetriever(model(), FeatureView.of(log), TOWER)
    cutoff = int(log.timestamp[200])
    known, hidden = (r.queries(make_request([3], 200, cutoff, action)).vector() for action in (0, UNKNOWN_ACTION))
    assert not torch.allclose(known, hidden)


def test_an_action_is_required_in_streaming_and_an_error_in_other_regimes(log: EventLog) -> None:
    with pytest.raises(CallError, match="belongs to regime streaming and to no other: regime daily has the action hi"):
        recommend(log, pl.Series([105]), action="hi", regime="daily")
    with pytest.raises(CallError, match="regime streaming has no action"):
        recommend(log, pl.Series([105]), regime="streaming")


def test_a_list_that_is_shown_later_leaves_out_contacts_made_since(log: EventLog) -> None:
    at, later = (datetime.fromtimestamp(int(log.timestamp[k]), UTC) for k in (300, 499))
    at_cutoff = recommend(log, pl.Series([105]), k=USERS, at=at, new_only=True)["recommended"].to_list()
    shown = recommend(log, pl.Series([105]), k=USERS, at=at, filter_at=later, new_only=True)["recommended"].to_list()
    later_contacts = {
        100 + int(o) for a, b in ((log.actor, log.target), (log.target, log.actor)) for o in b[:499][a[:499] == 5]
    }
    assert shown == [user for user in at_cutoff if user not in later_contacts] and len(shown) < len(at_cutoff)


def test_a_user_without_an_event_gets_the_query_of_an_unknown_user(log: EventLog) -> None:
    """The internal id depends on when a user joins, so the query must not depend on it before that time."""
    r = TwoTowerRetriever(model(), FeatureView.of(log), TOWER)
    late = int(np.where(log.first_seen > log.timestamp[-1], 0, log.first_seen).argmax())
    cutoff = int(log.first_seen[late])
    num_visible = int(log.count_before(cutoff))
    before_joining, unknown = (r.queries(make_request([user], num_visible, cutoff)).vector() for user in (late, USERS))
    assert torch.equal(before_joining, unknown)
