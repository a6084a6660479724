"""befriend from Python: load a project, recommend people, say why, take the vectors elsewhere.

import befriend

people = befriend.load("path/to/project")
people.recommend([21995, 14194], k=5, new_only=True)
people.explain(21995, [14194])
people.vectors()
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch

from befriend import files, layout
from befriend.data.attributes import Attributes
from befriend.data.columns import OPTED_OUT
from befriend.data.contracts import USERS, read_table
from befriend.data.forgotten import marked, read_marks, without
from befriend.data.log import USERS_FILE, EventLog
from befriend.data.observed import Observed
from befriend.errors import CallError
from befriend.models import cluster_folder
from befriend.retrieval import recommend as core
from befriend.retrieval.explain import Wording, explain, sentences
from befriend.retrieval.models import Models
from befriend.retrieval.ranker import read_boosters
from befriend.retrieval.rules import Rules
from befriend.retrieval.sampling import Sampling
from befriend.retrieval.serving import RetrieverRanker
from befriend.retrieval.stu import BEAM

__all__ = ["Befriend", "Rules", "Sampling", "load"]

ModelName = Literal["two-tower", "stu", "both"]


class Befriend:
    """The log and the trained models of a project."""

    def __init__(self, root: Path, marks: frozenset[str] = frozenset(), prepared: Path | None = None):
        """marks: of people who asked to be forgotten, beside those that the project knows of; prepared: a later log, in
        the numbers of the project's own (`befriend.data.renumber`), to be used in its place."""
        self.root, self.prepared = root, prepared or root / layout.PREPARED
        for folder in layout.TRAINED:
            if not (root / folder).exists():
                files.recover(root / folder)  # from a stage that was killed while it replaced the folder
        self.marks = read_marks(root / layout.PREPARED) | marks
        self.log = without(EventLog.read(self.prepared), self.marks)

    @cached_property
    def models(self) -> Models:
        gone = marked(self.log.user_ids, self.marks).to_numpy()
        return Models.read(self.prepared, self.root / layout.MODELS, self.log, profiles=True, gone=gone)

    @cached_property
    def _rankers(self) -> list[RetrieverRanker[Any]]:
        return self.models.rankers()

    def recommend(
        self,
        users: Sequence[Any] | pl.Series,
        at: datetime | None = None,
        action: str | None = None,
        k: int = 10,
        new_only: bool = False,
        model: ModelName = "both",
        sampling: Sampling | None = None,
        approximate: bool = False,
        rules: Rules | None = None,
        clusters: bool = False,
    ) -> pl.DataFrame:
        """People for each user, by ids of the log; what happened before `at` (all of the log by default) counts.

        Columns: user, known (False: nothing was known of the user), rank, recommended, score, contact, last_active.
        sampling: draw the lists; approximate: search faster, and miss a few; rules: who may be on a list, how different
        its people are, and how often one person is shown; clusters: the two-tower model looks at the best clusters of
        people and whoever was active last, instead of at everybody.
        """
        asked = core.Asked(at, action, k, new_only, sampling, rules or Rules())
        recommender = self.recommender(asked, model, approximate, clusters)
        return pl.concat(recommender.lists(some) for some in core.blocks(pl.Series(users)))

    @cached_property
    def digest(self) -> str:
        """Of the log and of everything that was trained on it: what lists depend on, apart from what is asked."""
        folders = (self.prepared, *(self.root / folder for folder in layout.TRAINED))
        inputs = [path for folder in folders for path in sorted(folder.glob("*")) if path.is_file()]
        digests = [f"{path.parent.name}/{path.name} {files.sha256(path)}" for path in inputs]
        digests += sorted(self.marks)
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()

    def recommender(
        self, asked: core.Asked, model: ModelName = "both", approximate: bool = False, clusters: bool = False
    ) -> core.Recommender:
        """What makes the lists of `recommend`, a thousand users at a time: for those who write them as they come."""
        lister, observed, actions = self._lister(model, approximate, clusters)
        attributes = Attributes.read(self.prepared)
        users = read_table(self.prepared / USERS_FILE, USERS)
        unwilling = np.flatnonzero(users[OPTED_OUT].to_numpy())
        directions = torch.nn.functional.normalize(self._static, dim=1).numpy()
        return core.Recommender(lister, observed, actions, asked, attributes, directions, unwilling)

    def explain(
        self,
        user: Any,
        people: Sequence[Any] | pl.Series,
        at: datetime | None = None,
        action: str | None = None,
        model: ModelName = "both",
        wording: Wording = sentences,
    ) -> list[list[str]]:
        """Sentences for each of the people, why they are recommended to a user: facts of the log and the model.

        wording: turns a `befriend.retrieval.explain.Evidence` into sentences, in the place of templates. Of `both`, the
        two-tower model says which events of the history carried the prediction.
        """
        ranker = self._rankers[model == "stu"]
        trained = self.models.stu if model == "stu" else self.models.two_tower
        visible, moment, number = core.situation(
            self.log, trained.actions, core.Asked(at, action), self.models.observed.texts
        )
        ids = pl.Series([str(user), *map(str, people)])
        who = core.present(self.log, ids, moment, self.models.observed.texts)
        if (who == self.log.num_users).any():
            unknown = ids.filter(pl.Series(who == self.log.num_users))
            raise CallError(f"nothing is known of {', '.join(unknown)} at that moment.")
        request = core.request_of(who[:1], visible, moment, number, [who[:0]], len(people))
        return [wording(found) for found in explain(ranker.retriever, request, who[1:], self.models.stus)]

    @cached_property
    def _static(self) -> torch.Tensor:
        """float32[N, D]: what the two-tower model knows of everybody, but for the moment."""
        model = self.models.two_tower.model
        with torch.no_grad():
            return model.users(torch.arange(self.log.num_users), model.users.rows())

    def vectors(self) -> pl.DataFrame:
        """Everyone of the log: user_id, vector (what the two-tower model knows of them, but for the moment), stu."""
        static = self._static
        table = pl.DataFrame(
            {
                "user_id": self.log.user_ids,
                "vector": pl.Series(static.numpy(), dtype=pl.Array(pl.Float32, static.shape[1])),
                "stu": pl.Series(self.models.stus.numpy(), dtype=pl.Array(pl.Int64, self.models.stus.shape[1])),
            }
        )
        return table.filter(~marked(self.log.user_ids, self.marks))

    def _lister(
        self, model: ModelName, approximate: bool, clusters: bool
    ) -> tuple[core.Lister, Observed, tuple[str, ...]]:
        """Who recommends, the log as it looks at it, and the labels of actions that it knows."""
        models = self.models
        learned = cluster_folder.load(self.root / layout.CLUSTERS, self.log) if clusters else None
        width = BEAM if approximate else None
        if model == "both":
            boosters = read_boosters(self.root / layout.RANKER)
            listed = models.ranked(boosters, approximate, width, learned)
            return listed, models.observed, models.two_tower.actions
        two_tower, stu = models.rankers(approximate, width, learned)
        if model == "stu":
            return stu, models.watched, models.stu.actions
        return two_tower, models.observed, models.two_tower.actions


def load(root: str | Path = ".") -> Befriend:
    """A project after `dvc repro`."""
    return Befriend(Path(root))
