"""The STU model as a trainee."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from befriend.data.attributes import Attributes
from befriend.data.observed import Observed
from befriend.data.split import Split
from befriend.models.batch import Query
from befriend.models.folder import build_stu, width_of_texts
from befriend.models.settings import StuSettings
from befriend.models.stu import NextTargetPredictionSTU
from befriend.retrieval.stu import StuRetriever
from befriend.tokens.folder import Tokens
from befriend.training.examples import AskedBatch
from befriend.training.retrieval import RetrievalTrainee
from befriend.training.trainee import Losses


class StuTrainee(RetrievalTrainee[NextTargetPredictionSTU]):
    """Users are their tokens; beside the whole score, the tokens alone have a loss, level by level."""

    def __init__(self, observed: Observed, attributes: Attributes, split: Split, settings: StuSettings, tokens: Tokens):
        """tokens: of the users of the training part."""
        self.tower = settings
        self.everyone = tokens.joined(observed.log).table.stus
        actions = len(observed.log.actions)
        super().__init__(
            observed,
            attributes,
            split,
            settings,
            lambda codes: build_stu(settings, tokens.table, actions, codes, width_of_texts(settings, observed.texts)),
        )
        # Who wrote something and has no event yet stands behind the users of the table.
        there = torch.zeros(len(self.everyone), dtype=torch.bool)
        there[self.examples.universe] = True
        self.model.with_users(self.everyone, there)

    def with_more(self, losses: Losses, batch: AskedBatch, query: Query) -> Losses:
        learns = batch.positions.learns
        asked, target = query.static, batch.positions.target
        if learns is not None:
            asked, target = asked[learns], target[learns]
        if not len(target):
            zero = losses.loss.new_zeros(())
            return replace(losses, figures=losses.figures | {"tokens": zero, "overall_accuracy": zero})
        levels, right = self.model.token_losses(asked, target)
        tokens = torch.stack(levels).sum(0).mean()
        figures = {"tokens": tokens.detach(), "overall_accuracy": torch.stack(right).all(0).float().mean()}
        figures |= {f"accuracy_{level}": hit.float().mean() for level, hit in enumerate(right)}
        return Losses(losses.loss + self.tower.token_loss * tokens, losses.positions, losses.figures | figures)

    def retriever(self, model: NextTargetPredictionSTU) -> StuRetriever:
        return StuRetriever(copy.deepcopy(model), self.everyone, self.observed, self.tower)  # it is told of more users
