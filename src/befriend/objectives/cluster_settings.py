"""Settings of stage cluster."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from befriend.models.model_settings import ClusterSearchSettings
from befriend.settings import Share
from befriend.training.training_settings import TrainingSettings


class ClusterSettings(ClusterSearchSettings, TrainingSettings):
    """Stage cluster: clusters of users, learned on top of the two-tower model, and how they are searched."""

    clusters: Literal["auto"] | Annotated[int, Field(ge=2)] = "auto"
    """number of clusters; auto: the power of two nearest to the square root of the number of users, at least 4"""
    temperature: Annotated[float, Field(gt=0)] = 0.3
    """temperature of the softmax over clusters at the start of training"""
    final_temperature: Annotated[float, Field(gt=0)] = 0.1
    """temperature of the softmax over clusters at the end of training, and afterwards"""
    balance_weight: Annotated[float, Field(ge=0)] = 0.03
    """weight of the balance loss: how far clusters are from equal sizes, in nats"""
    entropy_weight: Annotated[float, Field(ge=0)] = 0.0
    """weight of the entropy loss: how undecided users are between clusters, in nats"""
    id_dropout: Share = 0.3
    """share of users without their own embedding in a training step: only their contacts describe them, as they do
    users who join later"""
    events_per_batch: Annotated[int, Field(ge=2)] = 512
    """number of events per training step"""
    validation_events: Annotated[int, Field(ge=1)] = 3000
    """number of events of the validation part, evenly spaced, by which the best epoch is chosen"""
    epochs: Annotated[int, Field(ge=1)] = 12
    """passes over the contact events of the training part, at most"""
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    """AdamW's learning rate at its peak"""
    patience: Annotated[int, Field(ge=1)] | None = None
    """epochs without a gain in the validation metric before training stops; null: never stop early"""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's weight decay of embeddings"""

    def num_clusters(self, num_users: int) -> int:
        """The number of clusters for a number of users."""
        if self.clusters != "auto":
            return self.clusters
        return max(4, 2 ** round(math.log2(max(num_users, 1)) / 2))
