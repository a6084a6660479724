"""Settings of stage cluster."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from befriend.settings import Settings, Share
from befriend.training.settings import TrainingSettings


class SearchSettings(Settings):
    """How clusters are searched."""

    entries: Annotated[int, Field(ge=1)] = 100
    """latest events of somebody whose other users say where they belong"""
    share: Annotated[float, Field(gt=0, le=1)] = 0.05
    """share of all users that a search looks at, cluster by cluster"""
    fresh: Annotated[int, Field(ge=0)] = 500
    """users active last, at whom every search looks as well"""


class ClusterSettings(SearchSettings, TrainingSettings):
    """Stage cluster: learned clusters of users on top of the two-tower model, and how they are searched."""

    clusters: Literal["auto"] | Annotated[int, Field(ge=2)] = "auto"
    """how many; auto: the power of two next to the root of the number of users"""
    temperature: Annotated[float, Field(gt=0)] = 0.3
    """of the softmax over clusters when training begins"""
    final_temperature: Annotated[float, Field(gt=0)] = 0.1
    """and when it ends, and afterwards"""
    balance_weight: Annotated[float, Field(ge=0)] = 0.03
    """weight of how far clusters are from equally large, in nats"""
    entropy_weight: Annotated[float, Field(ge=0)] = 0.0
    """weight of how undecided users are, in nats"""
    id_dropout: Share = 0.3
    """share of users who are known by their contacts alone in a training step, as those who join later are"""
    events_per_batch: Annotated[int, Field(ge=2)] = 512
    """events in one step"""
    validation_events: Annotated[int, Field(ge=1)] = 3000
    """events of the validation part, evenly spaced, by which the best epoch is chosen"""
    epochs: Annotated[int, Field(ge=1)] = 12
    """passes over the contacts of the training part, at most"""
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    """AdamW's learning rate at its peak"""
    patience: Annotated[int, Field(ge=1)] | None = None
    """epochs without a gain on the validation metric before training stops; null never stops early"""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's decay of embeddings"""

    def count(self, users: int) -> int:
        """Clusters for so many users."""
        if self.clusters != "auto":
            return self.clusters
        return max(4, 2 ** round(math.log2(max(users, 1)) / 2))
