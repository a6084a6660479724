"""befriend from Python: load a project, recommend people, say why, take the vectors elsewhere.

import befriend

people = befriend.load("path/to/project")
people.recommend([21995, 14194], k=5, new_only=True)
people.explain(21995, [14194])
people.vectors()
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from befriend import files, layout
from befriend.data.attributes import Attributes
from befriend.data.forgotten import marked, read_marks, without
from befriend.data.log import EventLog
from befriend.errors import CallError
from befriend.evaluation.regimes import Regime
from befriend.models import cluster_folder
from befriend.retrieval.explain import Explainer, Wording, sentences
from befriend.retrieval.facts import Facts
from befriend.retrieval.models import Models
from befriend.retrieval.ranker import read_boosters
from befriend.retrieval.recommend import ListMaker, ModelName, RecommendOptions, blocks
from befriend.retrieval.recommender import Recommender
from befriend.retrieval.request_table import USER_ID, requests_table
from befriend.retrieval.rules import Rules
from befriend.retrieval.sampling import Sampling

__all__ = ["Befriend", "ModelName", "RecommendOptions", "Rules", "Sampling", "load"]


class Befriend:
    """The log and the trained models of a project. Threads may share it."""

    def __init__(self, root: Path, marks: frozenset[str] = frozenset(), prepared: Path | None = None):
        """marks: of people who asked to be forgotten, beside those that the project knows of; prepared: a later log, in
        the numbers of the project's own (`befriend.data.renumber`), to be used in its place."""
        self.root, self.prepared = root, prepared or root / layout.PREPARED
        for folder in layout.TRAINED:
            if not (root / folder).exists():
                files.recover(root / folder)  # from a stage that was killed while it replaced the folder
        self.marks = read_marks(root / layout.PREPARED) | marks
        self.log = without(EventLog.read(self.prepared), self.marks)
        self._lock = threading.RLock()
        self._recommenders: dict[tuple[bool, bool], Recommender] = {}

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
        regime: Regime | None = None,
        filter_at: datetime | None = None,
    ) -> pl.DataFrame:
        """People for each user, by ids of the log; what happened before `at` (all of the log by default) counts.

        Columns: user, known (False: nothing was known of the user), rank, recommended, score, contact, last_active.
        action: what the user is about to do, if that is known; sampling: draw the lists; approximate: search faster,
        and miss a few; rules: who may be on a list, how different its people are, and how often one person is shown;
        clusters: the two-tower model looks at the best clusters of people and whoever was active last, instead of at
        everybody; regime: how the list is used, live without and streaming with an action by default, daily for a
        nightly list; filter_at: contacts and blocks up to this moment count, where the list is shown later than `at`.
        """
        if isinstance(users, str):
            raise CallError(f"users are named in a list: [{users!r}].")
        requests = requests_table(pl.Series(users), at, filter_at, regime, action, new_only)
        options = RecommendOptions(model, k, sampling, rules or Rules())
        return self.answer(requests, options, approximate, clusters).drop("request")

    def answer(
        self,
        requests: pl.DataFrame,
        options: RecommendOptions | None = None,
        approximate: bool = False,
        clusters: bool = False,
    ) -> pl.DataFrame:
        """A list for each row of a table with the columns user_id, at, filter_at, regime, action and list.

        See `befriend.retrieval.request_table.COLUMNS`. Columns as of `recommend`, with request, the row of the table.
        """
        maker, parts, row = self.lists(options or RecommendOptions(), approximate, clusters), [], 0
        for block in blocks(requests):
            parts.append(maker.lists(block).with_columns(pl.col("request") + row))
            row += block.height
        return pl.concat(parts)

    def lists(
        self, options: RecommendOptions | None = None, approximate: bool = False, clusters: bool = False
    ) -> ListMaker:
        """What makes the lists of `answer`, a thousand requests at a time, for those who write them as they come."""
        options = options or RecommendOptions()
        recommender = self.recommender(approximate, clusters)
        vectors = self._directions if options.rules.diversity else np.empty((self.log.num_users, 0), np.float32)
        observed, since = recommender.observed, self.models.findable
        return ListMaker(recommender, observed, since, self._attributes, vectors, options)

    def recommender(self, approximate: bool = False, clusters: bool = False) -> Recommender:
        """What ranks people, made once."""
        with self._lock:
            if (approximate, clusters) not in self._recommenders:
                learned = cluster_folder.load(self.root / layout.CLUSTERS, self.log) if clusters else None
                self._recommenders[approximate, clusters] = self.models.recommender(
                    read_boosters(self.root / layout.RANKER), approximate, learned
                )
            return self._recommenders[approximate, clusters]

    @property
    def models(self) -> Models:
        with self._lock:
            return self._models

    @cached_property
    def _models(self) -> Models:
        gone = marked(self.log.user_ids, self.marks).to_numpy()
        return Models.read(self.prepared, self.root / layout.MODELS, self.log, gone)

    @cached_property
    def _attributes(self) -> Attributes:
        return Attributes.read(self.prepared)

    @cached_property
    def digest(self) -> str:
        """Of the log and of everything that was trained on it: what lists depend on, apart from what is asked."""
        folders = (self.prepared, *(self.root / folder for folder in layout.TRAINED))
        inputs = [path for folder in folders for path in sorted(folder.glob("*")) if path.is_file()]
        digests = [f"{path.parent.name}/{path.name} {files.sha256(path)}" for path in inputs]
        digests += sorted(self.marks)
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()

    def explain(
        self,
        user: Any,
        people: Sequence[Any] | pl.Series,
        at: datetime | None = None,
        action: str | None = None,
        model: ModelName = "both",
        regime: Regime | None = None,
        filter_at: datetime | None = None,
        wording: Wording = sentences,
    ) -> list[list[str]]:
        """Sentences for each of the people, why they are recommended to a user: facts of the log and of the list.

        wording: turns a `befriend.retrieval.explain.Evidence` into sentences, in the place of templates.
        """
        requests = requests_table(pl.Series([user]), at, filter_at, regime, action)
        lists = pl.DataFrame({"request": 0, "recommended": pl.Series(people)})
        return self.reasons(requests, lists, model, wording)

    def reasons(
        self, requests: pl.DataFrame, lists: pl.DataFrame, model: ModelName = "both", wording: Wording = sentences
    ) -> list[list[str]]:
        """Sentences for each row of lists, as of `answer`, that were made for some requests."""
        explainer, maker = self._explainer, self.lists()
        who = self.log.numbers(lists["recommended"])
        found: list[list[str]] = [[] for _ in who]
        for number, rows in lists.with_row_index("row").group_by("request", maintain_order=True):
            one = requests[int(str(number[0]))]
            request, places = maker.request(one), rows["row"].to_numpy()
            people = who[places]
            moment = explainer.recommender.at(int(request.visible[0]), int(request.horizon[0])).moment
            there = np.append(moment.findable.numpy(), False)[people]
            if not there.all():
                unknown = rows["recommended"].filter(pl.Series(~there)).cast(pl.String)
                raise CallError(f"nothing is known of {', '.join(unknown)} at that moment.")
            for place, evidence in zip(places, explainer.explain(request, one[USER_ID][0], people, model), strict=True):
                found[place] = wording(evidence)
        return found

    @cached_property
    def _explainer(self) -> Explainer:
        recommender = self.recommender()
        return Explainer(recommender, Facts(recommender.observed, self._attributes, self.prepared))

    @cached_property
    def _static(self) -> torch.Tensor:
        """float32[N, D]: what the two-tower model knows of everybody, but for the moment."""
        model = self.models.two_tower.model
        with torch.no_grad():
            return model.users(torch.arange(self.log.num_users), model.users.rows())

    @cached_property
    def _directions(self) -> np.ndarray:
        """float32[N, D], of length 1."""
        return torch.nn.functional.normalize(self._static, dim=1).numpy()

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


def load(root: str | Path = ".") -> Befriend:
    """A project after `dvc repro`."""
    return Befriend(Path(root))
