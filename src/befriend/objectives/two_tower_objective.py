"""The objective of the two-tower model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from befriend.data.attributes import Attributes
from befriend.data.split import Split
from befriend.features.feature_view import FeatureView
from befriend.models.model_inputs import Query
from befriend.models.trained_model import build_two_tower, used_text_width
from befriend.models.two_tower_model import NextTargetPredictionUserIDs
from befriend.objectives.objective_settings import TwoTowerSettings
from befriend.objectives.retrieval_objective import RetrievalObjective
from befriend.objectives.train_batch import TrainBatch
from befriend.training.objective import BatchLoss


class TwoTowerObjective(RetrievalObjective[NextTargetPredictionUserIDs]):
    """The shared objective, for a model in which users of the training part have their own embedding.

    If the model has clusters, a loss that predicts the cluster of the target is added.
    """

    def __init__(
        self,
        feature_view: FeatureView,
        attributes: Attributes,
        split: Split,
        settings: TwoTowerSettings,
        validate: Callable[[NextTargetPredictionUserIDs], dict[str, float]],
    ):
        """validate: see `RetrievalObjective`."""
        log = feature_view.log
        self.two_tower_settings = settings
        super().__init__(
            feature_view,
            attributes,
            split,
            settings,
            lambda attribute_encoding: build_two_tower(
                settings,
                log.num_users,
                len(log.actions),
                attribute_encoding,
                used_text_width(settings, feature_view.texts),
            ),
            validate,
        )
        self.model.users.has_embedding &= self.trained
        self.model.popularity.copy_(self.query_builder.popularity)

    def add_model_losses(self, losses: BatchLoss, batch: TrainBatch, query: Query) -> BatchLoss:
        """If the model has clusters, adds the loss that predicts the target's cluster.

        It is computed only for queries in `grad_mask`, which train user embeddings.
        """
        clusters = self.model.users.clusters
        if clusters is None:
            return losses
        target, static, grad_mask = batch.positions.target, query.static, batch.positions.grad_mask
        if grad_mask is not None:
            static, target = static[grad_mask], target[grad_mask]
        if not len(target):
            return replace(losses, metrics=losses.metrics | {"next_cluster": losses.loss.new_zeros(())})
        users = self.model.users.without_clusters(target, self.model.users.lookup())
        loss = clusters.losses(clusters.log_memberships(static), clusters.log_memberships(users))["next_cluster"].mean()
        metrics = losses.metrics | {"next_cluster": loss.detach()}
        return replace(losses, loss=losses.loss + self.two_tower_settings.cluster_weight * loss, metrics=metrics)
