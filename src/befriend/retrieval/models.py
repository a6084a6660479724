"""All trained models of a project, on its log."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from befriend.data.activity import Activity
from befriend.data.attributes import Attributes
from befriend.data.log import EventLog
from befriend.data.observed import Observed
from befriend.data.texts import TextVectors
from befriend.evaluation.baselines import Baselines
from befriend.models.cluster_settings import SearchSettings
from befriend.models.clusters import UserClusters
from befriend.models.folder import StuModel, TwoTowerModel, load, load_stu
from befriend.retrieval.clusters import ClusterRanker
from befriend.retrieval.ranker import RankedCandidates
from befriend.retrieval.serving import RetrieverRanker
from befriend.retrieval.stu import BEAM, StuRanker
from befriend.retrieval.two_tower import TwoTowerRanker
from befriend.tokens.folder import load as load_tokens

if TYPE_CHECKING:
    from lightgbm import Booster

Clusters = tuple[UserClusters, SearchSettings]


@dataclass(frozen=True)
class Models:
    """The two-tower model, the STU model with everybody's STUs, and the log as each looks at it."""

    two_tower: TwoTowerModel
    stu: StuModel
    stus: Tensor
    """int64[N, L], of everyone in the log"""
    observed: Observed
    """the log, for the two-tower model"""
    watched: Observed
    """the log, for the STU model"""

    @classmethod
    def read(
        cls, prepared: Path, models: Path, log: EventLog, profiles: bool = False, gone: np.ndarray | None = None
    ) -> Models:
        """profiles: as of `Observed`; gone: bool[N], whose texts are as if they had never been."""
        attributes, texts = Attributes.read(prepared), TextVectors.read(models / "text", log)
        if gone is not None:
            texts = texts.without(torch.from_numpy(gone))
        two_tower, tokens = load(models / "two_tower", log, attributes), load_tokens(models / "tokens", log, texts)
        stu = load_stu(models / "stu", log, attributes, tokens)
        observed, watched = (model.look(log, texts, profiles) for model in (two_tower, stu))
        return cls(two_tower, stu, tokens.joined(log).table.stus, observed, watched)

    @property
    def activity(self) -> Activity:
        return self.observed.activity

    def rankers(
        self, approximate: bool = False, width: int | None = BEAM, clusters: Clusters | None = None
    ) -> list[RetrieverRanker[Any]]:
        """Made anew: time starts over. width: of the beam, None: score everyone; clusters: look at the best alone."""
        base = self.two_tower
        return [
            TwoTowerRanker(base.model, self.observed, base.tower, approximate)
            if clusters is None
            else ClusterRanker(base.model, self.observed, base.tower, *clusters),
            StuRanker(self.stu.model, self.stus, self.watched, self.stu.tower, width),
        ]

    def ranked(
        self,
        boosters: dict[str, Booster],
        approximate: bool = False,
        width: int | None = BEAM,
        clusters: Clusters | None = None,
    ) -> RankedCandidates:
        """The ranker over the candidates of both models and of all rules, made anew as `rankers`."""
        rules = Baselines(self.observed.log, self.activity.histories)
        return RankedCandidates(self.activity, [rules, *self.rankers(approximate, width, clusters)], boosters)
