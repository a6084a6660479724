"""The training objective that the two-tower model and the STU model share: training queries, loss and validation.

A training query predicts the target of an event from the events before a cutoff; see `training_queries` for the terms.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from befriend.data.attributes import Attributes
from befriend.data.split import Split
from befriend.features.feature_view import FeatureView
from befriend.models.model_inputs import Query
from befriend.models.query_tower import QueryTower
from befriend.models.sampled_softmax import softmax_loss
from befriend.models.trained_model import AttributeEncoding
from befriend.models.user_embedding import EmbeddingLookup
from befriend.objectives.hard_negatives import with_hard_negatives
from befriend.objectives.objective_settings import RetrievalSettings
from befriend.objectives.train_batch import TrainBatch
from befriend.objectives.training_queries import TrainingQueryBuilder
from befriend.training.objective import BatchLoss

M = TypeVar("M", bound=QueryTower)


class RetrievalObjective(Generic[M]):
    """Predicts the targets of the training queries, by a softmax over a sample of candidates."""

    metric = "ndcg@10"

    def __init__(
        self,
        feature_view: FeatureView,
        attributes: Attributes,
        split: Split,
        settings: RetrievalSettings,
        build: Callable[[AttributeEncoding], M],
        validate: Callable[[M], dict[str, float]],
    ):
        """build: makes the model with initial weights, given the encoding of attributes; validate: metrics of a model
        on the validation part, `ndcg@10` among them."""
        self.feature_view, self.settings, self._validate = feature_view, settings, validate
        self.query_builder = TrainingQueryBuilder(feature_view, split.part("train")[1], settings)
        torch.manual_seed(settings.seed)
        self.trained = self.query_builder.first_event < self.query_builder.end
        """bool[N], users with an event in the training part"""
        self.attribute_encoding = AttributeEncoding.of(attributes, self.trained.numpy())
        self.model = build(self.attribute_encoding)
        self.attribute_encoding.apply_to(self.model, attributes)
        self._standardise()

    def lr_multiplier(self, name: str) -> float:
        """Factor on the learning rate of the parameter `name`."""
        return self.settings.dynamic_lr_mult if name.startswith(("dynamic.", "to_dynamic.")) else 1.0

    def batches(self, epoch: int) -> Sequence[TrainBatch]:
        return self.query_builder.epoch(epoch)

    def loss(self, batch: TrainBatch) -> BatchLoss:
        """Mean softmax loss of the queries of a batch.

        First contacts have a second loss, of weight `new_weight`, without existing contacts among the candidates: it
        trains lists of people you may know. Metrics: `accuracy`, the share of targets with the best score, and
        `mean_rank`.
        """
        model, s = self.model, self.settings
        lookup = model.users.lookup(model.id_dropout)
        states = model.encode_history(batch.histories, lookup)
        query = model.query(batch.histories, batch.positions, states, lookup)
        if s.hard_negatives:
            batch = with_hard_negatives(self.query_builder, batch, self._hard_negatives(query, lookup))
        scores, weight = model.score_candidates(query, batch.candidates, batch.pairs, lookup), batch.weight
        result = softmax_loss(scores[:, 0], scores[:, 1:], batch.is_negative, batch.log_q)
        loss = (result.loss * weight).sum()
        is_first_contact = batch.is_first_contact
        if s.new_weight and is_first_contact.any():
            is_negative = (batch.is_negative & ~batch.is_contact)[is_first_contact]
            first_scores = scores[is_first_contact]
            new_result = softmax_loss(first_scores[:, 0], first_scores[:, 1:], is_negative, batch.log_q)
            loss = loss + s.new_weight * (new_result.loss * weight[is_first_contact]).sum()
        metrics = {"accuracy": (result.rank == 1).float().mean(), "mean_rank": result.rank.mean()}
        loss = loss / weight.sum().clamp(min=1e-9)
        return self.add_model_losses(BatchLoss(loss, len(weight), metrics), batch, query)

    def add_model_losses(self, losses: BatchLoss, batch: TrainBatch, query: Query) -> BatchLoss:
        """Adds other losses and metrics of a model. Override it; here there are none."""
        return losses

    @torch.no_grad()
    def _hard_negatives(self, query: Query, lookup: EmbeddingLookup) -> Tensor:
        """int64[P, H]: of the negative pool, the users with the best static scores for each query."""
        negative_pool = self.query_builder.negative_pool.to(self.model.device)
        scores = self.model.static_scores(query, negative_pool, lookup)
        return negative_pool[scores.topk(min(self.settings.hard_negatives, len(negative_pool))).indices]

    def validate(self) -> dict[str, float]:
        """Metrics of the current model on the validation part, computed on the CPU."""
        return self._validate(self.model if self.model.device.type == "cpu" else copy.deepcopy(self.model).cpu())

    def _standardise(self) -> None:
        """Fits the standardisation of the features of users and pairs, to candidates of four batches of the first
        epoch."""
        epoch = self.batches(0)
        users, history, two_hop = [], [], []
        for k in np.unique(np.linspace(0, len(epoch) - 1, 4).astype(int)) if len(epoch) else []:
            batch = epoch[int(k)]
            history.append(batch.pairs.history.features)
            two_hop.append(batch.pairs.two_hop.features)
            if batch.candidates.features is not None:
                users += [batch.candidates.features[:, 0], batch.candidates.features[:, 1:][batch.is_negative]]
        if self.model.dynamic is not None and users:
            self.model.dynamic.standardise.fit(torch.cat(users))
        for term, features in ((self.model.pointer, history), (self.model.two_hop, two_hop)):
            if term is not None and features:
                term.standardise.fit(torch.cat(features))
