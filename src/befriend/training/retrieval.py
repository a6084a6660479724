"""Training a model of people: its examples, its loss, its validation. The models differ in what users are to them."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from befriend.data.attributes import Attributes
from befriend.data.observed import Observed
from befriend.data.split import Split
from befriend.evaluation.metrics import METRICS, per_list
from befriend.evaluation.protocol import COLD, ask, ranks
from befriend.evaluation.ranked import ranked
from befriend.models.batch import Query, Targets
from befriend.models.folder import Codes
from befriend.models.query_tower import QueryTower
from befriend.models.settings import RetrievalSettings
from befriend.models.users import Rows
from befriend.retrieval.recommender import Recommender
from befriend.retrieval.retriever import Retriever
from befriend.training.examples import AskedBatch, Examples
from befriend.training.losses import softmax_loss
from befriend.training.trainee import Losses

M = TypeVar("M", bound=QueryTower)


class RetrievalTrainee(ABC, Generic[M]):
    """Every training event asked for in every regime; validation by the protocol itself."""

    metric = "ndcg@10"

    def __init__(
        self,
        observed: Observed,
        attributes: Attributes,
        split: Split,
        settings: RetrievalSettings,
        build: Callable[[Codes], M],
    ):
        """build: makes the model, given how it reads attributes."""
        self.observed, self.split, self.settings = observed, split, settings
        self.examples = Examples(observed, split.part("train")[1], settings)
        torch.manual_seed(settings.seed)
        self.trained = self.examples.first_event < self.examples.end
        self.codes = Codes.of(attributes, self.trained.numpy())
        self.model = build(self.codes)
        self.codes.describe(self.model, attributes)
        self._standardise()

    @abstractmethod
    def retriever(self, model: M) -> Retriever[M]:
        """The model as what validation asks, which it does on a CPU."""

    def scale(self, name: str) -> float:
        """How many times as fast as the rest a parameter learns."""
        return self.settings.moment_rate if name.startswith(("moment.", "to_moment.")) else 1.0

    def batches(self, epoch: int) -> Sequence[AskedBatch]:
        return self.examples.epoch(epoch)

    def loss(self, batch: AskedBatch) -> Losses:
        """Over everyone, and for first contacts once more over everyone who is no contact yet."""
        model, s = self.model, self.settings
        rows = model.users.rows(model.id_dropout)
        states = model.encode_history(batch.histories, rows)
        query = model.query(batch.histories, batch.positions, states, rows)
        if s.hard_negatives:
            batch = self.examples.with_hard(batch, self._nearest(query, rows))
        near = model.score_each(query, batch.near, batch.pairs, rows)
        column = model.score_columns(query, batch.column_targets, rows)
        log_share, weight = batch.columns.log_share, batch.weight
        result = softmax_loss(near[:, 0], near[:, 1:], batch.near_allowed, column, batch.column_allowed, log_share)
        loss = (result.loss * weight).sum()
        new = batch.is_new
        if s.new_weight and new.any():
            near_allowed = batch.near_allowed[new] & ~batch.near_contact[new]
            column_allowed = batch.column_allowed[new] & ~batch.column_contact[new]
            first = softmax_loss(near[new, 0], near[new, 1:], near_allowed, column[new], column_allowed, log_share)
            loss = loss + s.new_weight * (first.loss * weight[new]).sum()
        figures = {"accuracy": (result.rank == 1).float().mean(), "mean_rank": result.rank.mean()}
        loss = loss / weight.sum().clamp(min=1e-9)
        return self.with_more(Losses(loss, len(weight), figures), batch, query)

    def with_more(self, losses: Losses, batch: AskedBatch, query: Query) -> Losses:
        """What else a model's loss and figures are made of."""
        return losses

    @torch.no_grad()
    def _nearest(self, query: Query, rows: Rows) -> Tensor:
        """int64[P, H]: the users of the training part whom an index would give first, by what they are alone."""
        universe = self.examples.universe.to(self.model.device)
        scores = self.model.static_columns(query, Targets(universe), rows)
        return universe[scores.topk(min(self.settings.hard_negatives, len(universe))).indices]

    def validate(self) -> dict[str, float]:
        """NDCG@10 on the validation part for each list and regime, and their geometric mean as `ndcg@10`.

        The geometric mean lets no list or regime drown another: a gain of a tenth counts the same in each.
        """
        log, figures, s = self.observed.log, {}, self.settings
        model = self.model if self.model.device.type == "cpu" else copy.deepcopy(self.model).cpu()
        row = METRICS.index("ndcg@10")
        recommender = Recommender([self.retriever(model)])
        asked = {regime: ask(log, self.split, "validation", s.validation_events, regime) for regime in s.regimes}
        histories = self.observed.activity.histories
        lists = ranked(recommender, log, histories, asked, recommender.names, "validation").protocol
        for regime, questions in asked.items():
            (made,) = lists[regime].values()
            gain = per_list(ranks(made, log.target[questions.events[questions.row_event]]))[row]
            known = questions.row_segment != COLD
            for kind, chosen in (("any", ~questions.row_is_new & known), ("new", questions.row_is_new)):
                if chosen.any():
                    figures[f"{kind}_{regime}"] = float(gain[chosen].mean())
        mean = math.fsum(math.log(max(value, 1e-4)) for value in figures.values()) / max(len(figures), 1)
        return figures | {self.metric: math.exp(mean)}

    def _standardise(self) -> None:
        """Fits shift and scale of the activity features on a few batches of the first epoch's candidates."""
        epoch = self.batches(0)
        users, pairs = [], []
        for k in np.unique(np.linspace(0, len(epoch) - 1, 4).astype(int)) if len(epoch) else []:
            batch = epoch[int(k)]
            pairs.append(batch.pairs.features[batch.pairs.met])
            if batch.near.features is not None and batch.column_targets.features is not None:
                users += [batch.near.features[:, 1:][batch.near_allowed], batch.near.features[:, 0]]
                users.append(batch.column_targets.features[batch.column_allowed])
        if self.model.moment is not None and users:
            self.model.moment.standardise.fit(torch.cat(users))
        if self.model.pointer is not None and pairs:
            self.model.pointer.standardise.fit(torch.cat(pairs))
