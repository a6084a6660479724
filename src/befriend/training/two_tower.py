"""The two-tower model as a trainee."""

from __future__ import annotations

from befriend.data.attributes import Attributes
from befriend.data.observed import Observed
from befriend.data.split import Split
from befriend.models.folder import build
from befriend.models.settings import TwoTowerSettings
from befriend.models.two_tower import NextTargetPredictionUserIDs
from befriend.retrieval.two_tower import TwoTowerRanker
from befriend.training.retrieval import RetrievalTrainee


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
            lambda codes: build(settings, log.num_users, len(log.actions), codes),
            settings.partners,
        )
        self.model.users.known &= self.trained
        self.model.popularity.copy_(self.examples.popularity)

    def ranker(self, model: NextTargetPredictionUserIDs) -> TwoTowerRanker:
        return TwoTowerRanker(model, self.observed, self.tower)
