"""Summaries of clusters match values counted by hand."""

from __future__ import annotations

import numpy as np

from befriend.analysis.cluster_summary import summarize_clusters
from tests.conftest import make_log

DAY = 86_400


def test_a_summary_has_size_contacts_central_users_neighbours_and_actions() -> None:
    log = make_log(
        [
            (0, "m", 1, 0),
            (1, "m", 0, 1),
            (0, "m", 2, 2),
            (3, "v", 4, 3),
            (3, "m", 0, 4),
            (4, "v", 5, 90 * DAY),  # 5 joined within the last 30 days
        ]
    )
    first, second = summarize_clusters(log, np.array([1, 1, 1, 0, 0, 0]), 3)
    assert (first["cluster"], first["users"], first["share"], first["joined"]) == (0, 3, 0.5, round(1 / 3, 6))
    assert first["within"] == round(2 / 3, 6)  # 3 to 4 and 4 to 5 stay, 3 to 0 leaves
    # With 2, 1 and 1 contacts within the cluster.
    assert first["central"] == [log.user_ids[4], log.user_ids[3], log.user_ids[5]]
    assert first["neighbours"] == [{"cluster": 1, "share": 1.0}]
    assert second["within"] == 0.75
    assert second["central"][0] == log.user_ids[0]
    assert second["neighbours"] == [{"cluster": 0, "share": 1.0}]
    # Of all six events, "m" are four and "v" two.
    assert first["actions"] == [
        {"action": "v", "share": round(2 / 3, 6), "lift": 2.0},
        {"action": "m", "share": round(1 / 3, 6), "lift": 0.5},
    ]
    assert second["actions"] == [{"action": "m", "share": 1.0, "lift": 1.5}]
