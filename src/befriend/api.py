"""befriend from Python: load a project, recommend users, explain why, export vectors.

import befriend

people = befriend.load("path/to/project")
people.recommend([21995, 14194], k=5, new_only=True)
people.explain(21995, [14194])
people.vectors()
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from befriend import artifacts, files, layout
from befriend.data.attributes import Attributes
from befriend.data.erasure import is_erased, read_erased, without_erased
from befriend.data.event_log import EventLog
from befriend.errors import CallError
from befriend.models import trained_clusters as cluster_folder
from befriend.recommendation.evidence import EvidenceFinder
from befriend.recommendation.explain import Explainer, Wording, sentences
from befriend.recommendation.list_maker import ListMaker, blocks
from befriend.recommendation.list_rules import Rules
from befriend.recommendation.recommend_options import ModelName, RecommendOptions
from befriend.recommendation.request_table import USER_ID
from befriend.recommendation.sampling import Sampling
from befriend.retrieval.loaded_models import LoadedModels
from befriend.retrieval.ranker import read_boosters
from befriend.retrieval.recommender import Recommender

__all__ = ["Befriend", "ModelName", "RecommendOptions", "Rules", "Sampling", "load"]


class Befriend:
    """The log and the trained models of a project. Threads may share it."""

    def __init__(self, root: Path, erased: frozenset[str] = frozenset(), prepared: Path | None = None):
        """erased: erasure digests of users to leave out, in addition to those that the project has recorded; prepared:
        a later log to use instead of the project's own, with its internal ids (`befriend.data.renumber`)."""
        self.root, self.prepared = root, prepared or root / layout.PREPARED
        for folder in layout.TRAINED:
            if not (root / folder).exists():
                files.recover(root / folder)  # after a stage that was killed while it replaced the folder
        self.erased = read_erased(root / layout.PREPARED) | erased
        self.log = without_erased(EventLog.read(self.prepared), self.erased)
        self._lock = threading.RLock()
        self._recommenders: dict[tuple[bool, bool], Recommender] = {}

    def recommend(
        self, users: Sequence[Any] | pl.Series, options: RecommendOptions | None = None, **fields: Any
    ) -> pl.DataFrame:
        """A list for each user; users are given by external ids.

        Give options, or fields of `RecommendOptions` by name: `recommend([21995], k=5, new_only=True)`. With both, the
        fields replace those of the options. CallError for a field that does not exist.

        Columns: user, known (False: nothing was known of the user), rank, recommended, score, contact, last_active.
        """
        if isinstance(users, str):
            raise CallError(f"users are named in a list: [{users!r}].")
        options = (options or RecommendOptions()).replaced(**fields)
        return self.answer(options.requests(pl.Series(users)), options).drop("request")

    def answer(self, requests: pl.DataFrame, options: RecommendOptions | None = None) -> pl.DataFrame:
        """A list for each row of a table of requests.

        requests: columns user_id, at, filter_at, regime, action and list, see
        `befriend.recommendation.request_table.COLUMNS`; they take the place of these options. Returns the columns of
        `recommend`, and request, the row of the table.
        """
        maker, tables, row = self.lists(options), [], 0
        for block in blocks(requests):
            tables.append(maker.lists(block).with_columns(pl.col("request") + row))
            row += block.height
        return pl.concat(tables)

    def lists(self, options: RecommendOptions | None = None) -> ListMaker:
        """What makes the lists of `answer`, up to a thousand requests at a time, for callers that write them block by
        block."""
        options = options or RecommendOptions()
        recommender = self.recommender(options)
        vectors = self._unit_vectors if options.rules.diversity else np.empty((self.log.num_users, 0), np.float32)
        feature_view, eligible_since = recommender.feature_view, self.models.eligible_since
        return ListMaker(recommender, feature_view, eligible_since, self._attributes, vectors, options)

    def recommender(self, options: RecommendOptions | None = None) -> Recommender:
        """The recommender, made once for each kind of search: `approximate` and `clusters` of the options."""
        options = options or RecommendOptions()
        search = options.approximate, options.clusters
        with self._lock:
            if search not in self._recommenders:
                clusters = (
                    cluster_folder.load_clusters(self.root / layout.CLUSTERS, self.log) if options.clusters else None
                )
                self._recommenders[search] = self.models.recommender(
                    read_boosters(self.root / layout.RANKER), options.approximate, clusters
                )
            return self._recommenders[search]

    @property
    def models(self) -> LoadedModels:
        with self._lock:
            return self._models

    @cached_property
    def _models(self) -> LoadedModels:
        is_hidden = is_erased(self.log.user_ids, self.erased).to_numpy()
        return LoadedModels.load(self.prepared, self.root / layout.MODELS, self.log, is_hidden)

    @cached_property
    def _attributes(self) -> Attributes:
        return Attributes.read(self.prepared)

    @cached_property
    def digest(self) -> str:
        """Digest of the log and of everything trained on it: with requests and options, all that lists depend on."""
        models = artifacts.files_in(*(self.root / folder for folder in layout.TRAINED))
        trained = artifacts.fingerprint(self.root, models)
        return artifacts.fingerprint(self.prepared, artifacts.files_in(self.prepared), trained, *sorted(self.erased))

    def explain(
        self,
        user: Any,
        people: Sequence[Any] | pl.Series,
        options: RecommendOptions | None = None,
        wording: Wording = sentences,
        **fields: Any,
    ) -> list[list[str]]:
        """Sentences for each of the people, why they are recommended to a user: facts of the log and of the list.

        user, people: external ids. options, fields: those of the list, given as to `recommend`; only the model and what
        describes the request (at, filter_at, regime, action, new_only) count. wording: turns a
        `befriend.recommendation.explain.Evidence` into sentences, instead of the templates.
        """
        options = (options or RecommendOptions()).replaced(**fields)
        lists = pl.DataFrame({"request": 0, "recommended": pl.Series(people)})
        return self.reasons(options.requests(pl.Series([user])), lists, options, wording)

    def reasons(
        self,
        requests: pl.DataFrame,
        lists: pl.DataFrame,
        options: RecommendOptions | None = None,
        wording: Wording = sentences,
    ) -> list[list[str]]:
        """Sentences for each row of lists, which `answer` made for these requests with these options.

        Of the options only the model counts: reasons are always measured with exact search.
        """
        options = options or RecommendOptions()
        explainer, maker = self._explainer, self.lists()
        candidate_ids = self.log.internal_ids(lists["recommended"])
        reasons: list[list[str]] = [[] for _ in candidate_ids]
        for number, table in lists.with_row_index("row").group_by("request", maintain_order=True):
            request_row = requests[int(str(number[0]))]
            request, rows = maker.request(request_row), table["row"].to_numpy()
            candidates = candidate_ids[rows]
            snapshot = explainer.recommender.state_at(int(request.num_visible[0]), int(request.cutoff[0])).snapshot
            is_eligible = np.append(snapshot.eligible.numpy(), False)[candidates]
            if not is_eligible.all():
                unknown = table["recommended"].filter(pl.Series(~is_eligible)).cast(pl.String)
                raise CallError(f"nothing is known of {', '.join(unknown)} at that time.")
            evidence = explainer.explain(request, request_row[USER_ID][0], candidates, options.model)
            for row, evidence_of_row in zip(rows, evidence, strict=True):
                reasons[row] = wording(evidence_of_row)
        return reasons

    @cached_property
    def _explainer(self) -> Explainer:
        recommender = self.recommender()
        return Explainer(recommender, EvidenceFinder(recommender.feature_view, self._attributes, self.prepared))

    @cached_property
    def _static_vectors(self) -> torch.Tensor:
        """float32[N, D]: the two-tower model's static vectors of all users."""
        model = self.models.two_tower.model
        with torch.no_grad():
            return model.users(torch.arange(self.log.num_users), model.users.rows())

    @cached_property
    def _unit_vectors(self) -> np.ndarray:
        """float32[N, D]: the static vectors, scaled to length 1."""
        return torch.nn.functional.normalize(self._static_vectors, dim=1).numpy()

    def vectors(self) -> pl.DataFrame:
        """All users of the log: user_id, vector (the two-tower model's static vector), stu (their tokens)."""
        vectors = self._static_vectors
        table = pl.DataFrame(
            {
                "user_id": self.log.user_ids,
                "vector": pl.Series(vectors.numpy(), dtype=pl.Array(pl.Float32, vectors.shape[1])),
                "stu": pl.Series(self.models.stus.numpy(), dtype=pl.Array(pl.Int64, self.models.stus.shape[1])),
            }
        )
        return table.filter(~is_erased(self.log.user_ids, self.erased))


def load(root: str | Path = ".") -> Befriend:
    """Loads a project after `dvc repro`."""
    return Befriend(Path(root))
