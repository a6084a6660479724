"""What is known of everybody as of a moment, shared by models and rules: who may be found, and who did what lately."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from befriend.data.observed import Observed


class Moment:
    """A log as of a UTC second. Nothing of it changes once it is made."""

    def __init__(self, observed: Observed, visible: int, horizon: int, opted_out: Tensor | None = None):
        """visible: how many events lie before `horizon`; opted_out: bool[N], who must not stand on any list."""
        self.observed, self.visible, self.horizon = observed, visible, horizon
        activity, texts = observed.activity, observed.texts
        everybody = torch.arange(observed.log.num_users)
        self.place = activity.places(everybody, torch.tensor(visible))
        """int64[N], everybody's last visible entry in the histories, -1 without one"""
        self.seen = self.place >= 0
        """bool[N], who has an event"""
        known = self.seen | texts.known(everybody, torch.tensor(horizon)) if texts.width else self.seen
        self.findable = known if opted_out is None else known & ~opted_out
        """bool[N], who may stand on a list: whoever did, received or wrote something, and did not opt out"""
        self.ids = self.findable.nonzero().squeeze(1)
        """int64[F], those who are findable, ascending"""
        self.row = torch.full_like(self.place, -1)
        """int64[N], the place of each user in `ids`, -1 for those who are not among them"""
        self.row[self.ids] = torch.arange(len(self.ids))

    @cached_property
    def activity(self) -> Tensor:
        """float32[F, USER_FEATURES] of `ids`, as of `Activity.user_features`."""
        now = torch.tensor(self.visible), torch.tensor(self.horizon)
        return self.observed.activity.user_features(self.place[self.ids], *now)

    @cached_property
    def texts(self) -> tuple[Tensor, Tensor]:
        """float32[F, STATISTICS] and int64[F] of `ids`, as of `TextVectors.told`."""
        return self.observed.texts.told(self.ids, torch.full_like(self.ids, self.horizon))
