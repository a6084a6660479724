"""The recommender: retrieval, then ranking. Evaluation, batch jobs, the API and the command line all use it.

A request is one list to make, as of a *cutoff*, the UTC second before which events and texts count. Users are
*eligible* if they may be recommended as of the cutoff. There are three kinds of rankings:

- A model ranks all eligible users by its score.
- A heuristic ranks them by a formula without learned parameters. Its list has CANDIDATE_DEPTH users at most, and no
  cold-start user, of whom only texts are known.
- A ranker (second stage) orders candidates: the first users on the lists of its sources, which are models and
  heuristics. Where one of these was better on validation, its list is that of the ranker `both`. After the candidates
  of `both`, all other eligible users follow in the order of the two-tower model.

On a given log, a ranking depends on its own request, and on no other request. The length of a list, and constraints on
who is shown, only cut and filter it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from befriend.data.regimes import LIST_KINDS, REGIMES
from befriend.features.feature_view import FeatureView
from befriend.features.snapshot import FeatureSnapshot
from befriend.models.model_inputs import Query
from befriend.retrieval.heuristics import HEURISTICS, Heuristics, HeuristicsSnapshot
from befriend.retrieval.ranker import (
    SOURCES,
    CandidateLists,
    Rankers,
    merge_candidates,
    ranker_features,
)
from befriend.retrieval.requests import CANDIDATE_DEPTH, LIST_DEPTH, RankedLists, RequestBatch, group_by_cutoff
from befriend.retrieval.retriever import ExcludedPairs, ModelView, Retriever

MAX_CACHED_STATES = 4  # cutoffs for which vectors and features are kept in memory
FALLBACK_MODEL = {"both": "two-tower"}  # ranker -> the model that ranks all users after the ranker's candidates


class ListFilter(Protocol):
    """Decides which of the ranked users may be shown."""

    def allowed_mask(self, user: int, cutoff: int) -> np.ndarray:
        """bool[N]: the users who may be shown.

        user: the requesting user's internal id, or N, the number of users of the log, for a user who is not in it;
        cutoff: UTC second.
        """
        ...


class HasEventsFilter:
    """Allows only users with an event before the cutoff: no cold-start users, who have texts alone."""

    def __init__(self, first_seen: np.ndarray):
        """first_seen: int64[N], UTC second of each user's first event, as in `EventLog`."""
        self.first_seen = first_seen

    def allowed_mask(self, user: int, cutoff: int) -> np.ndarray:
        return self.first_seen < cutoff


@dataclass(frozen=True)
class RecommenderState:
    """What models and heuristics need for lists as of one cutoff. Threads may share it: its results never change."""

    snapshot: FeatureSnapshot
    """eligible users, and the features of all users"""
    views: dict[str, ModelView]
    """name of a model -> the vectors of all eligible users"""
    heuristics: HeuristicsSnapshot | None
    """None for a recommender without heuristics"""


class Recommender:
    """All models, heuristics and rankers on an event log. Threads may share it."""

    def __init__(
        self,
        retrievers: Sequence[Retriever[Any]],
        heuristics: Heuristics | None = None,
        rankers: Rankers | None = None,
        opted_out: np.ndarray | None = None,
        feature_view: FeatureView | None = None,
    ):
        """retrievers: one for each model; heuristics, rankers: None for a recommender without; opted_out: bool[N],
        users who must not be listed; feature_view: histories, features and texts that decide who is eligible and that
        rankers read, by default those of the first retriever."""
        self.retrievers = {retriever.name: retriever for retriever in retrievers}
        self.heuristics, self.rankers = heuristics, rankers or Rankers({}, {})
        self.feature_view = feature_view or next(iter(self.retrievers.values())).feature_view
        self.opted_out = None if opted_out is None or not opted_out.any() else torch.from_numpy(opted_out)
        self._states: OrderedDict[tuple[int, int], Future[RecommenderState]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all rankers, models and heuristics."""
        return (*self.rankers.boosters, *self.retrievers, *(HEURISTICS if self.heuristics else ()))

    def state_at(self, num_visible: int, cutoff: int) -> RecommenderState:
        """The state as of a cutoff, with `num_visible` events before it. The last MAX_CACHED_STATES used are cached.

        The first thread that needs a state computes it. Threads that need the same state wait for it; threads that need
        another one do not.
        """
        key = num_visible, cutoff
        with self._lock:
            future = self._states.get(key)
            finished = [old for old in self._states.values() if old.done()]
            if is_first := future is None:
                future = self._states[key] = Future()
                if len(self._states) > MAX_CACHED_STATES:
                    self._states.popitem(last=False)
            self._states.move_to_end(key)
        if is_first:
            try:
                future.set_result(self._make_state(num_visible, cutoff, finished[-1].result() if finished else None))
            except BaseException as error:
                with self._lock:
                    self._states.pop(key, None)
                future.set_exception(error)
        return future.result()

    def _make_state(self, num_visible: int, cutoff: int, previous: RecommenderState | None) -> RecommenderState:
        """Computes a state. previous: that of any other cutoff, from which unchanged vectors are copied."""
        snapshot = FeatureSnapshot(self.feature_view, num_visible, cutoff, self.opted_out)
        views = {
            name: retriever.view_at(snapshot, previous.views[name] if previous else None)
            for name, retriever in self.retrievers.items()
        }
        return RecommenderState(snapshot, views, self.heuristics.state_at(snapshot) if self.heuristics else None)

    def rank(self, requests: RequestBatch, names: Sequence[str]) -> Ranking:
        """The rankings for each request by the models, heuristics and rankers with these names.

        Searches for the CANDIDATE_DEPTH best users of each model and heuristic that they need. `Ranking.top` searches
        again where a longer list is needed.
        """
        sources = dict.fromkeys(source for name in names for source in SOURCES.get(name, (name,)))
        sources |= dict.fromkeys(FALLBACK_MODEL[name] for name in names if name in FALLBACK_MODEL)
        queries = {name: self.retrievers[name].queries(requests) for name in sources if name in self.retrievers}
        heuristics = [name for name in sources if name not in self.retrievers]
        ids = {name: np.full((len(requests), CANDIDATE_DEPTH), -1) for name in sources}
        scores = {name: np.full((len(requests), CANDIDATE_DEPTH), -np.inf, np.float32) for name in queries}
        groups = group_by_cutoff(requests)
        for rows in groups:
            state = self.state_at(int(requests.num_visible[rows[0]]), int(requests.cutoff[rows[0]]))
            group, row_tensor = requests.select(rows), torch.from_numpy(rows)
            excluded, user = ExcludedPairs.of(group), torch.from_numpy(group.user)
            for name, query in queries.items():
                view = state.views[name]
                result = self.retrievers[name].search(view, query.select(row_tensor), user, CANDIDATE_DEPTH, excluded)
                ids[name][rows], scores[name][rows] = result.ids.numpy(), result.scores.numpy()
            if heuristics:
                assert state.heuristics is not None
                for user_id, user_rows in _by_user(group):
                    lists_of_rows = state.heuristics.lists(user_id, [group.excluded(b) for b in user_rows], heuristics)
                    for b, lists in zip(user_rows, lists_of_rows, strict=True):
                        for name, users in lists.items():
                            ids[name][rows[b]] = users
        return Ranking(self, requests, queries, CandidateLists(ids, scores))


def _by_user(requests: RequestBatch) -> list[tuple[int, np.ndarray]]:
    """The distinct requesting users, each with the rows of their requests, int64."""
    order = np.argsort(requests.user, kind="stable")
    cuts = np.flatnonzero(np.diff(requests.user[order])) + 1
    return [(int(requests.user[rows[0]]), rows) for rows in np.split(order, cuts)]


class Ranking:
    """The rankings for B requests by models, heuristics and rankers. Users are internal ids."""

    def __init__(
        self, recommender: Recommender, requests: RequestBatch, queries: dict[str, Query], lists: CandidateLists
    ):
        """queries: name of a model -> query vectors of the requests; lists: the CANDIDATE_DEPTH best users by each
        model and heuristic."""
        self.recommender, self.requests, self.queries, self.lists = recommender, requests, queries, lists
        self._ranked: dict[str, RankedLists] = {}

    def head(self, name: str) -> RankedLists:
        """The head of a ranking: the CANDIDATE_DEPTH best users of a model or heuristic, all candidates of a ranker.

        Heuristics have no scores: theirs are 0.
        """
        boosters = self.recommender.rankers.boosters
        if name not in boosters:
            ids = self.lists.ids[name]
            return RankedLists(ids, self.lists.scores.get(name, np.zeros(ids.shape, np.float32)))
        if name not in self._ranked:
            users = merge_candidates(self.lists, SOURCES[name])
            is_candidate = users >= 0
            score = np.full(users.shape, -np.inf, np.float32)
            score[is_candidate] = boosters[name].predict(self.features(name, users)[is_candidate], num_threads=1)
            best = np.argsort(-score, 1, kind="stable")  # ids ascend: ties go to the smaller internal id
            ranked = RankedLists(np.take_along_axis(users, best, 1), np.take_along_axis(score, best, 1))
            self._ranked[name] = self._with_served_sources(ranked) if name in FALLBACK_MODEL else ranked
        return self._ranked[name]

    def served_source(self, row: int) -> str | None:
        """The source whose list is served as that of `both` for the request in `row`; None: it is the ranker's."""
        kind = LIST_KINDS[int(self.requests.excludes_contacts[row])]
        regime = REGIMES[int(self.requests.regime[row])]
        return self.recommender.rankers.served_sources.get(kind, {}).get(regime)

    def _with_served_sources(self, ranked: RankedLists) -> RankedLists:
        """The lists of `both`: those of a source where these were better on validation, otherwise the ranker's.

        A heuristic has no scores: its users get 0, -1, -2, ... from the first on.
        """
        source_by_row = [self.served_source(row) for row in range(len(self.requests))]
        if not any(source_by_row):
            return ranked
        width = max(ranked.ids.shape[1], CANDIDATE_DEPTH)
        missing = ((0, 0), (0, width - ranked.ids.shape[1]))
        ids = np.pad(ranked.ids, missing, constant_values=-1)
        scores = np.pad(ranked.scores, missing, constant_values=-np.inf)
        for row, source in enumerate(source_by_row):
            if source is not None:
                ids[row], scores[row] = -1, -np.inf
                head = self.lists.ids[source][row]
                score = self.lists.scores[source][row] if source in self.lists.scores else -np.arange(len(head))
                ids[row, : len(head)] = head
                scores[row, : len(head)] = np.where(head >= 0, score, -np.inf)
        return RankedLists(ids, scores)

    def features(self, name: str, users: np.ndarray) -> np.ndarray:
        """float32[B, K, D]: the features from which ranker `name` scores users, int64[B, K], see `ranker_features`."""
        return ranker_features(self.recommender.feature_view, self.requests, self.lists, users, SOURCES[name])

    def top(
        self, name: str, k: int = LIST_DEPTH, list_filter: ListFilter | None = None, rows: np.ndarray | None = None
    ) -> RankedLists:
        """The first k users of a ranking that `list_filter` allows; ids are padded with -1 if there are fewer.

        rows: int64[R], the requests whose lists to return, by default all.

        If fewer than k users of the head are allowed, a model searches for the k best among all allowed users. The
        ranker `both` appends all other users, in the order of the two-tower model. Lists of heuristics and of other
        rankers end after their head. Example for `both` and k = 4, where users 7 and 3 are the candidates:

            ranker           7: 2.0   3: 0.5
            two-tower        3: 8.0   9: 7.5   7: 7.0   5: 6.0
            list             7: 2.0   3: 0.5   9: 0.0   5: -1.5

        Users 9 and 5 keep the two-tower model's order. Their scores are shifted by 0.5 - 8.0, which moves that model's
        best score to the score of the last candidate, so that scores do not rise after the candidates.
        """
        rows = np.arange(len(self.requests)) if rows is None else rows
        head = self.head(name)
        ids, scores = head.ids[rows], head.scores[rows]
        is_exhausted = (ids < 0).any(1)
        if list_filter is not None:
            ids, scores = self._filter(ids, scores, rows, list_filter)
        ids, scores = ids[:, :k].copy(), scores[:, :k].copy()
        if (missing := k - ids.shape[1]) > 0:
            ids = np.pad(ids, ((0, 0), (0, missing)), constant_values=-1)
            scores = np.pad(scores, ((0, 0), (0, missing)), constant_values=-np.inf)
        if name in FALLBACK_MODEL or name in self.recommender.retrievers:
            for i in np.flatnonzero((ids < 0).any(1) & (~is_exhausted | (name in FALLBACK_MODEL))):
                self._complete_list(name, int(rows[i]), ids[i], scores[i], list_filter)
        return RankedLists(ids, scores)

    def _filter(
        self, ids: np.ndarray, scores: np.ndarray, rows: np.ndarray, list_filter: ListFilter
    ) -> tuple[np.ndarray, np.ndarray]:
        """Drops the users whom the filter does not allow. Those behind them move up, and the end is padded.

        ids, scores: [R, K], the lists of the requests in `rows`, int64[R].
        """
        is_allowed = np.zeros(ids.shape, bool)
        for i, (user, cutoff) in enumerate(zip(self.requests.user[rows], self.requests.cutoff[rows], strict=True)):
            is_allowed[i] = list_filter.allowed_mask(int(user), int(cutoff))[ids[i]]
        is_allowed &= ids >= 0
        order = np.argsort(~is_allowed, 1, kind="stable")
        ids, scores = np.where(is_allowed, ids, -1), np.where(is_allowed, scores, np.float32(-np.inf))
        return np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)

    def _complete_list(
        self, name: str, row: int, ids: np.ndarray, scores: np.ndarray, list_filter: ListFilter | None
    ) -> None:
        """Completes, in place, the list of the request in `row`, whose head has fewer than k allowed users; see `top`.

        ids: int64[k], scores: float32[k]: the allowed users of the head, then padding. The list of a model is searched
        again as a whole; a ranker's list is continued with its fallback model.
        """
        requests, model = self.requests, FALLBACK_MODEL.get(name, name)
        user, cutoff = int(requests.user[row]), int(requests.cutoff[row])
        allowed = None if list_filter is None else list_filter.allowed_mask(user, cutoff)
        excluded, start, shift = requests.excluded(row), 0, np.float32(0)
        if name in FALLBACK_MODEL:
            head, model_ids = self.head(name), self.lists.ids[model][row]
            ranked = head.ids[row][head.ids[row] >= 0]
            start, excluded = int((ids >= 0).sum()), np.concatenate([excluded, ranked])
            # Shift the scores of the fallback model: its best score becomes that of the last candidate.
            if len(ranked) and model_ids[0] >= 0:
                shift = head.scores[row][len(ranked) - 1] - self.lists.scores[model][row, 0]
            is_next = (model_ids >= 0) & ~np.isin(model_ids, ranked)
            if allowed is not None:
                is_next &= allowed[model_ids]
            column = np.flatnonzero(is_next)[: len(ids) - start]
            ids[start : start + len(column)] = model_ids[column]
            scores[start : start + len(column)] = self.lists.scores[model][row, column] + shift
            if ids[-1] >= 0 or model_ids[-1] < 0:  # the list is full, or the model has no further users
                return
        state = self.recommender.state_at(int(requests.num_visible[row]), cutoff)
        result = self.recommender.retrievers[model].search(
            state.views[model],
            self.queries[model].select(torch.tensor([row])),
            torch.from_numpy(requests.user[row : row + 1]),
            len(ids) - start,
            ExcludedPairs(torch.zeros(len(excluded), dtype=torch.long), torch.from_numpy(excluded)),
            None if allowed is None else torch.from_numpy(allowed),
        )
        ids[start:], scores[start:] = result.ids[0].numpy(), result.scores[0].numpy() + shift
