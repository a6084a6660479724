"""What makes every list: of evaluation, batch jobs, the API and the command line alike.

The order of everybody for a request is fixed by the request. A model's is by score. The ranker's begins with its
candidates, the heads of the lists of models and rules, by its own score; behind them come all others in the order of
the two-tower model. How many people are shown, and which of them, only cuts and filters that order.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from befriend import kernels
from befriend.data.observed import Observed
from befriend.models.batch import Query
from befriend.retrieval.heuristics import RULES, Heuristics, HeuristicsAt
from befriend.retrieval.moment import Moment
from befriend.retrieval.ranker import SOURCES, Lists, candidates, features
from befriend.retrieval.requests import DEPTH, SOURCED, Ranked, Request, moments
from befriend.retrieval.retriever import Pairs, Retriever, View

if TYPE_CHECKING:
    import lightgbm

KEPT = 4  # moments
BEHIND = {"both": "two-tower"}  # whose order goes on behind the candidates


class Filter(Protocol):
    """Who may be shown of those who are ranked."""

    def allows(self, user: int, horizon: int) -> np.ndarray:
        """bool[N]. user: whose list it is, the number of users for somebody whom the log does not have; horizon: the
        UTC second as of which it is made."""
        ...


class WithEvents:
    """Only people who did or received something: those whom the evaluation protocol knows."""

    def __init__(self, first_seen: np.ndarray):
        """first_seen: int64[N], of the log."""
        self.first_seen = first_seen

    def allows(self, user: int, horizon: int) -> np.ndarray:
        return self.first_seen < horizon


@dataclass(frozen=True)
class Snapshot:
    """Models and rules as of a moment. Nothing of it changes, so threads may share it."""

    moment: Moment
    views: dict[str, View]
    """model -> its view"""
    rules: HeuristicsAt | None


class Recommender:
    """All models and rules on a log. Threads may share it."""

    def __init__(
        self,
        retrievers: Sequence[Retriever[Any]],
        heuristics: Heuristics | None = None,
        boosters: dict[str, lightgbm.Booster] | None = None,
        opted_out: np.ndarray | None = None,
        observed: Observed | None = None,
    ):
        """boosters: name -> what orders the candidates of `SOURCES` of that name; opted_out: bool[N], who must not
        stand on any list; observed: the log and the texts by which people are found, None: as the first model sees
        them. Rules and boosters that are not there give no lists."""
        self.retrievers = {retriever.name: retriever for retriever in retrievers}
        self.heuristics, self.boosters = heuristics, boosters or {}
        self.observed = observed or next(iter(self.retrievers.values())).observed
        self.opted_out = None if opted_out is None or not opted_out.any() else torch.from_numpy(opted_out)
        self._kept: OrderedDict[tuple[int, int], Future[Snapshot]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """Everybody who gives lists: the ranker, models, rules."""
        return (*self.boosters, *self.retrievers, *(RULES if self.heuristics else ()))

    def at(self, visible: int, horizon: int) -> Snapshot:
        """Everything as of a UTC second, before which the first `visible` events lie. The last few are kept.

        Who asks first makes it; who asks meanwhile waits for it, and for nothing else.
        """
        key = visible, horizon
        with self._lock:
            wanted = self._kept.get(key)
            made = [old for old in self._kept.values() if old.done()]
            if mine := wanted is None:
                wanted = self._kept[key] = Future()
                if len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
        if mine:
            try:
                wanted.set_result(self._snapshot(visible, horizon, made[-1].result() if made else None))
            except BaseException as error:
                with self._lock:
                    self._kept.pop(key, None)
                wanted.set_exception(error)
        return wanted.result()

    def _snapshot(self, visible: int, horizon: int, before: Snapshot | None) -> Snapshot:
        moment = Moment(self.observed, visible, horizon, self.opted_out)
        views = {
            name: retriever.at(moment, before.views[name] if before else None)
            for name, retriever in self.retrievers.items()
        }
        return Snapshot(moment, views, self.heuristics.at(moment) if self.heuristics else None)

    def rank(self, request: Request, names: Sequence[str]) -> Ranking:
        """The order of everybody for each request. names: whose, of `self.names`."""
        sources = dict.fromkeys(source for name in names for source in SOURCES.get(name, (name,)))
        sources |= dict.fromkeys(BEHIND[name] for name in names if name in BEHIND)
        asked = {name: self.retrievers[name].queries(request) for name in sources if name in self.retrievers}
        rules = [name for name in sources if name not in self.retrievers]
        ids = {name: np.full((len(request), SOURCED), -1) for name in sources}
        scores = {name: np.full((len(request), SOURCED), -np.inf, np.float32) for name in asked}
        groups = moments(request)
        for rows in groups:
            snapshot = self.at(int(request.visible[rows[0]]), int(request.horizon[rows[0]]))
            some, chosen = request.of(rows), torch.from_numpy(rows)
            excluded, user = Pairs.of(some), torch.from_numpy(some.user)
            for name, query in asked.items():
                view = snapshot.views[name]
                found = self.retrievers[name].search(view, query.of(chosen), user, SOURCED, excluded)
                ids[name][rows], scores[name][rows] = found.ids.numpy(), found.scores.numpy()
            if rules:
                assert snapshot.rules is not None
                for user_, mine in _by_user(some):
                    lists = snapshot.rules.lists(user_, [some.excluded(b) for b in mine], rules)
                    for b, found_ in zip(mine, lists, strict=True):
                        for name, listed in found_.items():
                            ids[name][rows[b]] = listed
        return Ranking(self, request, asked, Lists(ids, scores))


def _by_user(request: Request) -> list[tuple[int, np.ndarray]]:
    """Each user of a request with their rows."""
    order = np.argsort(request.user, kind="stable")
    cuts = np.flatnonzero(np.diff(request.user[order])) + 1
    return [(int(request.user[rows[0]]), rows) for rows in np.split(order, cuts)]


class Ranking:
    """The order of everybody for B requests."""

    def __init__(self, recommender: Recommender, request: Request, asked: dict[str, Query], lists: Lists):
        self.recommender, self.request, self.asked, self.lists = recommender, request, asked, lists
        self._scored: dict[str, Ranked] = {}

    def of(self, name: str) -> Ranked:
        """The first people of an order: SOURCED of a model or rule, all candidates of a ranker."""
        if name not in self.recommender.boosters:
            ids = self.lists.ids[name]
            return Ranked(ids, self.lists.scores.get(name, np.zeros(ids.shape, np.float32)))
        if name not in self._scored:
            users = candidates(self.lists, SOURCES[name])
            real = users >= 0
            score = np.full(users.shape, -np.inf, np.float32)
            score[real] = self.recommender.boosters[name].predict(
                self.features(name, users)[real], num_threads=kernels.cores()
            )
            best = np.argsort(-score, 1, kind="stable")  # candidates ascend: of equal scores the smaller number first
            self._scored[name] = Ranked(np.take_along_axis(users, best, 1), np.take_along_axis(score, best, 1))
        return self._scored[name]

    def features(self, name: str, users: np.ndarray) -> np.ndarray:
        """float32[B, K, F]: what a ranker knows of people, int64[B, K], on its requests."""
        return features(self.recommender.observed, self.request, self.lists, users, SOURCES[name])

    def head(self, name: str, k: int = DEPTH, only: Filter | None = None, requests: np.ndarray | None = None) -> Ranked:
        """The first k people whom a filter allows, as far as there are so many.

        requests: int64[R], of which of the requests; None: of all.
        """
        asked = np.arange(len(self.request)) if requests is None else requests
        first = self.of(name)
        ids, scores = first.ids[asked], first.scores[asked]
        ended = (ids < 0).any(1)
        if only is not None:
            ids, scores = self._allowed(ids, scores, asked, only)
        ids, scores = ids[:, :k].copy(), scores[:, :k].copy()
        if (missing := k - ids.shape[1]) > 0:
            ids = np.pad(ids, ((0, 0), (0, missing)), constant_values=-1)
            scores = np.pad(scores, ((0, 0), (0, missing)), constant_values=-np.inf)
        if name in BEHIND or name in self.recommender.retrievers:
            for row in np.flatnonzero((ids < 0).any(1) & (~ended | (name in BEHIND))):
                self._go_on(name, int(asked[row]), ids[row], scores[row], only)
        return Ranked(ids, scores)

    def _allowed(
        self, ids: np.ndarray, scores: np.ndarray, asked: np.ndarray, only: Filter
    ) -> tuple[np.ndarray, np.ndarray]:
        """Without those whom the filter does not allow; the others move up."""
        keep = np.zeros(ids.shape, bool)
        for row, (user, horizon) in enumerate(zip(self.request.user[asked], self.request.horizon[asked], strict=True)):
            keep[row] = only.allows(int(user), int(horizon))[ids[row]]
        keep &= ids >= 0
        order = np.argsort(~keep, 1, kind="stable")
        ids, scores = np.where(keep, ids, -1), np.where(keep, scores, np.float32(-np.inf))
        return np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)

    def _go_on(self, name: str, row: int, ids: np.ndarray, scores: np.ndarray, only: Filter | None) -> None:
        """Fills the list of one request behind those who were looked at, int64[k] and float32[k], in place."""
        request, model = self.request, BEHIND.get(name, name)
        user, horizon = int(request.user[row]), int(request.horizon[row])
        allowed = None if only is None else only.allows(user, horizon)
        hidden, begin, lift = request.excluded(row), 0, np.float32(0)
        if name in BEHIND:
            first, listed = self.of(name), self.lists.ids[model][row]
            ahead = first.ids[row][first.ids[row] >= 0]
            begin, hidden = int((ids >= 0).sum()), np.concatenate([hidden, ahead])
            # Behind the candidates scores go on falling as those of the model do.
            if len(ahead) and listed[0] >= 0:
                lift = first.scores[row][len(ahead) - 1] - self.lists.scores[model][row, 0]
            behind = (listed >= 0) & ~np.isin(listed, ahead)
            if allowed is not None:
                behind &= allowed[listed]
            place = np.flatnonzero(behind)[: len(ids) - begin]
            ids[begin : begin + len(place)] = listed[place]
            scores[begin : begin + len(place)] = self.lists.scores[model][row, place] + lift
            if ids[-1] >= 0 or listed[-1] < 0:
                return
        snapshot = self.recommender.at(int(request.visible[row]), horizon)
        found = self.recommender.retrievers[model].search(
            snapshot.views[model],
            self.asked[model].of(torch.tensor([row])),
            torch.from_numpy(request.user[row : row + 1]),
            len(ids) - begin,
            Pairs(torch.zeros(len(hidden), dtype=torch.long), torch.from_numpy(hidden)),
            None if allowed is None else torch.from_numpy(allowed),
        )
        ids[begin:], scores[begin:] = found.ids[0].numpy(), found.scores[0].numpy() + lift
