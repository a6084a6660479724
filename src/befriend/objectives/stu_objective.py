"""The training objective of the STU model.

STU stands for social tokenized user id: the semantic ID of a user, L tokens of a residual quantizer, as in TIGER.
"""

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
    """The objective that both models share, with users given by their tokens, plus a token loss.

    The token loss is the cross-entropy of the target's token on each level, given its tokens on the levels above. Only
    the static term of the score, which reads tokens, is in this loss.
    """

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
        """table: the STUs with which the model is built, those of the users of the training part; stus: int64[N, L],
        the STUs of all users of the log, which begin with those of `table`; validate: see `RetrievalObjective`."""
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
        # All users get their STUs; probabilities sum to 1 over those eligible at the end of the training part.
        eligible = torch.zeros(len(stus), dtype=torch.bool)
        eligible[self.query_builder.negative_pool] = True
        self.model.set_users(stus, eligible)

    def add_model_losses(self, losses: BatchLoss, batch: TrainBatch, query: Query) -> BatchLoss:
        """Adds the token loss, of weight `token_loss`, and metrics.

        Both are computed only for queries in `grad_mask`: these train the embeddings of tokens, and the towers that
        score tokens. Metrics: `tokens`, the token loss; `accuracy_0` to `accuracy_{L - 1}`, the share of targets whose
        token of this level is predicted; `overall_accuracy`, the share with all tokens. Without such a query in the
        batch, the first and the last are 0, and the others are left out.
        """
        grad_mask = batch.positions.grad_mask
        static, target = query.static, batch.positions.target  # static: the query vectors that score tokens
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
