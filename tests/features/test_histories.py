"""Histories: their entries, and that no event at or after a cutoff is visible."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from befriend.features.histories import Histories
from tests.conftest import make_log, random_log

LOG = make_log([(0, "ask", 1, 10), (1, "reply", 0, 20), (2, "ask", 0, 20), (0, "ask", 2, 30), (1, "ask", 2, 40)])


def test_a_history_has_own_and_received_events_in_time_order_padded_at_the_beginning() -> None:
    batch = Histories.of(LOG).gather(torch.tensor([0, 2]), torch.tensor([5, 5]), length=5)
    assert batch.mask.tolist() == [[False, True, True, True, True], [False, False, True, True, True]]
    assert batch.other_user[0].tolist() == [0, 1, 1, 2, 2]
    assert batch.received[0].tolist() == [False, False, True, True, False]
    assert batch.timestamp[1].tolist() == [0, 0, 20, 30, 40]
    assert [LOG.actions[a] for a in batch.action[0, 1:]] == ["ask", "reply", "ask", "ask"]


def test_neither_the_event_nor_others_of_the_same_second_are_visible() -> None:
    num_visible = torch.from_numpy(LOG.count_before(LOG.timestamp))
    batch = Histories.of(LOG).gather(torch.from_numpy(LOG.actor).long(), num_visible, length=4)
    timestamp = torch.from_numpy(LOG.timestamp)[:, None]
    assert (batch.timestamp < timestamp)[batch.mask].all()
    assert batch.mask.sum(1).tolist() == [0, 1, 0, 3, 2]  # 2 -> 0 and 1 -> 0 share a second


def test_a_later_event_never_changes_an_earlier_history() -> None:
    log = random_log()
    cut = 400
    changed = dataclasses.replace(
        log, actor=np.r_[log.actor[:cut], log.target[cut:]], target=np.r_[log.target[:cut], log.actor[cut:]]
    )
    users, num_visible = torch.arange(30), torch.full((30,), cut)
    before, after = (Histories.of(version).gather(users, num_visible, 20) for version in (log, changed))
    for field in ("other_user", "action", "received", "timestamp", "mask"):
        assert torch.equal(getattr(before, field), getattr(after, field))


def test_a_short_history_has_the_latest_events() -> None:
    log = random_log()
    histories = Histories.of(log)
    users, num_visible = torch.arange(30), torch.full((30,), log.num_events)
    long, short = histories.gather(users, num_visible, 100), histories.gather(users, num_visible, 3)
    for field in ("other_user", "action", "received", "timestamp", "mask"):
        assert torch.equal(getattr(long, field)[:, -3:], getattr(short, field))


def test_a_user_without_events_has_an_empty_history() -> None:
    log = make_log([(0, "ask", 1, 10)], users=4)
    batch = Histories.of(log).gather(torch.tensor([3]), torch.tensor([1]), length=2)
    assert not batch.mask.any()
    assert batch.other_user.tolist() == [[0, 0]]
