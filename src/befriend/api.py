"""The Python API: load a project, recommend users, explain recommendations, export vectors.

    import befriend

    project = befriend.load("path/to/project")
    project.recommend([21995, 14194], k=5, new_only=True)
    project.explain(21995, [14194])
    project.vectors()

Users are given and returned by external ids, their ids in the log. Internal ids are the numbers 0 to N - 1.
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
from befriend.data.erasure import drop_erased_users, is_erased, read_erasure_digests
from befriend.data.event_log import EventLog
from befriend.errors import CallError
from befriend.models import trained_clusters as cluster_folder
from befriend.recommendation.explain import Explainer, Wording, sentences
from befriend.recommendation.fact_finder import FactFinder
from befriend.recommendation.list_constraints import ListConstraints
from befriend.recommendation.list_maker import ListMaker, split_into_blocks
from befriend.recommendation.recommend_options import ModelName, RecommendOptions
from befriend.recommendation.request_table import USER_ID
from befriend.recommendation.sampling import Sampling
from befriend.retrieval.loaded_models import LoadedModels
from befriend.retrieval.ranker import Rankers
from befriend.retrieval.recommender import Recommender

__all__ = ["Befriend", "ListConstraints", "ModelName", "RecommendOptions", "Sampling", "load"]


class Befriend:
    """The event log and the trained models of a project. Threads may share it."""

    def __init__(self, root: Path, erased: frozenset[str] = frozenset(), prepared: Path | None = None):
        """root: the folder of the project; erased: digests of users to leave out because they asked to be deleted
        (`befriend.data.erasure`), in addition to those that the project has recorded; prepared: folder of a later log
        to use instead of the project's own, with the internal ids of the project (`befriend.data.renumber`)."""
        self.root, self.prepared = root, prepared or root / layout.PREPARED
        for folder in layout.MODEL_FOLDERS:
            if not (root / folder).exists():
                files.recover(root / folder)  # after a stage that was killed while it replaced the folder
        self.erased = read_erasure_digests(root / layout.PREPARED) | erased
        self.log = drop_erased_users(EventLog.read(self.prepared), self.erased)
        self._lock = threading.RLock()
        self._recommenders: dict[tuple[bool, bool], Recommender] = {}

    def recommend(
        self, users: Sequence[Any] | pl.Series, options: RecommendOptions | None = None, **fields: Any
    ) -> pl.DataFrame:
        """Makes a list for each user, given by external ids.

        Give options, or fields of `RecommendOptions` by name: `recommend([21995], k=5, new_only=True)`. With both, the
        fields replace those of the options. Raises CallError for a field that does not exist.

        Columns of the result: user, known, rank, recommended, score, contact and last_active, see
        `befriend.recommendation.list_maker.ListMaker.make_lists`.
        """
        if isinstance(users, str):
            raise CallError(f"users are given as a list: [{users!r}].")
        options = (options or RecommendOptions()).replaced(**fields)
        return self.recommend_requests(options.requests(pl.Series(users)), options).drop("request")

    def recommend_requests(self, requests: pl.DataFrame, options: RecommendOptions | None = None) -> pl.DataFrame:
        """Makes a list for each row of a table of requests.

        requests: columns user_id, at, filter_at, regime, action and list, see
        `befriend.recommendation.request_table.COLUMNS`. They take the place of the options at, filter_at, regime,
        action and new_only, which have no effect. Columns of the result: those of `recommend`, and request, the row in
        the table of requests.
        """
        maker, tables, row = self.list_maker(options), [], 0
        for block in split_into_blocks(requests):
            tables.append(maker.make_lists(block).with_columns(pl.col("request") + row))
            row += block.height
        return pl.concat(tables)

    def list_maker(self, options: RecommendOptions | None = None) -> ListMaker:
        """The `ListMaker` of `recommend_requests`, for callers that make and write lists block by block."""
        options = options or RecommendOptions()
        recommender = self.recommender(options)
        vectors = self._unit_vectors if options.constraints.diversity else np.empty((self.log.num_users, 0), np.float32)
        feature_view, eligible_since = recommender.feature_view, self.models.eligible_since
        return ListMaker(recommender, feature_view, eligible_since, self._attributes, vectors, options)

    def recommender(self, options: RecommendOptions | None = None) -> Recommender:
        """The recommender, loaded once for each kind of search: options `approximate` and `clusters`."""
        options = options or RecommendOptions()
        search = options.approximate, options.clusters
        with self._lock:
            if search not in self._recommenders:
                clusters = (
                    cluster_folder.load_clusters(self.root / layout.CLUSTERS, self.log) if options.clusters else None
                )
                self._recommenders[search] = self.models.recommender(
                    Rankers.read(self.root / layout.RANKER), options.approximate, clusters
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
        """Digest of all that lists depend on, apart from requests and options: log, erased users and trained models."""
        models = artifacts.files_in(*(self.root / folder for folder in layout.MODEL_FOLDERS))
        trained = artifacts.fingerprint(self.root, models)
        return artifacts.fingerprint(self.prepared, artifacts.files_in(self.prepared), trained, *sorted(self.erased))

    def explain(
        self,
        user: Any,
        candidates: Sequence[Any] | pl.Series,
        options: RecommendOptions | None = None,
        wording: Wording = sentences,
        **fields: Any,
    ) -> list[list[str]]:
        """Explains why each candidate is recommended to a user, with sentences that state facts of the log.

        user, candidates: ids in the log. options, fields: those of the list, as in `recommend`; only the model and what
        describes the request (at, filter_at, regime, action, new_only) have an effect. wording: turns a
        `befriend.recommendation.explain.Explanation` into sentences, instead of the templates. Raises CallError for a
        candidate who has no event or text before the cutoff, or who opted out.
        """
        options = (options or RecommendOptions()).replaced(**fields)
        lists = pl.DataFrame({"request": 0, "recommended": pl.Series(candidates)})
        return self.explain_lists(options.requests(pl.Series([user])), lists, options, wording)

    def explain_lists(
        self,
        requests: pl.DataFrame,
        lists: pl.DataFrame,
        options: RecommendOptions | None = None,
        wording: Wording = sentences,
    ) -> list[list[str]]:
        """Sentences for each row of lists that `recommend_requests` made for these requests with these options.

        lists: columns request and recommended. Of the options, only the model has an effect: explanations are always
        computed with exact search. Raises CallError as `explain` does.
        """
        options = options or RecommendOptions()
        explainer, maker = self._explainer, self.list_maker()
        candidate_ids = self.log.internal_ids(lists["recommended"])
        explanations: list[list[str]] = [[] for _ in candidate_ids]
        for key, table in lists.with_row_index("row").group_by("request", maintain_order=True):
            request_row = requests[int(str(key[0]))]
            request, rows = maker.request_batch(request_row), table["row"].to_numpy()
            candidates = candidate_ids[rows]
            snapshot = explainer.recommender.state_at(int(request.num_visible[0]), int(request.cutoff[0])).snapshot
            is_eligible = np.append(snapshot.eligible.numpy(), False)[candidates]
            if not is_eligible.all():
                unknown = table["recommended"].filter(pl.Series(~is_eligible)).cast(pl.String)
                raise CallError(f"nothing is known of {', '.join(unknown)} at that time.")
            list_explanations = explainer.explain(request, request_row[USER_ID][0], candidates, options.model)
            for row, explanation in zip(rows, list_explanations, strict=True):
                explanations[row] = wording(explanation)
        return explanations

    @cached_property
    def _explainer(self) -> Explainer:
        recommender = self.recommender()
        return Explainer(recommender, FactFinder(recommender.feature_view, self._attributes, self.prepared))

    @cached_property
    def _static_vectors(self) -> torch.Tensor:
        """float32[N, D]: the static vectors of all users by the two-tower model, from embedding and attributes."""
        model = self.models.two_tower.model
        with torch.no_grad():
            return model.users(torch.arange(self.log.num_users), model.users.lookup())

    @cached_property
    def _unit_vectors(self) -> np.ndarray:
        """float32[N, D]: the static vectors, scaled to length 1."""
        return torch.nn.functional.normalize(self._static_vectors, dim=1).numpy()

    def vectors(self) -> pl.DataFrame:
        """A table of all users of the log who are not erased, with the columns user_id, vector and stu.

        vector: the user's static vector in the two-tower model, which no event changes after training; stu: the tokens
        of the user's semantic ID (social tokenized user id).
        """
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
    """Loads the project in a folder where `dvc repro` has run, or a promoted run such as models/champion."""
    return Befriend(Path(root).resolve())  # a promotion changes what models/champion links to
