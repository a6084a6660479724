"""A log as a model reads it: histories to encode, and features of users and pairs at any cutoff."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from befriend.data.event_log import EventLog
from befriend.features.activity import Activity
from befriend.features.histories import Histories
from befriend.features.text_vectors import TextVectors


@dataclass(frozen=True)
class FeatureView:
    """A log, its histories, activity and texts, with the model's ids of actions."""

    log: EventLog
    activity: Activity
    encoder_histories: Histories
    """what a history encoder reads: all events of a user, or only those the user did"""
    texts: TextVectors
    """what users wrote"""
    model_action_id: Tensor
    """int64[actions of the log], the model's id of each"""

    @classmethod
    def of(
        cls,
        log: EventLog,
        received_events: bool = True,
        actions: tuple[str, ...] | None = None,
        texts: TextVectors | None = None,
        activity: Activity | None = None,
    ) -> Self:
        """received_events: whether the encoder's histories hold received events, too; actions: the labels that a model
        knows, in the order of its ids, by default those of the log; all labels that it does not know get the next id
        after its last; texts: None for a model without texts; activity: of the same log, to be shared.
        """
        actions = log.actions if actions is None else actions
        model_action_id = torch.tensor([actions.index(a) if a in actions else len(actions) for a in log.actions])
        full_histories = Histories.of(log)
        full_histories = replace(full_histories, action=model_action_id[full_histories.action.long()].to(torch.uint8))
        encoder_histories = (
            full_histories
            if received_events
            else replace(Histories.of(log, received=False), action=full_histories.action)
        )
        activity = Activity.of(log, full_histories) if activity is None else replace(activity, histories=full_histories)
        return cls(log, activity, encoder_histories, texts or TextVectors.none(log.num_users), model_action_id)

    def actions(self, action: Tensor) -> Tensor:
        """int64[...]: the model's ids of the log's actions, int64[...]; -1, no action, stays -1."""
        return torch.where(action < 0, action, self.model_action_id[action.clamp(min=0)])

    def has_event_or_text(self, users: Tensor, num_visible: Tensor, cutoff: Tensor) -> Tensor:
        """bool[...]: which users have a visible event, in either role, or a text before the cutoff.

        users, num_visible, cutoff: int64[...].
        """
        has_event = self.activity.last_entries(users, num_visible) >= 0
        return has_event | self.texts.has_text(users, cutoff) if self.texts.width else has_event

    def features(self, users: Tensor, entry: Tensor, num_visible: Tensor, cutoff: Tensor) -> Tensor:
        """float32[..., D]: features of users at a cutoff, from their events and, if the log has any, their texts.

        entry: int64[...], from `Activity.last_entries`; users, num_visible, cutoff: int64[...], broadcast against it.
        """
        features, text_row = self.features_and_text_rows(users, entry, num_visible, cutoff)
        return features if text_row is None else torch.cat([features, self.texts.vectors_of(text_row)], -1)

    def features_and_text_rows(
        self, users: Tensor, entry: Tensor, num_visible: Tensor, cutoff: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """As `features`, but without the text vectors: their rows instead, int64[...], -1 for a user without a text.

        The rows are None if the log has no texts.
        """
        features = self.activity.user_features(entry, num_visible, cutoff)
        if not self.texts.width:
            return features, None
        statistics, text_row = self.texts.statistics_and_rows(users.expand_as(entry), cutoff.expand_as(entry))
        return torch.cat([features, statistics], -1), text_row
