"""A log as one model reads it: histories to encode, point-in-time features and texts, with the model's ids of actions.

A cutoff is the UTC second before which events are visible, and `num_visible` the number of events before it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from befriend.data.event_log import EventLog
from befriend.features.activity import Activity
from befriend.features.histories import Histories
from befriend.features.text_vectors import TextVectors
from befriend.features.two_hop import TwoHop


@dataclass(frozen=True)
class FeatureView:
    """A log, its histories, activity and texts, with the model's ids of actions."""

    log: EventLog
    activity: Activity
    """features of users and pairs at any cutoff, from all events"""
    two_hop: TwoHop
    """users with common contacts at any cutoff"""
    encoder_histories: Histories
    """what the history encoder reads: all events of a user, or only those that the user did"""
    texts: TextVectors
    """text vectors of users, at any cutoff"""
    model_action_id: Tensor
    """int64[actions], by id of an action in the log: the model's id of the same action"""

    @classmethod
    def of(
        cls,
        log: EventLog,
        received_events: bool = True,
        actions: tuple[str, ...] | None = None,
        texts: TextVectors | None = None,
        base: FeatureView | None = None,
    ) -> Self:
        """The view of a log for one model.

        received_events: whether the encoder's histories have received events; actions: labels that the model knows, in
        the order of its ids, None: those of the log. All other labels get one common id, the next after the last.
        texts: None for a model without texts; base: another view of the same log, whose activity is shared, which saves
        time and memory.
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
        if base is None:
            activity = Activity.of(log, full_histories)
            two_hop = TwoHop.of(log, activity)
        else:
            activity, two_hop = replace(base.activity, histories=full_histories), base.two_hop
        texts = texts or TextVectors.none(log.num_users)
        return cls(log, activity, two_hop, encoder_histories, texts, model_action_id)

    def actions(self, action: Tensor) -> Tensor:
        """int64[...]: the model's ids of actions. action: int64[...], ids of the log; -1, no action, stays -1."""
        return torch.where(action < 0, action, self.model_action_id[action.clamp(min=0)])

    def has_event_or_text(self, users: Tensor, num_visible: Tensor, cutoff: Tensor) -> Tensor:
        """bool[...]: which users have a visible event, in either role, or a text before the cutoff.

        users, num_visible, cutoff: int64[...].
        """
        has_event = self.activity.last_entries(users, num_visible) >= 0
        return has_event | self.texts.has_text(users, cutoff) if self.texts.width else has_event

    def features(self, users: Tensor, entry: Tensor, num_visible: Tensor, cutoff: Tensor) -> Tensor:
        """float32[..., features]: features of users at a cutoff, from their events and, if the view has texts, texts.

        Columns: `Activity.user_features`; then, with texts, the statistics and the text vector of `TextVectors`.

        entry: int64[...], from `Activity.last_entries`; users, num_visible, cutoff: int64[...], broadcast against it.
        """
        features, text_row = self.features_and_text_rows(users, entry, num_visible, cutoff)
        return features if text_row is None else torch.cat([features, self.texts.vectors_at(text_row)], -1)

    def features_and_text_rows(
        self, users: Tensor, entry: Tensor, num_visible: Tensor, cutoff: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """As `features`, with rows of `texts.vectors` instead of the text vectors: int64[...], -1 without a text.

        The rows are None if the view has no texts.
        """
        features = self.activity.user_features(entry, num_visible, cutoff)
        if not self.texts.width:
            return features, None
        statistics, text_row = self.texts.statistics_and_rows(users.expand_as(entry), cutoff.expand_as(entry))
        return torch.cat([features, statistics], -1), text_row
