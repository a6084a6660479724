"""Loads the trained models of a project, together with its event log, and makes retrievers and the recommender."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from befriend.data.attributes import Attributes
from befriend.data.columns import OPTED_OUT
from befriend.data.contracts import USERS, read_table
from befriend.data.event_log import USERS_FILE, EventLog
from befriend.features.activity import Activity
from befriend.features.feature_view import FeatureView
from befriend.features.text_vectors import TextVectors, first_known
from befriend.models.model_settings import ClusterSearchSettings
from befriend.models.trained_model import StuModel, TwoTowerModel, load_stu, load_two_tower
from befriend.models.user_clusters import UserClusters
from befriend.retrieval.cluster_retriever import ClusterRetriever
from befriend.retrieval.heuristics import Heuristics
from befriend.retrieval.ranker import Rankers
from befriend.retrieval.recommender import Recommender
from befriend.retrieval.stu_retriever import BEAM_WIDTH, StuRetriever
from befriend.retrieval.two_tower_retriever import TwoTowerRetriever
from befriend.tokens.tokenizer import load_tokenizer

LoadedClusters = tuple[UserClusters, ClusterSearchSettings]
"""the model of p(cluster | user), and the settings of the search by clusters"""


@dataclass(frozen=True)
class LoadedModels:
    """The two-tower model, the STU model, the STUs of all users, and the log as each model reads it.

    An STU (social tokenized user id) is the semantic ID of a user, as in TIGER: L tokens. N is the number of users of
    the log.
    """

    two_tower: TwoTowerModel
    stu: StuModel
    stus: Tensor
    """int64[N, L], the STU of each user"""
    feature_view: FeatureView
    """the log as the two-tower model reads it"""
    stu_feature_view: FeatureView
    """the log as the STU model reads it"""
    texts: TextVectors
    """text vectors of the users, as of any time"""
    opted_out: np.ndarray
    """bool[N], users who must not be listed"""

    @classmethod
    def load(cls, prepared: Path, models: Path, log: EventLog, erased: np.ndarray | None = None) -> LoadedModels:
        """Reads attributes and users from `prepared`, the folder of stage validate, and models and texts from `models`.

        log: the event log in `prepared`; erased: bool[N], users who asked to be deleted; their texts are left out.
        """
        attributes, texts = Attributes.read(prepared), TextVectors.read(models / "text", log)
        if erased is not None:
            texts = texts.without_users(torch.from_numpy(erased))
        two_tower, tokenizer = (
            load_two_tower(models / "two_tower", log, attributes),
            load_tokenizer(models / "tokens", log, texts),
        )
        stu = load_stu(models / "stu", log, attributes, tokenizer.table)
        feature_view = two_tower.feature_view(log, texts)
        stu_feature_view = stu.feature_view(log, texts, feature_view)
        opted_out = read_table(prepared / USERS_FILE, USERS)[OPTED_OUT].to_numpy()
        return cls(
            two_tower, stu, tokenizer.add_newcomers(log).table.stus, feature_view, stu_feature_view, texts, opted_out
        )

    @cached_property
    def eligible_since(self) -> np.ndarray:
        """int64[N], UTC second of each user's first event or text, from which on the user may be recommended.

        The largest int64 for users without either, and for users who opted out and wrote a text before any event. The
        recommender leaves out all users who opted out.
        """
        since = first_known(self.feature_view.log, self.texts)
        return np.where(self.opted_out & (self.feature_view.log.first_seen > since), np.iinfo(np.int64).max, since)

    @property
    def activity(self) -> Activity:
        return self.feature_view.activity

    def retrievers(
        self, approximate: bool = False, clusters: LoadedClusters | None = None
    ) -> tuple[TwoTowerRetriever, StuRetriever]:
        """The retrievers of both models.

        approximate: search with an approximate index (two-tower) and with beam search (STU), which is faster and misses
        a few users; clusters: instead of that index, the two-tower model scores only the users of the best clusters,
        and the most recently active users; None: it does not.
        """
        base, stu = self.two_tower, self.stu
        two_tower = (
            TwoTowerRetriever(base.model, self.feature_view, base.settings, approximate)
            if clusters is None
            else ClusterRetriever(base.model, self.feature_view, base.settings, *clusters)
        )
        width = BEAM_WIDTH if approximate else None
        return two_tower, StuRetriever(stu.model, self.stus, self.stu_feature_view, stu.settings, width)

    def recommender(
        self, rankers: Rankers | None, approximate: bool = False, clusters: LoadedClusters | None = None
    ) -> Recommender:
        """The recommender with both models, all heuristics, and rankers.

        rankers: None for a recommender without; approximate, clusters: as in `retrievers`.
        """
        heuristics = Heuristics(self.feature_view)
        feature_view = replace(self.feature_view, texts=self.texts)
        return Recommender(self.retrievers(approximate, clusters), heuristics, rankers, self.opted_out, feature_view)
