"""What a history holds, and what it must never show."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from befriend.data.histories import Histories
from tests.conftest import make_log, random_log

LOG = make_log([(0, "ask", 1, 10), (1, "reply", 0, 20), (2, "ask", 0, 20), (0, "ask", 2, 30), (1, "ask", 2, 40)])


def test_a_history_holds_what_was_done_and_received_in_time_order_at_the_end() -> None:
    batch = Histories.of(LOG).gather(torch.tensor([0, 2]), torch.tensor([5, 5]), length=5)
    assert batch.mask.tolist() == [[False, True, True, True, True], [False, False, True, True, True]]
    assert batch.other[0].tolist() == [0, 1, 1, 2, 2]
    assert batch.received[0].tolist() == [False, False, True, True, False]
    assert batch.timestamp[1].tolist() == [0, 0, 20, 30, 40]
    assert [LOG.actions[a] for a in batch.action[0, 1:]] == ["ask", "reply", "ask", "ask"]


def test_an_example_sees_neither_its_own_event_nor_one_of_the_same_second() -> None:
    visible = torch.from_numpy(LOG.before(LOG.timestamp))
    batch = Histories.of(LOG).gather(torch.from_numpy(LOG.actor).long(), visible, length=4)
    own = torch.from_numpy(LOG.timestamp)[:, None]
    assert (batch.timestamp < own)[batch.mask].all()
    assert batch.mask.sum(1).tolist() == [0, 1, 0, 3, 2]  # 2 -> 0 and 1 -> 0 share a second


def test_a_later_event_never_changes_an_earlier_history() -> None:
    log = random_log()
    cut = 400
    changed = dataclasses.replace(
        log, actor=np.r_[log.actor[:cut], log.target[cut:]], target=np.r_[log.target[:cut], log.actor[cut:]]
    )
    users, visible = torch.arange(30), torch.full((30,), cut)
    before, after = (Histories.of(x).gather(users, visible, 20) for x in (log, changed))
    for field in ("other", "action", "received", "timestamp", "mask"):
        assert torch.equal(getattr(before, field), getattr(after, field))


def test_a_short_window_holds_the_latest_events() -> None:
    log = random_log()
    histories = Histories.of(log)
    users, visible = torch.arange(30), torch.full((30,), log.num_events)
    long, short = histories.gather(users, visible, 100), histories.gather(users, visible, 3)
    assert torch.equal(long.other[:, -3:], short.other)


def test_someone_without_events_has_an_empty_history() -> None:
    log = make_log([(0, "ask", 1, 10)], users=4)
    batch = Histories.of(log).gather(torch.tensor([3]), torch.tensor([1]), length=2)
    assert not batch.mask.any()
    assert batch.other.tolist() == [[0, 0]]
