"""Two-hop neighbors: values computed by hand, and dense matrices on random graphs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from befriend.data.event_log import DAY, EventLog
from befriend.features.feature_view import FeatureView
from befriend.features.two_hop import (
    ADAMIC_ADAR,
    COMMON_CONTACTS,
    DECAYED_ADAMIC_ADAR,
    NUM_TWO_HOP_FEATURES,
    RESOURCE_ALLOCATION,
    TWO_HOP_ENTRIES,
    TWO_HOP_HALF_LIVES,
    TwoHop,
    TwoHopNeighbors,
)
from tests.conftest import make_log, random_log

WEEK = TWO_HOP_HALF_LIVES.index(7 * DAY)


def neighbors_of(two_hop: TwoHop, log: EventLog, users: list[int], cutoff: int) -> TwoHopNeighbors:
    num_visible = int(log.count_before(cutoff))
    rows = len(users)
    return two_hop.neighbors(torch.tensor(users), torch.full((rows,), num_visible), torch.full((rows,), cutoff))


def features(log: EventLog, cutoff: int) -> np.ndarray:
    """float32[N, N, NUM_TWO_HOP_FEATURES]: the features of all pairs of users."""
    users = torch.arange(log.num_users)
    neighbors = neighbors_of(FeatureView.of(log).two_hop, log, users.tolist(), cutoff)
    return neighbors.features_of(users[:, None], users).numpy()


def test_features_computed_by_hand() -> None:
    """0 wrote to 1 twice and 1 answered; 1 and 2 wrote to each other; 1 wrote to 3; 4 only looked at 1."""
    log = make_log(
        [
            (0, "hi", 1, 0),
            (0, "hi", 1, 7 * DAY),
            (1, "hi", 0, 7 * DAY),
            (1, "hi", 2, 7 * DAY),
            (2, "hi", 1, 14 * DAY),
            (1, "hi", 3, 14 * DAY),
            (4, "look", 1, 14 * DAY),
        ],
        roles={"look": "signal"},
    )
    pair = features(log, cutoff=14 * DAY + 1)[0]
    # A week later, the first message counts a quarter, those of day 7 count a half each, the last two count in full.
    to_1, to_2, to_3 = 0.25 + 0.5 + 0.5, 0.5 + 1, 1
    total = to_1 + to_2 + to_3
    for user, weight in ((2, to_2), (3, to_3)):
        damped = math.log1p(to_1) * math.log1p(weight) / math.log(2 + total)
        assert pair[user, DECAYED_ADAMIC_ADAR][WEEK] == pytest.approx(damped, rel=1e-4)
    assert pair[2, [COMMON_CONTACTS, ADAMIC_ADAR, RESOURCE_ALLOCATION]] == pytest.approx([1, 1 / math.log(3), 1 / 3])
    assert not pair[[0, 1, 4]].any()  # the user, a contact without a common contact, and no contact of 1


def dense_features(log: EventLog, cutoff: int, half_life: int) -> tuple[np.ndarray, np.ndarray]:
    """float64[N, N] each: decayed Adamic-Adar and numbers of common contacts, by matrices of all contacts."""
    weights = np.zeros((log.num_users, log.num_users))
    visible = log.is_contact & (log.timestamp < cutoff)
    decay = 0.5 ** ((cutoff - log.timestamp[visible]) / half_life)
    for u, v in ((log.actor, log.target), (log.target, log.actor)):
        np.add.at(weights, (u[visible], v[visible]), decay)
    sums = weights.sum(1)
    adamic_adar = np.log1p(weights) @ np.diag(1 / np.log(2 + sums)) @ np.log1p(weights)
    return adamic_adar, (weights > 0).astype(float) @ (weights > 0)


@pytest.mark.parametrize("seed", range(3))
def test_features_equal_products_of_dense_matrices(seed: int) -> None:
    log = random_log(users=30, events=250, seed=seed, days=90)
    for cutoff in (int(log.timestamp[120]), int(log.timestamp[-1]) + 5 * DAY):
        pair = features(log, cutoff)
        for k, half_life in enumerate(TWO_HOP_HALF_LIVES):
            adamic_adar, common = dense_features(log, cutoff, half_life)
            for matrix in (adamic_adar, common):
                np.fill_diagonal(matrix, 0)
            assert pair[..., DECAYED_ADAMIC_ADAR][..., k] == pytest.approx(adamic_adar, rel=1e-3, abs=1e-6)
            assert pair[..., COMMON_CONTACTS] == pytest.approx(common)


def test_no_later_event_and_no_other_row_changes_a_feature() -> None:
    log = random_log(users=40, events=400)
    cut = 250
    cutoff = int(log.timestamp[cut])
    shorter = make_log(
        [
            (int(log.actor[k]), log.actions[log.action[k]], int(log.target[k]), int(log.timestamp[k]))
            for k in range(int(log.count_before(cutoff)))
        ],
        users=log.num_users,
    )
    users = list(range(log.num_users))
    whole = neighbors_of(FeatureView.of(log).two_hop, log, users, cutoff)
    past = neighbors_of(FeatureView.of(shorter).two_hop, shorter, users, cutoff)
    assert torch.equal(whole.key, past.key) and torch.equal(whole.features, past.features)
    alone = neighbors_of(FeatureView.of(log).two_hop, log, [7], cutoff)
    assert torch.equal(alone.features, whole.features[whole.row == 7])


def test_newcomers_have_two_hop_neighbors_from_their_first_event_on() -> None:
    log = make_log([(0, "hi", 1, 10), (2, "hi", 1, 20)])
    assert features(log, 20)[2].sum() == 0
    assert features(log, 21)[2, 0, COMMON_CONTACTS] == 1
    two_hop = FeatureView.of(log).two_hop
    assert not len(neighbors_of(two_hop, log, [log.num_users], 21).key)  # a user who is not in the log


def test_only_the_latest_entries_are_searched() -> None:
    """0 wrote to 1, then often to 2: 3, a contact of 1, is a neighbor as long as 1 is among the latest entries."""
    events = [(3, "hi", 1, 0), (0, "hi", 1, 1), *((0, "hi", 2, 2 + k) for k in range(TWO_HOP_ENTRIES))]
    log = make_log(events)
    last = 1 + TWO_HOP_ENTRIES
    assert features(log, last)[0, 3, COMMON_CONTACTS] == 1
    assert features(log, last + 1)[0, 3, COMMON_CONTACTS] == 0


def test_closest_ranks_by_decayed_adamic_adar_and_leaves_out_pairs() -> None:
    keys = torch.tensor([1, 3, 10 + 2, 10 + 4, 10 + 5, 30 + 1])
    features = torch.zeros(6, NUM_TWO_HOP_FEATURES)
    features[:, DECAYED_ADAMIC_ADAR.start] = torch.tensor([1.0, 2, 5, 7, 5, 3])
    neighbors = TwoHopNeighbors(4, 10, keys, features)
    rows, users = torch.tensor([3, 2]), torch.tensor([1, 7])  # user 7 of row 2 is no neighbor
    assert neighbors.closest(2, rows, users).tolist() == [[3, 1], [4, 2], [-1, -1], [-1, -1]]
