"""Settings of stages train_two_tower and train_stu: the model, its training queries, and the training loop."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from befriend.data.regimes import REGIMES, Regime
from befriend.models.model_settings import Count, ModelSettings, NegativesName, StuModelSettings, TwoTowerModelSettings
from befriend.settings import Settings, Share
from befriend.training.training_settings import TrainingSettings


class TrainingQuerySettings(Settings):
    """Training queries: which events are visible to them, how they are put into batches, and their negatives.

    A training query predicts the target of an event from the events before a cutoff.
    """

    regimes: Annotated[list[Regime], Field(min_length=1)] = list(REGIMES)
    """which events are visible to a training query; each event is queried once per epoch in streaming, the events of a
    random quarter of the seconds in live, and those of half of the seconds in daily and in frozen; without streaming,
    each event in each regime"""
    positions_per_batch: Annotated[int, Field(ge=2)] = 128
    """number of training queries per step, approximately"""
    temporal_positions: Annotated[int, Field(ge=1)] = 25
    """number of consecutive events of a history after which targets are predicted in one causal pass; 1: a history is
    encoded for each query"""
    temporal_weight: Annotated[float, Field(ge=0)] = 1.0
    """weight in the loss of the queries inside an encoded history; that of the last one is 1"""
    order: Literal["chronological", "shuffled"] = "chronological"
    """chronological: batches in the order of time, and user embeddings learn from the freshest regimes only; shuffled:
    batches in random order"""
    negatives: NegativesName = "mixed"
    """negatives that all queries of a batch share: its targets (in_batch), random users (random), or both (mixed)"""
    num_rand_negs: Count = 1
    """number of random negatives per query, shared by the batch"""
    log_q: bool = True
    """correct the scores of shared negatives for how often they are drawn (log-Q correction)"""
    softmax: Literal["sampled", "full"] = "sampled"
    """sampled: a sample of users are shared negatives; full: all users, for small networks"""
    recent_events: Count = 16
    """number of the latest events of the log before a query whose users are negatives of it"""
    hard_negatives: Count = 0
    """number of users with the best static scores for a query who are negatives of it; 0: none"""
    new_weight: Annotated[float, Field(ge=0)] = 1.0
    """weight of a second loss for first contacts, in which existing contacts are not among the candidates"""


class RetrievalSettings(ModelSettings, TrainingQuerySettings, TrainingSettings):
    """Settings that the training of both models has in common."""

    epochs: Annotated[int, Field(ge=1)] = 1
    """passes over the training events, at most; in chronological order, a second pass starts from a model that has
    learned from later events"""
    final_learning_rate: Share = 1.0
    """share of the peak learning rate at the end of the cosine decay; below 1, the model learns least from the latest
    events"""
    dynamic_lr_mult: Annotated[float, Field(gt=0)] = 3.0
    """factor on the learning rate of the dynamic term: the weight of recent activity changes as a network grows and
    slows down"""
    validation_events: Annotated[int, Field(ge=1)] = 1000
    """number of events of the validation part, evenly spaced, by which the best epoch is chosen"""


class TwoTowerSettings(TwoTowerModelSettings, RetrievalSettings):
    """Stage train_two_tower: the model, its training queries, and the training loop."""

    cluster_weight: Annotated[float, Field(ge=0)] = 0.1
    """with clusters: weight of the loss that predicts the target's cluster, added to the loss of the target itself"""


class StuSettings(StuModelSettings, RetrievalSettings):
    """Stage train_stu: the model, its training queries, and the training loop."""

    token_loss: Annotated[float, Field(ge=0)] = 0.0
    """weight of the loss of the tokens alone, level by level, added to the loss of the whole score of the target"""
