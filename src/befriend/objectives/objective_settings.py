"""Settings of stages train_two_tower and train_stu: the model, its training queries, and the training loop."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from befriend.data.regimes import REGIMES, Regime
from befriend.models.model_settings import Count, NegativesName, QuerySettings, StuTowerSettings, TowerSettings
from befriend.settings import Settings, Share
from befriend.training.training_settings import TrainingSettings


class TrainingQuerySettings(Settings):
    """Training queries: what is visible to them, how they are put into batches, and their negatives."""

    regimes: Annotated[list[Regime], Field(min_length=1)] = list(REGIMES)
    """what is visible to a training query; each event is queried once per epoch in each regime. Streaming and live see
    the same events: with both, only a random quarter of the seconds is also queried in live"""
    positions_per_batch: Annotated[int, Field(ge=2)] = 128
    """training queries in one step"""
    temporal_positions: Annotated[int, Field(ge=1)] = 25
    """consecutive entries of a history whose next targets are predicted in one causal pass; 1: a history is encoded for
    each query"""
    temporal_weight: Annotated[float, Field(ge=0)] = 1.0
    """weight of the queries inside an encoded history, relative to the last one"""
    order: Literal["chronological", "shuffled"] = "chronological"
    """chronological: batches in the order of time, and user embeddings learn from the freshest regimes only; shuffled:
    batches in random order"""
    negatives: NegativesName = "mixed"
    """shared negatives: the targets of the same batch (in_batch), random users (random), or both (mixed)"""
    num_rand_negs: Count = 1
    """random negatives per query, shared by the batch"""
    log_q: bool = True
    """correct the scores of shared negatives for how often they are drawn (log-Q correction)"""
    softmax: Literal["sampled", "full"] = "sampled"
    """sampled: a sample of users are shared negatives; full: all users, for small networks"""
    recent_events: Count = 32
    """number of latest events of the log whose two users are row candidates of every query"""
    hard_negatives: Count = 0
    """number of users with the best static scores for a query that are its row candidates as well; 0: none"""
    new_weight: Annotated[float, Field(ge=0)] = 1.0
    """weight of a second loss for first contacts, in which existing contacts are not among the candidates"""


class RetrievalSettings(QuerySettings, TrainingQuerySettings, TrainingSettings):
    """Settings that the training of both models shares."""

    epochs: Annotated[int, Field(ge=1)] = 1
    """passes over the training events, at most; in chronological order, a second pass starts from a model that has
    learned from later events"""
    final_learning_rate: Share = 1.0
    """share of the peak learning rate at the end of the cosine decay; below 1, the latest events are learned least"""
    dynamic_lr_mult: Annotated[float, Field(gt=0)] = 3.0
    """factor on the learning rate of the dynamic term: what recent activity is worth changes as a network grows and
    slows down"""
    validation_events: Annotated[int, Field(ge=1)] = 1000
    """events of the validation part, evenly spaced, by which the best epoch is chosen"""


class TwoTowerSettings(TowerSettings, RetrievalSettings):
    """Stage train_two_tower: the model, its training queries, and the training loop."""

    cluster_weight: Annotated[float, Field(ge=0)] = 0.1
    """with clusters: weight of the loss that predicts the target's cluster, added to that of the target itself"""


class StuSettings(StuTowerSettings, RetrievalSettings):
    """Stage train_stu: the model, its training queries, and the training loop."""

    token_loss: Annotated[float, Field(ge=0)] = 0.0
    """weight of the loss of the tokens alone, level by level, added to the loss of the whole score"""
