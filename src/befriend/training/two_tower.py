"""The two-tower model as a trainee."""

from __future__ import annotations

from dataclasses import replace

from befriend.data.attributes import Attributes
from befriend.data.observed import Observed
from befriend.data.split import Split
from befriend.models.batch import Query
from befriend.models.folder import build, width_of_texts
from befriend.models.settings import TwoTowerSettings
from befriend.models.two_tower import NextTargetPredictionUserIDs
from befriend.retrieval.two_tower import TwoTowerRetriever
from befriend.training.examples import AskedBatch
from befriend.training.retrieval import RetrievalTrainee
from befriend.training.trainee import Losses


class TwoTowerTrainee(RetrievalTrainee[NextTargetPredictionUserIDs]):
    """Users seen in training have an embedding of their own."""

    def __init__(self, observed: Observed, attributes: Attributes, split: Split, settings: TwoTowerSettings):
        log = observed.log
        self.tower = settings
        super().__init__(
            observed,
            attributes,
            split,
            settings,
            lambda codes: build(
                settings, log.num_users, len(log.actions), codes, width_of_texts(settings, observed.texts)
            ),
        )
        self.model.users.known &= self.trained
        self.model.popularity.copy_(self.examples.popularity)

    def with_more(self, losses: Losses, batch: AskedBatch, query: Query) -> Losses:
        """With clusters inside the model, the next one is asked for as well, where embeddings of users are learned."""
        clusters = self.model.users.clusters
        if clusters is None:
            return losses
        target, asked, learns = batch.positions.target, query.static, batch.positions.learns
        if learns is not None:
            asked, target = asked[learns], target[learns]
        if not len(target):
            return replace(losses, figures=losses.figures | {"next_cluster": losses.loss.new_zeros(())})
        users = self.model.users.alone(target, self.model.users.rows())
        loss = clusters.losses(clusters.log_shares(asked), clusters.log_shares(users))["next_cluster"].mean()
        figures = losses.figures | {"next_cluster": loss.detach()}
        return replace(losses, loss=losses.loss + self.tower.cluster_weight * loss, figures=figures)

    def retriever(self, model: NextTargetPredictionUserIDs) -> TwoTowerRetriever:
        return TwoTowerRetriever(model, self.observed, self.tower)
