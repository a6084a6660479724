"""A log as a model looks at it: histories to encode, and what is known of users and pairs at any moment."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from befriend.data.activity import Activity
from befriend.data.histories import Histories
from befriend.data.log import EventLog
from befriend.data.texts import TextVectors


@dataclass(frozen=True)
class Observed:
    log: EventLog
    activity: Activity
    encoded: Histories
    """what a history encoder sees: all events of a user, or only those done"""
    texts: TextVectors
    """what users wrote"""
    action_number: Tensor
    """int64[actions of the log], the model's own number of each"""

    @classmethod
    def of(
        cls,
        log: EventLog,
        received_events: bool = True,
        actions: tuple[str, ...] | None = None,
        texts: TextVectors | None = None,
        activity: Activity | None = None,
    ) -> Self:
        """actions: the labels a model knows, by its own numbers; a label it does not know becomes the number behind.

        texts: None for those who know nothing of them; activity: of the same log, which is shared then.
        """
        actions = log.actions if actions is None else actions
        number = torch.tensor([actions.index(a) if a in actions else len(actions) for a in log.actions])
        whole = Histories.of(log)
        whole = replace(whole, action=number[whole.action.long()].to(torch.uint8))
        encoded = whole if received_events else replace(Histories.of(log, received=False), action=whole.action)
        activity = Activity.of(log, whole) if activity is None else replace(activity, histories=whole)
        return cls(log, activity, encoded, texts or TextVectors.none(log.num_users), number)

    def actions(self, action: Tensor) -> Tensor:
        """The model's own numbers of actions of the log, int64[...]; -1, none, stays."""
        return torch.where(action < 0, action, self.action_number[action.clamp(min=0)])

    def known(self, users: Tensor, visible: Tensor, horizon: Tensor) -> Tensor:
        """bool[...]: of whom anything is known at a moment: an event in either role, or a text.

        users: int64[...], any number; visible, horizon: int64[...].
        """
        seen = self.activity.places(users, visible) >= 0
        return seen | self.texts.known(users, horizon) if self.texts.width else seen

    def features(self, users: Tensor, place: Tensor, visible: Tensor, horizon: Tensor) -> Tensor:
        """float32[..., F]: what is known of users at a moment, from their events and, where there are any, their texts.

        place: int64[...], from `Activity.places`; users, visible, horizon: int64[...], broadcast against it.
        """
        told, row = self.told(users, place, visible, horizon)
        return told if row is None else torch.cat([told, self.texts.of(row)], -1)

    def told(self, users: Tensor, place: Tensor, visible: Tensor, horizon: Tensor) -> tuple[Tensor, Tensor | None]:
        """As `features`, with the vectors of texts by their rows, int64[...], -1 for nothing; None without texts."""
        found = self.activity.user_features(place, visible, horizon)
        if not self.texts.width:
            return found, None
        told, row = self.texts.told(users.expand_as(place), horizon.expand_as(place))
        return torch.cat([found, told], -1), row
