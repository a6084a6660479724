"""Plain rules: what every model must beat, and candidates that the ranker knows. Computed exactly at every moment.

Three kinds. A *global* rule ranks everyone alike (popularity, who was active last). A *contact* rule puts
one's own contacts first, by one of their features, and everyone else behind by a global rule. A *graph* rule
scores the neighbourhood of a user in the graph of contacts. Ties go to the more recently active, then to the
smaller id. Rules list people who have an event: of others they know nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from befriend.data.activity import DAY, RECEIVED_HALF_LIVES, Activity
from befriend.data.histories import Histories
from befriend.data.log import EventLog
from befriend.retrieval.moment import Moment
from befriend.retrieval.requests import SOURCED

NEVER = -1  # the second of something that has not happened
HALF_LIVES = {"1h": 3600, "6h": 6 * 3600, "day": DAY, "3d": 3 * DAY, "week": 7 * DAY, "month": 30 * DAY}
HALF_LIVES |= {"quarter": 91 * DAY, "year": 365 * DAY}
SHOWN_HALF_LIVES = ("6h", "week", "quarter")
# Events received fade as age ** -0.8, kept up to date as a sum of exponentials. The exponent and the half-lives
# that stand alone were chosen on validation.
ATTENTION_DECAY = 0.8
GLOBAL_RULES = (
    "popularity",
    "last-active",
    "last-received",
    "last-active-or-received",
    "popularity-x-fresh",
    "attention",
    *(f"decayed-in-degree-{name}" for name in SHOWN_HALF_LIVES),
)
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
RULES = (*GLOBAL_RULES, *(rule[0] for rule in CONTACT_RULES), *(rule[0] for rule in GRAPH_RULES))


class Heuristics:
    """All rules on a log."""

    def __init__(self, log: EventLog, activity: Activity):
        self.log, self.activity = log, activity
        self.own = ContactFeatures(log, activity.histories)
        self.graph = ContactGraph(log)
        self.id_rank = np.empty(log.num_users, np.int64)  # place of each user among the ids in ascending order
        self.id_rank[log.user_ids.arg_sort().to_numpy()] = np.arange(log.num_users)

    def at(self, moment: Moment) -> HeuristicsAt:
        return HeuristicsAt(self, moment)


class HeuristicsAt:
    """The rules as of a moment."""

    def __init__(self, rules: Heuristics, moment: Moment):
        self.moment = moment
        self.everybody = GlobalScores(rules.activity, rules.id_rank, moment)
        self.graph = rules.graph.at(moment.visible)
        self.own = rules.own

    def lists(
        self, user: int, excluded: Sequence[np.ndarray], names: Sequence[str] = RULES, k: int = SOURCED
    ) -> list[dict[str, np.ndarray]]:
        """Of one user, a list without each of some sets of others: name -> int64[k], best first, -1 behind the last.

        excluded: int64 each. Nobody stands on a list of their own.
        """
        contacts = self.own.at(user, self.moment.visible, self.moment.horizon)
        graph = self.graph.scores(user)
        more = 1 + max(map(len, excluded), default=0)
        heads = dict(self._heads(contacts, graph, k + more, frozenset(names)))
        hidden = ~self.moment.findable.numpy()
        found = []
        for others in excluded:
            away = hidden.copy()
            away[others] = True
            away[user : user + 1] = True  # nobody, where the log does not have the user
            lists = {}
            for name in names:
                head = heads[name]
                chosen = head[~away[head]][:k]
                if len(chosen) < k <= len(head) - more:  # others who may not be listed stood among the first
                    head = dict(self._heads(contacts, graph, len(hidden), frozenset([name])))[name]
                    chosen = head[~away[head]][:k]
                lists[name] = np.full(k, -1)
                lists[name][: len(chosen)] = chosen
            found.append(lists)
        return found

    def _heads(
        self, own: OwnContacts, graph: GraphScores, n: int, names: frozenset[str]
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Each rule's first n users, or a few more; all of them where there are fewer."""
        everybody = self.everybody
        for name in GLOBAL_RULES:
            if name in names:
                yield name, everybody.best(name, n)
        for name, feature, behind in CONTACT_RULES:
            if name in names:
                users, score = getattr(own, feature)
                if feature == "frequency":  # many contacts have equal counts: of those, the more recently active
                    score = score + 1e-6 * everybody.factor("fresh")[users]
                yield name, everybody.best_of(users, score, everybody.best(behind, n + len(users)), n)
        for name, feature, factor in GRAPH_RULES:
            if name in names:
                users, value = getattr(graph, feature)
                if factor:
                    value = value * everybody.factor(factor)[users]
                    users, value = users[value > 0], value[value > 0]
                yield name, everybody.best_of(users, value, everybody.best("last-active", n + len(users)), n)


class GlobalScores:
    """What the global rules look at, of everybody as of a moment."""

    def __init__(self, activity: Activity, id_rank: np.ndarray, moment: Moment):
        self.id_rank, self.horizon = id_rank, moment.horizon
        self.seen = moment.seen.numpy()
        marks, self.sums = activity.user_marks[moment.place].numpy(), activity.user_sums[moment.place].numpy()
        self.received, self.active = (np.maximum(marks[:, column], NEVER) for column in (0, 2))
        self.age = np.where(self.seen, moment.horizon - marks[:, 5], 0)
        self.rules: dict[str, Callable[[], np.ndarray]] = {
            "popularity": lambda: self.popularity,
            "last-active": lambda: self.active,
            "last-received": lambda: self.received,
            "last-active-or-received": lambda: np.maximum(self.active, self.received),
            "popularity-x-fresh": lambda: self.popularity * self.factor("fresh"),
            "attention": lambda: self.factor("attention"),
            **{f"decayed-in-degree-{name}": partial(self.decayed, HALF_LIVES[name]) for name in SHOWN_HALF_LIVES},
        }
        self._best: dict[str, np.ndarray] = {}
        self._factor: dict[str, np.ndarray] = {}

    @cached_property
    def popularity(self) -> np.ndarray:
        """float64[N]: contact events received."""
        return np.rint(np.expm1(self.sums[:, 4].astype(np.float64)))

    def decayed(self, half_life: int) -> np.ndarray:
        """float64[N]: contact events received, each halved every half-life, in seconds."""
        column = 5 + RECEIVED_HALF_LIVES.index(half_life)
        return self.sums[:, column] * 0.5 ** (self.age / half_life)

    @property
    def order(self) -> np.ndarray:
        """Everyone seen, the more recently active in either role first, then the smaller id: how ties are broken."""
        return self._sorted[0]

    @property
    def place(self) -> np.ndarray:
        """int64[N]: where each user seen stands in `order`."""
        return self._sorted[1]

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        users = np.flatnonzero(self.seen)
        last = np.maximum(self.active[users], self.received[users])
        key = (last + 1) * np.int64(len(self.id_rank)) - self.id_rank[users]
        order, place = users[np.argsort(-key)], np.empty(len(self.id_rank), np.int64)
        place[order] = np.arange(len(users))
        return order, place

    def factor(self, name: str) -> np.ndarray:
        """float64[N]: `fresh`, falling with the age of the last event done; `attention`, of all those received."""
        if name not in self._factor:
            if name == "attention":
                parts = (h**-ATTENTION_DECAY * self.decayed(h) for h in HALF_LIVES.values())
                self._factor[name] = np.sum(list(parts), axis=0)
            else:
                age = np.maximum(self.horizon - self.active, 1)
                self._factor[name] = np.where(self.active == NEVER, 0, 1 / np.log(age + np.e))
        return self._factor[name]

    def best(self, rule: str, n: int) -> np.ndarray:
        """The first n users by a global rule, or a few more."""
        found = self._best.get(rule)
        if found is None or len(found) < min(n, len(self.order)):
            scores = self.rules[rule]()[self.order]
            found = self._best[rule] = self.order[top(scores, np.arange(len(scores)), max(n, 512))]
        return found

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


class ContactFeatures:
    """Features of one's own contacts, at any moment."""

    def __init__(self, log: EventLog, histories: Histories):
        self.log, self.histories = log, histories
        self.other, self.event = histories.other.numpy(), histories.event.numpy()
        self.received = histories.received.numpy()

    def at(self, user: int, visible: int, horizon: int) -> OwnContacts:
        """Of a user, any number: who is not in the log has none."""
        if user >= self.log.num_users:
            none = np.empty(0, np.int64), np.empty(0)
            return OwnContacts(none, none, none)
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

    def at(self, visible: int) -> ContactGraphAt:
        return ContactGraphAt(self, 2 * int(np.searchsorted(self.edge_event, visible)))


class ContactGraphAt:
    """The first edges of the graph."""

    def __init__(self, graph: ContactGraph, edges: int):
        """edges: how many, each direction counted."""
        self.graph, self.edges = graph, edges
        self.degree = np.bincount(graph.source[:edges], minlength=len(graph.indptr) - 1)

    def scores(self, user: int) -> GraphScores:
        """Adamic-Adar: common contacts w, each worth 1 / ln degree(w) (Adamic and Adar 2003).

        PPR: where a random walk from the user stands after 1, 2 and 3 steps, with weights 1/2, 1/4, 1/8: the
        first terms of personalised PageRank with restart probability 1/2. Who is not in the log has no scores.
        """
        graph, n, degree = self.graph, len(self.degree), self.degree
        near = np.empty(0, np.int64)
        if user < n:
            near = graph.neighbour[graph.indptr[user] : graph.indptr[user] + degree[user]]
        if not len(near):
            return GraphScores(*2 * ((np.empty(0, np.int64), np.empty(0)),))
        many = degree[near]
        # Neighbours of all neighbours: for each, the places indptr[w] ... indptr[w] + degree[w] - 1.
        start = np.repeat(graph.indptr[near] - (many.cumsum() - many), many)
        second = graph.neighbour[start + np.arange(len(start))]
        worth = np.where(many > 1, 1 / np.log(np.maximum(many, 2)), 0)
        common = np.bincount(second, np.repeat(worth, many), n)
        step1 = np.zeros(n)
        step1[near] = 1 / len(near)
        step2 = np.bincount(second, np.repeat(step1[near] / many, many), n)
        leave = step2 / np.maximum(degree, 1)
        step3 = np.bincount(graph.target[: self.edges], leave[graph.source[: self.edges]], n)
        walk = step1 / 2 + step2 / 4 + step3 / 8
        return GraphScores(_nonzero(common), _nonzero(walk))


def _nonzero(scores: np.ndarray) -> Scores:
    users = np.flatnonzero(scores)
    return users, scores[users]
