"""Heuristics on graphs small enough to rank by hand, and against slow definitions on random graphs."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch

from befriend.data.event_log import EventLog
from befriend.features.activity import Activity
from befriend.features.feature_view import FeatureView
from befriend.features.histories import Histories
from befriend.features.snapshot import FeatureSnapshot
from befriend.retrieval.contact_graph import ContactGraph, GraphScores
from befriend.retrieval.heuristics import (
    ATTENTION_DECAY,
    HALF_LIVES,
    GlobalScores,
    Heuristics,
    top_n_indices,
)
from tests.conftest import make_log, random_log


def lists(log: EventLog, *requests: tuple[int, int, list[int]], k: int = 5) -> dict[str, list[list[int]]]:
    """Name of a heuristic -> the list for each request (user, cutoff, excluded users)."""
    feature_view = FeatureView.of(log)
    heuristics = Heuristics(feature_view)
    lists_by_name: dict[str, list[list[int]]] = {}
    for user, cutoff, excluded in requests:
        snapshot = heuristics.state_at(FeatureSnapshot(feature_view, int(log.count_before(cutoff)), cutoff))
        for name, users in snapshot.lists(user, [np.array(excluded, np.int64)], k=k)[0].items():
            lists_by_name.setdefault(name, []).append([u for u in users.tolist() if u >= 0])
    return lists_by_name


#            0 writes 1 twice, 2 once; 1 answers; 3 writes 0; 4 and 2 write to each other
LOG = make_log(
    [
        (0, "m", 1, 1),
        (0, "m", 1, 2),
        (1, "m", 0, 3),
        (0, "m", 2, 4),
        (3, "m", 0, 5),
        (4, "m", 2, 6),
        (2, "m", 4, 7),
        (0, "m", 5, 9),
    ]
)


def test_lists_computed_by_hand() -> None:
    lists_by_name = {name: rows[0] for name, rows in lists(LOG, (0, 8, [])).items()}
    assert lists_by_name["popularity"] == [2, 1, 4, 3]  # 2: twice, 1: twice, but 2 was active last
    assert lists_by_name["last-active"] == [2, 4, 3, 1]
    assert lists_by_name["last-received"] == [4, 2, 1, 3]
    assert lists_by_name["last-active-or-received"] == [2, 4, 3, 1]  # 2 and 4 both at 7: the smaller id
    assert lists_by_name["frequency"] == [1, 2, 4, 3]  # done twice, once, then by last activity
    assert lists_by_name["recency"] == [3, 2, 1, 4]
    assert lists_by_name["recency-then-last-received"] == [3, 2, 1, 4]
    assert lists_by_name["adamic-adar"][0] == 4  # the only one with a common contact, 2


def test_neither_users_without_an_event_nor_the_user_are_listed() -> None:
    for rows in lists(LOG, (0, 8, []), (0, 10, [])).values():
        assert set(rows[0]) == {1, 2, 3, 4}
        assert set(rows[1]) == {1, 2, 3, 4, 5}


def test_excluded_users_are_not_listed_and_the_order_of_the_others_stays() -> None:
    for rows in lists(LOG, (0, 8, []), (0, 8, [2, 3])).values():
        assert rows[1] == [u for u in rows[0] if u not in (2, 3)]


def test_lists_are_cut_at_k() -> None:
    for rows in lists(LOG, (0, 8, [2]), k=2).values():
        assert len(rows[0]) == 2


def test_a_later_event_never_changes_an_earlier_list() -> None:
    log = random_log()
    cut = 500
    other = dataclasses.replace(
        log, actor=np.r_[log.actor[:cut], log.target[cut:]], target=np.r_[log.target[:cut], log.actor[cut:]]
    )
    cutoff = int(log.timestamp[cut])
    requests = [(u, cutoff, [int((u + 1) % 30)]) for u in range(30)]
    assert lists(log, *requests, k=30) == lists(other, *requests, k=30)


def test_a_list_does_not_depend_on_the_lists_made_before_it() -> None:
    log = random_log()
    steps = [(u % 30, int(log.timestamp[300 + 9 * u]), []) for u in range(30)]
    together = lists(log, *steps, k=30)
    for k, step in enumerate(steps):
        alone = lists(log, step, k=30)
        assert {name: rows[k] for name, rows in together.items()} == {name: rows[0] for name, rows in alone.items()}


def test_a_view_is_activity_but_no_contact_and_a_block_is_neither() -> None:
    events = [(0, "m", 1, 1), (2, "m", 1, 2), (3, "view", 0, 3), (1, "block", 2, 4), (0, "m", 3, 5)]
    roles = {"view": "signal", "block": "exclude"}
    lists_by_name = {name: rows[0] for name, rows in lists(make_log(events, roles), (0, 5, [])).items()}
    assert lists_by_name["last-active"] == [3, 2, 1]  # 3 viewed; 1 only blocked
    assert lists_by_name["recency"] == [1, 3, 2]  # only 1 is a contact
    assert lists_by_name["popularity"][0] == 1


def test_the_graph_is_exact_at_every_cutoff() -> None:
    log = random_log(users=25, events=400)
    whole = ContactGraph(log)
    for num_visible in (0, 1, 37, 400, 200):
        graph = whole.state_at(num_visible)
        near: dict[int, set[int]] = {u: set() for u in range(25)}
        for k in range(num_visible):
            near[int(log.actor[k])].add(int(log.target[k]))
            near[int(log.target[k])].add(int(log.actor[k]))
        for user in range(25):
            common, walk = Counter[int](), Counter[int]()
            for w in near[user]:
                walk[w] += 1 / len(near[user]) / 2
                for x in near[w]:
                    common[x] += 1 / np.log(len(near[w])) if len(near[w]) > 1 else 0
                    walk[x] += 1 / len(near[user]) / len(near[w]) / 4
                    for y in near[x]:
                        walk[y] += 1 / len(near[user]) / len(near[w]) / len(near[x]) / 8
            scores = graph.scores(user)
            for scored, expected in zip(scores, (common, walk), strict=True):
                actual = dict(zip(scored[0].tolist(), scored[1].tolist(), strict=True))
                assert actual == pytest.approx({x: s for x, s in expected.items() if s > 0})


def test_decayed_adamic_adar_and_ppr_computed_by_hand() -> None:
    """0 and 3 both know 1 and 2; with 1 they had contact weeks before, with 2 yesterday. 4 knows 1, 5 knows 2."""
    week = 7 * 86_400
    old = [(0, "m", 1, 0), (3, "m", 1, 0), (1, "m", 4, 0)]
    new = [(0, "m", 2, 6 * week), (2, "m", 5, 6 * week)]
    log = make_log([*old, *new])
    lists_by_name = {name: rows[0] for name, rows in lists(log, (0, 6 * week + 1, [1, 2])).items()}
    assert lists_by_name["adamic-adar"][:3] == [5, 3, 4]  # 2 knows fewer than 1
    assert lists_by_name["decayed-adamic-adar-week"][:3] == [5, 3, 4]
    assert lists_by_name["decayed-ppr-week"][:3] == [5, 3, 4]
    two_hop, user = FeatureView.of(log).two_hop, 0
    graph = GraphScores(ContactGraph(log).state_at(len(log.actor)), two_hop, user, len(log.actor), 6 * week + 1)
    old_weight, new_weight = 2.0**-6, 1.0
    total = old_weight + new_weight  # of user 0; 1 has three old contacts, 2 two new ones
    to_1, to_2 = old_weight / total, new_weight / total
    # One step reaches 1 and 2; two steps 3, 4 and 5; three steps lead back to 1 and 2, whom alone 3, 4 and 5 know.
    expected = {1: to_1 / 2 + to_1 * 2 / 3 / 8, 2: to_2 / 2 + to_2 / 2 / 8}
    expected |= {3: to_1 / 3 / 4, 4: to_1 / 3 / 4, 5: to_2 / 2 / 4}
    users, scores = graph.decayed_ppr
    assert dict(zip(users.tolist(), scores.tolist(), strict=True)) == pytest.approx(expected, rel=1e-4)


def test_local_global_puts_those_written_to_first() -> None:
    # User 0 wrote to 2 and 1, and got a message of 3, who is no local contact: by the last message received, then.
    assert lists(LOG, (0, 8, []))["local-global"] == [[2, 1, 4, 3]]


def test_base3_adds_repetition_popularity_and_common_contacts() -> None:
    assert lists(LOG, (0, 8, []))["base3"][0][:2] == [2, 1]  # both written to; 2 got more messages
    assert lists(LOG, (0, 8, [1, 2]))["base3"] == [[4, 3]]  # 4 has a common contact, 3 none


def test_attention_is_the_decayed_sum_of_received_events() -> None:
    log = random_log(days=60)
    feature_view = FeatureView.of(log)
    for num_visible in (5, 300, 90):
        cutoff = int(log.timestamp[num_visible - 1]) + 1
        snapshot = FeatureSnapshot(feature_view, int(log.count_before(cutoff)), cutoff)
        scores = GlobalScores(feature_view.activity, np.arange(log.num_users), snapshot)
        expected, received = np.zeros(log.num_users), np.zeros(log.num_users)
        for k in range(snapshot.num_visible):
            age = cutoff - log.timestamp[k]
            expected[log.target[k]] += sum(h**-ATTENTION_DECAY * 0.5 ** (age / h) for h in HALF_LIVES.values())
            received[log.target[k]] += 1
        assert scores.factor("attention") == pytest.approx(expected, rel=1e-5)
        assert scores.popularity.tolist() == received.tolist()
    one_day, ten_days = (
        sum(h**-ATTENTION_DECAY * 0.5 ** (age / h) for h in HALF_LIVES.values()) for age in (86400, 864000)
    )
    assert one_day / ten_days == pytest.approx(10**ATTENTION_DECAY, rel=0.1)  # decays as a power of age


def test_popularity_is_an_integer_also_for_many_events() -> None:
    log = make_log([(k % 3 + 1, "m", 0, k) for k in range(20_000)])
    activity = Activity.of(log, Histories.of(log))
    snapshot = FeatureSnapshot(FeatureView.of(log), 19_999, 19_999)
    assert GlobalScores(activity, np.arange(4), snapshot).popularity.tolist() == [19_999, 0, 0, 0]


def test_users_who_opted_out_are_on_no_list_and_lists_keep_their_length() -> None:
    log = random_log(users=30, events=600)
    feature_view, cutoff = FeatureView.of(log), int(log.timestamp[-1]) + 1
    opted_out = np.zeros(30, bool)
    opted_out[:20] = True
    snapshot = FeatureSnapshot(feature_view, log.num_events, cutoff, torch.from_numpy(opted_out))
    lists_by_name = Heuristics(feature_view).state_at(snapshot).lists(25, [np.empty(0, np.int64)], k=8)[0]
    for name, users in lists_by_name.items():
        assert (users >= 20).all() and 25 not in users, name


def test_a_user_who_is_not_in_the_log_gets_the_global_lists() -> None:
    assert lists(LOG, (LOG.num_users, 8, []))["popularity"] == [[2, 0, 1, 4, 3]]
    assert lists(LOG, (LOG.num_users, 8, []))["ppr"] == lists(LOG, (LOG.num_users, 8, []))["last-active"]


def test_top_n_indices_breaks_ties_by_rank_also_at_the_cut() -> None:
    scores = np.array([1.0, 2, 1, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0])
    rank = np.array([3, 1, 2, 0, 0, *range(5, 13)])
    assert top_n_indices(scores, rank, 3).tolist() == [4, 1, 3]
    assert top_n_indices(scores[:4], rank[:4], 3).tolist() == [1, 3, 2]
