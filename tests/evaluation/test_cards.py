"""Cluster cards, counted by hand."""

from __future__ import annotations

import numpy as np

from befriend.evaluation.cards import cards
from tests.conftest import make_log

DAY = 86_400


def test_a_card_says_who_they_are_what_they_do_and_with_whom() -> None:
    log = make_log(
        [
            (0, "m", 1, 0),
            (1, "m", 0, 1),
            (0, "m", 2, 2),
            (3, "m", 4, 3),
            (3, "m", 0, 4),
            (4, "m", 5, 90 * DAY),  # 5 joined within the last 30 days
        ]
    )
    first, second = cards(log, np.array([1, 1, 1, 0, 0, 0]), 3)
    assert (first["cluster"], first["users"], first["share"], first["joined"]) == (0, 3, 0.5, round(1 / 3, 6))
    assert first["within"] == round(2 / 3, 6)  # 3 to 4 and 4 to 5 stay, 3 to 0 leaves
    assert first["central"] == [log.user_ids[4], log.user_ids[3], log.user_ids[5]]  # two contacts inside, one, one
    assert first["neighbours"] == [{"cluster": 1, "share": 1.0}]
    assert second["within"] == 0.75
    assert second["central"][0] == log.user_ids[0]
    assert second["actions"] == [{"action": "m", "share": 1.0, "lift": 1.0}]
