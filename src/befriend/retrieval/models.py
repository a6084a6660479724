"""All trained models of a project, on its log."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from befriend.data.activity import Activity
from befriend.data.attributes import Attributes
from befriend.data.columns import OPTED_OUT
from befriend.data.contracts import USERS, read_table
from befriend.data.log import USERS_FILE, EventLog
from befriend.data.observed import Observed
from befriend.data.texts import TextVectors, first_moments
from befriend.models.cluster_settings import SearchSettings
from befriend.models.clusters import UserClusters
from befriend.models.folder import StuModel, TwoTowerModel, load, load_stu
from befriend.retrieval.clusters import ClusterRetriever
from befriend.retrieval.heuristics import Heuristics
from befriend.retrieval.recommender import Recommender
from befriend.retrieval.stu import BEAM, StuRetriever
from befriend.retrieval.two_tower import TwoTowerRetriever
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
    observed_by_stu: Observed
    """the log, for the STU model"""
    texts: TextVectors
    """what users wrote"""
    opted_out: np.ndarray
    """bool[N], who must not stand on any list"""

    @classmethod
    def read(cls, prepared: Path, models: Path, log: EventLog, gone: np.ndarray | None = None) -> Models:
        """gone: bool[N], whose texts are as if they had never been."""
        attributes, texts = Attributes.read(prepared), TextVectors.read(models / "text", log)
        if gone is not None:
            texts = texts.without(torch.from_numpy(gone))
        two_tower, tokens = load(models / "two_tower", log, attributes), load_tokens(models / "tokens", log, texts)
        stu = load_stu(models / "stu", log, attributes, tokens)
        observed = two_tower.look(log, texts)
        by_stu = stu.look(log, texts, observed.activity)
        opted_out = read_table(prepared / USERS_FILE, USERS)[OPTED_OUT].to_numpy()
        return cls(two_tower, stu, tokens.joined(log).table.stus, observed, by_stu, texts, opted_out)

    @cached_property
    def findable(self) -> np.ndarray:
        """int64[N], the second after which everybody may stand on a list; the largest int64 for who never may."""
        since = first_moments(self.observed.log, self.texts)
        return np.where(self.opted_out & (self.observed.log.first_seen > since), np.iinfo(np.int64).max, since)

    @property
    def activity(self) -> Activity:
        return self.observed.activity

    def retrievers(
        self, approximate: bool = False, clusters: Clusters | None = None
    ) -> tuple[TwoTowerRetriever, StuRetriever]:
        """approximate: search faster and miss a few, by an index and a beam; clusters: look at the best alone."""
        base, stu = self.two_tower, self.stu
        two_tower = (
            TwoTowerRetriever(base.model, self.observed, base.tower, approximate)
            if clusters is None
            else ClusterRetriever(base.model, self.observed, base.tower, *clusters)
        )
        width = BEAM if approximate else None
        return two_tower, StuRetriever(stu.model, self.stus, self.observed_by_stu, stu.tower, width)

    def recommender(
        self, boosters: dict[str, Booster], approximate: bool = False, clusters: Clusters | None = None
    ) -> Recommender:
        """What makes the lists of both models, of all rules, and of the rankers over them; see `retrievers`."""
        heuristics = Heuristics(self.observed.log, self.activity)
        observed = replace(self.observed, texts=self.texts)
        return Recommender(self.retrievers(approximate, clusters), heuristics, boosters, self.opted_out, observed)
