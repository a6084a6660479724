"""The baselines every model must beat: simple rules over what is visible, computed exactly at every moment.

Three kinds. A *global* rule ranks everyone alike (popularity, who was active last). A *contact* rule puts
one's own contacts first, by one of their features, and everyone else behind by a global rule. A *graph* rule
scores the neighbourhood of a user in the graph of contacts. Ties go to the more recently active, then to the
smaller id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from befriend.data.activity import DAY
from befriend.data.histories import Histories
from befriend.data.log import EventLog
from befriend.evaluation.protocol import Request

NEVER = -1  # the second of something that has not happened
HALF_LIVES = {
    "1h": 3600,
    "6h": 6 * 3600,
    "day": DAY,
    "3d": 3 * DAY,
    "week": 7 * DAY,
    "month": 30 * DAY,
    "quarter": 91 * DAY,
    "year": 365 * DAY,
}
SHOWN_HALF_LIVES = ("6h", "week", "quarter")
# Events received fade as age ** -0.8, kept up to date as a sum of exponentials. The exponent and the half-lives
# that stand alone were chosen on validation.
ATTENTION_DECAY = 0.8


class Baselines:
    """A Ranker of all baselines at once, for one regime: requests come in time order, as the protocol makes them."""

    def __init__(self, log: EventLog, histories: Histories):
        self.past = Past(log)
        self.own = Contacts(log, histories)
        self.graph = ContactGraph(log)
        self.hidden = np.zeros(log.num_users, bool)

    def rank(self, request: Request) -> dict[str, np.ndarray]:
        lists: dict[str, np.ndarray] = {}
        asked: tuple[int, int, int] | None = None
        for b in range(len(request)):
            user, visible, horizon = int(request.user[b]), int(request.visible[b]), int(request.horizon[b])
            if (user, visible, horizon) != asked:  # an event's two lists share their scores
                asked = user, visible, horizon
                self.past.advance(visible, horizon)
                self.graph.advance(visible)
                scored = Scored(self.own.features(user, visible, horizon), self.graph.scores(user))
            excluded = request.excluded(b)
            self.hidden[user] = self.hidden[excluded] = True
            for name, head in self._heads(scored, request.k, len(excluded) + 1):
                if name not in lists:
                    lists[name] = np.full((len(request), request.k), -1, np.int32)
                chosen = head[~self.hidden[head]][: request.k]
                lists[name][b, : len(chosen)] = chosen
            self.hidden[user] = self.hidden[excluded] = False
        return lists

    def _heads(self, scored: Scored, k: int, more: int) -> Iterator[tuple[str, np.ndarray]]:
        """Each baseline's first users, enough of them that k are left when `more` are taken out."""
        n = k + more
        past, own = self.past, scored.own
        for name in past.rules:
            yield name, past.best(name, n)
        for name, feature, behind in CONTACT_RULES:
            users, score = getattr(own, feature)
            if feature == "frequency":  # many contacts have equal counts: of those, the more recently active
                score = score + 1e-6 * past.factor("fresh")[users]
            yield name, past.best_of(users, score, past.best(behind, n + len(users)), n)
        for name, score, factor in GRAPH_RULES:
            users, value = getattr(scored.graph, score)
            if factor:
                value = value * past.factor(factor)[users]
                users, value = users[value > 0], value[value > 0]
            yield name, past.best_of(users, value, past.best("last-active", n + len(users)), n)


# name, feature of one's contacts, rule for everyone else
CONTACT_RULES = (
    ("frequency", "frequency", "last-active"),
    ("recency", "recency", "last-active"),
    ("recency-then-last-received", "recency", "last-received"),
    ("base-level-then-attention", "base_level", "attention"),
    ("base-level-then-decayed-quarter", "base_level", "decayed-in-degree-quarter"),
)
# name, score, what it is multiplied with
GRAPH_RULES = (
    ("adamic-adar", "adamic_adar", ""),
    ("adamic-adar-x-fresh", "adamic_adar", "fresh"),
    ("adamic-adar-x-attention", "adamic_adar", "attention"),
    ("ppr", "ppr", ""),
    ("ppr-x-fresh", "ppr", "fresh"),
    ("ppr-x-attention", "ppr", "attention"),
)


class Past:
    """What is visible of everyone, advanced event by event, and the global rules over it."""

    def __init__(self, log: EventLog):
        self.log = log
        n = log.num_users
        self.id_rank = np.empty(n, np.int64)  # place of each user among the ids in ascending order
        self.id_rank[log.user_ids.arg_sort().to_numpy()] = np.arange(n)
        self.visible, self.horizon = 0, -1
        self.active, self.received = np.full(n, NEVER), np.full(n, NEVER)
        self.popularity = np.zeros(n)
        self.decayed = {name: np.zeros(n) for name in HALF_LIVES}
        self.seen = np.zeros(n, bool)
        self.rules: dict[str, Callable[[], np.ndarray]] = {
            "popularity": lambda: self.popularity,
            "last-active": lambda: self.active,
            "last-received": lambda: self.received,
            "last-active-or-received": lambda: np.maximum(self.active, self.received),
            "popularity-x-fresh": lambda: self.popularity * self.factor("fresh"),
            "attention": lambda: self.factor("attention"),
            **{f"decayed-in-degree-{name}": partial(self.decayed.__getitem__, name) for name in SHOWN_HALF_LIVES},
        }
        self._forget()

    def advance(self, visible: int, horizon: int) -> None:
        """Makes the first `visible` events visible, at the second `horizon`. Time never goes back: ValueError."""
        if (visible, horizon) == (self.visible, self.horizon):
            return
        if visible < self.visible or horizon < self.horizon:
            raise ValueError(f"asked for {horizon}, {visible:,} events, after {self.horizon}, {self.visible:,} events")
        log, new = self.log, slice(self.visible, visible)
        u, v, t = log.actor[new], log.target[new], log.timestamp[new]
        self.seen[u] = self.seen[v] = True
        # An event of role exclude makes its two users known, but is no sign of interest in either.
        kept = ~log.is_exclude[new]
        self.active[u[kept]] = t[kept]  # of repeated places, the last one written stays: the latest
        self.received[v[kept]] = t[kept]
        contact = log.is_contact[new]
        n = log.num_users
        self.popularity += np.bincount(v[contact], minlength=n)
        for name, half_life in HALF_LIVES.items():
            self.decayed[name] *= 0.5 ** ((horizon - max(self.horizon, 0)) / half_life)
            weights = 0.5 ** ((horizon - t[contact]) / half_life)
            self.decayed[name] += np.bincount(v[contact], weights, minlength=n)
        self.visible, self.horizon = visible, horizon
        self._forget()

    def _forget(self) -> None:
        self._sorted: tuple[np.ndarray, np.ndarray] | None = None
        self._best: dict[str, np.ndarray] = {}
        self._factor: dict[str, np.ndarray] = {}

    @property
    def order(self) -> np.ndarray:
        """Everyone seen, the more recently active in either role first, then the smaller id: how ties are broken."""
        return self._sort()[0]

    @property
    def place(self) -> np.ndarray:
        """int64[N]: where each user seen stands in `order`."""
        return self._sort()[1]

    def _sort(self) -> tuple[np.ndarray, np.ndarray]:
        if self._sorted is None:
            users = np.flatnonzero(self.seen)
            last = np.maximum(self.active[users], self.received[users])
            key = (last + 1) * np.int64(len(self.id_rank)) - self.id_rank[users]
            order, place = users[np.argsort(-key)], np.empty(len(self.id_rank), np.int64)
            place[order] = np.arange(len(users))
            self._sorted = order, place
        return self._sorted

    def factor(self, name: str) -> np.ndarray:
        """float64[N]: `fresh`, falling with the age of the last event done; `attention`, of all those received."""
        if name not in self._factor:
            if name == "attention":
                self._factor[name] = sum(HALF_LIVES[h] ** -ATTENTION_DECAY * self.decayed[h] for h in HALF_LIVES)
            else:
                age = np.maximum(self.horizon - self.active, 1)
                self._factor[name] = np.where(self.active == NEVER, 0, 1 / np.log(age + np.e))
        return self._factor[name]

    def best(self, rule: str, n: int) -> np.ndarray:
        """The first n users by a global rule, or a few more."""
        if len(self._best.get(rule, ())) < min(n, len(self.order)):
            scores = self.rules[rule]()[self.order]
            self._best[rule] = self.order[top(scores, np.arange(len(scores)), max(n, 512))]
        return self._best[rule]

    def best_of(self, users: np.ndarray, scores: np.ndarray, others: np.ndarray, n: int) -> np.ndarray:
        """The first n of: `users` by score, then `others` in their order."""
        first = users[top(scores, self.place[users], n)]
        if len(first) >= n:
            return first
        return np.concatenate([first, others[~np.isin(others, users)]])[:n]


def top(scores: np.ndarray, place: np.ndarray, n: int) -> np.ndarray:
    """Indices of the n largest scores, best first, ties by smaller place; all of them if there are fewer."""
    chosen = np.arange(len(scores))
    if len(scores) > 4 * n:
        chosen = np.flatnonzero(scores >= np.partition(scores, -n)[-n])
    return chosen[np.lexsort((place[chosen], -scores[chosen]))][:n]


Scores = tuple[np.ndarray, np.ndarray]
"""(users, their scores); everybody else scores lower"""


@dataclass(frozen=True)
class OwnContacts:
    """What there is to know of a user's contacts."""

    frequency: Scores
    """events done to each"""
    recency: Scores
    """second of the last event with each, in either direction"""
    base_level: Scores
    """sum over the events with each of age ** -0.5: base-level activation of ACT-R (Anderson and Schooler 1991)"""


class Contacts:
    """Features of one's own contacts."""

    def __init__(self, log: EventLog, histories: Histories):
        self.log, self.histories = log, histories
        self.other, self.event = histories.other.numpy(), histories.event.numpy()
        self.received = histories.received.numpy()

    def features(self, user: int, visible: int, horizon: int) -> OwnContacts:
        window = self.histories.window(user, visible)
        contact = self.log.is_contact[self.event[window]]
        users, of = np.unique(self.other[window][contact], return_inverse=True)
        t = self.log.timestamp[self.event[window][contact]]
        done = np.bincount(of, ~self.received[window][contact], len(users))
        recency = np.zeros(len(users), np.int64)
        recency[of] = t  # of repeated places, the last one written stays: the latest
        activation = np.bincount(of, np.maximum(horizon - t, 1).astype(float) ** -0.5, len(users))
        return OwnContacts((users[done > 0], done[done > 0]), (users, recency), (users, activation))


@dataclass(frozen=True)
class GraphScores:
    """Scores of each graph rule; users who are not among them have score 0."""

    adamic_adar: Scores
    ppr: Scores


class ContactGraph:
    """The undirected graph of contacts at any moment, exactly.

    Pairs are kept in the order of their first contact, so that the graph at a moment is a prefix: of the list
    of edges, and of each user's list of neighbours.
    """

    def __init__(self, log: EventLog):
        n, contact = log.num_users, np.flatnonzero(log.is_contact)
        u, v = log.actor[contact].astype(np.int64), log.target[contact].astype(np.int64)
        _, first = np.unique(np.minimum(u, v) * n + np.maximum(u, v), return_index=True)
        first.sort()
        self.edge_event = contact[first]
        u, v = u[first], v[first]
        # Both directions of an edge side by side, so that a prefix holds both.
        self.source, self.target = np.stack([u, v], 1).ravel(), np.stack([v, u], 1).ravel()
        self.neighbour = self.target[np.argsort(self.source, kind="stable")]
        self.indptr = np.concatenate([[0], np.bincount(self.source, minlength=n).cumsum()])
        self.degree = np.zeros(n, np.int64)
        self.edges = 0

    def advance(self, visible: int) -> None:
        edges = 2 * int(np.searchsorted(self.edge_event, visible))
        if edges != self.edges:
            self.degree += np.bincount(self.source[self.edges : edges], minlength=len(self.degree))
            self.edges = edges

    def scores(self, user: int) -> GraphScores:
        """Adamic-Adar: common contacts w, each worth 1 / ln degree(w) (Adamic and Adar 2003).

        PPR: where a random walk from the user stands after 1, 2 and 3 steps, with weights 1/2, 1/4, 1/8: the
        first terms of personalised PageRank with restart probability 1/2.
        """
        n, degree = len(self.degree), self.degree
        near = self.neighbour[self.indptr[user] : self.indptr[user] + degree[user]]
        if not len(near):
            return GraphScores(*2 * ((np.empty(0, np.int64), np.empty(0)),))
        many = degree[near]
        # Neighbours of all neighbours: for each, the places indptr[w] ... indptr[w] + degree[w] - 1.
        start = np.repeat(self.indptr[near] - (many.cumsum() - many), many)
        second = self.neighbour[start + np.arange(len(start))]
        worth = np.where(many > 1, 1 / np.log(np.maximum(many, 2)), 0)
        common = np.bincount(second, np.repeat(worth, many), n)
        step1 = np.zeros(n)
        step1[near] = 1 / len(near)
        step2 = np.bincount(second, np.repeat(step1[near] / many, many), n)
        leave = step2 / np.maximum(degree, 1)
        step3 = np.bincount(self.target[: self.edges], leave[self.source[: self.edges]], n)
        walk = step1 / 2 + step2 / 4 + step3 / 8
        return GraphScores(_nonzero(common), _nonzero(walk))


def _nonzero(scores: np.ndarray) -> Scores:
    users = np.flatnonzero(scores)
    return users, scores[users]


@dataclass(frozen=True)
class Scored:
    own: OwnContacts
    graph: GraphScores
