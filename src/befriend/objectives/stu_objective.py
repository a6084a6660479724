"""The objective of the STU model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from befriend.data.attributes import Attributes
from befriend.data.split import Split
from befriend.features.feature_view import FeatureView
from befriend.models.model_inputs import Query
from befriend.models.stu_model import NextTargetPredictionSTU
from befriend.models.trained_model import build_stu, used_text_width
from befriend.objectives.objective_settings import StuSettings
from befriend.objectives.retrieval_objective import RetrievalObjective
from befriend.objectives.train_batch import TrainBatch
from befriend.tokens.stu_table import StuTable
from befriend.training.objective import BatchLoss


class StuObjective(RetrievalObjective[NextTargetPredictionSTU]):
    """The shared objective, with users given by their tokens, plus a loss of the tokens alone, level by level."""

    def __init__(
        self,
        feature_view: FeatureView,
        attributes: Attributes,
        split: Split,
        settings: StuSettings,
        table: StuTable,
        stus: Tensor,
        validate: Callable[[NextTargetPredictionSTU], dict[str, float]],
    ):
        """table: the STUs (social tokenized user ids, L tokens each) of the users of the training part; stus: int64[N,
        L], the STUs of all users of the log; validate: see `RetrievalObjective`."""
        self.stu_settings = settings
        actions = len(feature_view.log.actions)
        super().__init__(
            feature_view,
            attributes,
            split,
            settings,
            lambda attribute_encoding: build_stu(
                settings, table, actions, attribute_encoding, used_text_width(settings, feature_view.texts)
            ),
            validate,
        )
        # Users who joined after the training part come after the users of the table.
        eligible = torch.zeros(len(stus), dtype=torch.bool)
        eligible[self.examples.negative_pool] = True
        self.model.set_users(stus, eligible)

    def add_model_losses(self, losses: BatchLoss, batch: TrainBatch, query: Query) -> BatchLoss:
        """Adds the token loss, and the shares of targets whose tokens are predicted correctly, by level and overall.

        Only of the queries that train user embeddings, the token tables and towers.
        """
        grad_mask = batch.positions.grad_mask
        static, target = query.static, batch.positions.target
        if grad_mask is not None:
            static, target = static[grad_mask], target[grad_mask]
        if not len(target):
            zero = losses.loss.new_zeros(())
            return replace(losses, metrics=losses.metrics | {"tokens": zero, "overall_accuracy": zero})
        level_losses, is_correct_by_level = self.model.token_losses(static, target)
        token_loss = torch.stack(level_losses).sum(0).mean()
        metrics = {
            "tokens": token_loss.detach(),
            "overall_accuracy": torch.stack(is_correct_by_level).all(0).float().mean(),
        }
        metrics |= {f"accuracy_{level}": hit.float().mean() for level, hit in enumerate(is_correct_by_level)}
        return BatchLoss(
            losses.loss + self.stu_settings.token_loss * token_loss, losses.num_positions, losses.metrics | metrics
        )
