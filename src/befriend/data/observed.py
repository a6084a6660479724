"""A log as a model looks at it: histories to encode, and what is known of users and pairs at any moment."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch

from befriend.data.activity import Activity
from befriend.data.histories import Histories
from befriend.data.log import EventLog


@dataclass(frozen=True)
class Observed:
    log: EventLog
    activity: Activity
    encoded: Histories
    """what a history encoder sees: all events of a user, or only those done"""

    @classmethod
    def of(cls, log: EventLog, received_events: bool = True, actions: tuple[str, ...] | None = None) -> Self:
        """actions: the labels a model knows, by its own numbers; a label it does not know becomes the number behind."""
        actions = log.actions if actions is None else actions
        number = torch.tensor([actions.index(a) if a in actions else len(actions) for a in log.actions])
        whole = Histories.of(log)
        whole = replace(whole, action=number[whole.action.long()].to(torch.uint8))
        encoded = whole if received_events else replace(Histories.of(log, received=False), action=whole.action)
        return cls(log, Activity.of(log, whole), encoded)
