"""Feature snapshot: which users are eligible as of one cutoff, and their features. Shared by models and heuristics."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from befriend.features.feature_view import FeatureView


class FeatureSnapshot:
    """Which users are eligible as of a cutoff, that is may be recommended, and their features. Immutable."""

    def __init__(self, feature_view: FeatureView, num_visible: int, cutoff: int, opted_out: Tensor | None = None):
        """num_visible: number of events before the cutoff; cutoff: UTC second; opted_out: bool[N], users who asked not
        to be recommended, None: no one.

        A user is eligible who has an event or a text before the cutoff, and did not opt out.
        """
        self.feature_view, self.num_visible, self.cutoff = feature_view, num_visible, cutoff
        activity, texts = feature_view.activity, feature_view.texts
        users = torch.arange(feature_view.log.num_users)
        self.last_entry = activity.last_entries(users, torch.tensor(num_visible))
        """int64[N], each user's last visible entry in the histories, -1 without one"""
        self.has_events = self.last_entry >= 0
        """bool[N], users with a visible event"""
        has_event_or_text = (
            self.has_events | texts.has_text(users, torch.tensor(cutoff)) if texts.width else self.has_events
        )
        self.eligible = has_event_or_text if opted_out is None else has_event_or_text & ~opted_out
        """bool[N], users who may be recommended"""
        self.eligible_users = self.eligible.nonzero().squeeze(1)
        """int64[E], the ids of the eligible users, ascending"""
        self.row_of_user = torch.full_like(self.last_entry, -1)
        """int64[N], the index of each user in `eligible_users`, -1 for a user who is not eligible"""
        self.row_of_user[self.eligible_users] = torch.arange(len(self.eligible_users))

    @cached_property
    def user_features(self) -> Tensor:
        """float32[E, NUM_USER_FEATURES]: `Activity.user_features` of `eligible_users`."""
        num_visible, cutoff = torch.tensor(self.num_visible), torch.tensor(self.cutoff)
        return self.feature_view.activity.user_features(self.last_entry[self.eligible_users], num_visible, cutoff)

    @cached_property
    def texts(self) -> tuple[Tensor, Tensor]:
        """float32[E, NUM_STATISTICS] and int64[E]: `TextVectors.statistics_and_rows` of `eligible_users`."""
        users = self.eligible_users
        return self.feature_view.texts.statistics_and_rows(users, torch.full_like(users, self.cutoff))
