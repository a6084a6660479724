"""Heuristics: rules that every model must beat, and sources of candidates for the ranker. Exact at every cutoff.

There are three kinds. A *global* rule ranks all users alike (popularity, recency of activity). A *contact* rule ranks a
user's contacts first, by one of their features, and then all other users by a global rule. A *graph* rule scores
the neighbourhood of a user in the contact graph (Adamic-Adar, personalized PageRank). Ties go to the more recently
active user, then to the smaller id. Rules list only users with an event, no cold-start users.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from befriend.data.event_log import DAY, EventLog
from befriend.features.activity import INCOMING_HALF_LIVES, USER_ENTRY_TIME, USER_IN_TIME, USER_OUT_TIME, Activity
from befriend.features.histories import Histories
from befriend.features.snapshot import FeatureSnapshot
from befriend.retrieval.requests import CANDIDATE_DEPTH

NEVER = -1  # UTC second of an event that never happened
HALF_LIVES = {"1h": 3600, "6h": 6 * 3600, "day": DAY, "3d": 3 * DAY, "week": 7 * DAY, "month": 30 * DAY}
HALF_LIVES |= {"quarter": 91 * DAY, "year": 365 * DAY}
SHOWN_HALF_LIVES = ("6h", "week", "quarter")
# Events received decay as age ** -0.8, approximated by a sum of exponentials that can be updated. The exponent, and the
# half-lives that are rules of their own, were chosen on validation.
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
# name, feature of the contacts, global rule for all other users
CONTACT_RULES = (
    ("frequency", "frequency", "last-active"),
    ("recency", "recency", "last-active"),
    ("recency-then-last-received", "recency", "last-received"),
    ("base-level-then-attention", "base_level", "attention"),
    ("base-level-then-decayed-quarter", "base_level", "decayed-in-degree-quarter"),
)
# name, score, factor that it is multiplied by
GRAPH_RULES = (
    ("adamic-adar", "adamic_adar", ""),
    ("adamic-adar-x-fresh", "adamic_adar", "fresh"),
    ("adamic-adar-x-attention", "adamic_adar", "attention"),
    ("ppr", "ppr", ""),
    ("ppr-x-fresh", "ppr", "fresh"),
    ("ppr-x-attention", "ppr", "attention"),
)
HEURISTICS = (*GLOBAL_RULES, *(rule[0] for rule in CONTACT_RULES), *(rule[0] for rule in GRAPH_RULES))


class Heuristics:
    """All rules on a log."""

    def __init__(self, log: EventLog, activity: Activity):
        self.log, self.activity = log, activity
        self.contact_features = ContactFeatures(log, activity.histories)
        self.graph = ContactGraph(log)
        self.id_rank = np.empty(log.num_users, np.int64)  # rank of each user's external id, ascending
        self.id_rank[log.user_ids.arg_sort().to_numpy()] = np.arange(log.num_users)

    def state_at(self, snapshot: FeatureSnapshot) -> HeuristicsSnapshot:
        return HeuristicsSnapshot(self, snapshot)


class HeuristicsSnapshot:
    """The rules as of a cutoff."""

    def __init__(self, heuristics: Heuristics, snapshot: FeatureSnapshot):
        self.snapshot = snapshot
        self.global_scores = GlobalScores(heuristics.activity, heuristics.id_rank, snapshot)
        self.graph = heuristics.graph.state_at(snapshot.num_visible)
        self.contact_features = heuristics.contact_features

    def lists(
        self, user: int, excluded: Sequence[np.ndarray], names: Sequence[str] = HEURISTICS, k: int = CANDIDATE_DEPTH
    ) -> list[dict[str, np.ndarray]]:
        """The lists of one user, once for each set of excluded users: name of the rule -> int64[k], best first,
        padded with -1.

        excluded: int64 each. The user is never on their own list.
        """
        contacts = self.contact_features.scores_at(user, self.snapshot.num_visible, self.snapshot.cutoff)
        graph = self.graph.scores(user)
        extra = 1 + max(map(len, excluded), default=0)
        heads = dict(self._heads(contacts, graph, k + extra, frozenset(names)))
        ineligible = ~self.snapshot.eligible.numpy()
        results = []
        for excluded_users in excluded:
            masked = ineligible.copy()
            masked[excluded_users] = True
            masked[user : user + 1] = True  # an empty slice for a user who is not in the log
            lists = {}
            for name in names:
                head = heads[name]
                listed = head[~masked[head]][:k]
                if len(listed) < k <= len(head) - extra:  # too many ineligible users in the head
                    head = dict(self._heads(contacts, graph, len(ineligible), frozenset([name])))[name]
                    listed = head[~masked[head]][:k]
                lists[name] = np.full(k, -1)
                lists[name][: len(listed)] = listed
            results.append(lists)
        return results

    def _heads(
        self, contacts: ContactScores, graph: GraphScores, n: int, names: frozenset[str]
    ) -> Iterator[tuple[str, np.ndarray]]:
        """The first n users of each rule, or a few more; all of them if there are fewer."""
        global_scores = self.global_scores
        for name in GLOBAL_RULES:
            if name in names:
                yield name, global_scores.best(name, n)
        for name, feature, fallback in CONTACT_RULES:
            if name in names:
                users, score = getattr(contacts, feature)
                if feature == "frequency":  # many contacts have equal counts: the more recently active come first
                    score = score + 1e-6 * global_scores.factor("fresh")[users]
                yield name, global_scores.best_of(users, score, global_scores.best(fallback, n + len(users)), n)
        for name, feature, factor in GRAPH_RULES:
            if name in names:
                users, value = getattr(graph, feature)
                if factor:
                    value = value * global_scores.factor(factor)[users]
                    users, value = users[value > 0], value[value > 0]
                yield name, global_scores.best_of(users, value, global_scores.best("last-active", n + len(users)), n)


class GlobalScores:
    """The scores of the global rules, for all users as of a cutoff."""

    def __init__(self, activity: Activity, id_rank: np.ndarray, snapshot: FeatureSnapshot):
        self.id_rank, self.cutoff = id_rank, snapshot.cutoff
        self.has_events = snapshot.has_events.numpy()
        last_events, self.stats = (
            activity.user_last_events[snapshot.last_entry].numpy(),
            activity.user_stats[snapshot.last_entry].numpy(),
        )
        # int64[N]: UTC second of each user's last incoming and outgoing event
        self.last_incoming, self.last_outgoing = (
            np.maximum(last_events[:, column], NEVER) for column in (USER_IN_TIME, USER_OUT_TIME)
        )
        self.age = np.where(self.has_events, snapshot.cutoff - last_events[:, USER_ENTRY_TIME], 0)
        self.rules: dict[str, Callable[[], np.ndarray]] = {
            "popularity": lambda: self.popularity,
            "last-active": lambda: self.last_outgoing,
            "last-received": lambda: self.last_incoming,
            "last-active-or-received": lambda: np.maximum(self.last_outgoing, self.last_incoming),
            "popularity-x-fresh": lambda: self.popularity * self.factor("fresh"),
            "attention": lambda: self.factor("attention"),
            **{f"decayed-in-degree-{name}": partial(self.decayed, HALF_LIVES[name]) for name in SHOWN_HALF_LIVES},
        }
        self._best: dict[str, np.ndarray] = {}
        self._factor: dict[str, np.ndarray] = {}

    @cached_property
    def popularity(self) -> np.ndarray:
        """float64[N]: contact events received."""
        return np.rint(np.expm1(self.stats[:, 4].astype(np.float64)))

    def decayed(self, half_life: int) -> np.ndarray:
        """float64[N]: decayed in-degree, contact events received, each halved every `half_life` seconds."""
        column = 5 + INCOMING_HALF_LIVES.index(half_life)
        return self.stats[:, column] * 0.5 ** (self.age / half_life)

    @property
    def order(self) -> np.ndarray:
        """All users with an event, the more recently active in either role first, then the smaller external id: the
        order in which ties are broken."""
        return self._order_and_rank[0]

    @property
    def rank(self) -> np.ndarray:
        """int64[N]: the rank of each user with an event in `order`."""
        return self._order_and_rank[1]

    @cached_property
    def _order_and_rank(self) -> tuple[np.ndarray, np.ndarray]:
        users = np.flatnonzero(self.has_events)
        last = np.maximum(self.last_outgoing[users], self.last_incoming[users])
        key = (last + 1) * np.int64(len(self.id_rank)) - self.id_rank[users]
        order, rank = users[np.argsort(-key)], np.empty(len(self.id_rank), np.int64)
        rank[order] = np.arange(len(users))
        return order, rank

    def factor(self, name: str) -> np.ndarray:
        """float64[N]: `fresh`, which falls with the age of the user's last event as an actor; `attention`, the decayed
        sum of all contact events received."""
        if name not in self._factor:
            if name == "attention":
                terms = (h**-ATTENTION_DECAY * self.decayed(h) for h in HALF_LIVES.values())
                self._factor[name] = np.sum(list(terms), axis=0)
            else:
                age = np.maximum(self.cutoff - self.last_outgoing, 1)
                self._factor[name] = np.where(self.last_outgoing == NEVER, 0, 1 / np.log(age + np.e))
        return self._factor[name]

    def best(self, rule: str, n: int) -> np.ndarray:
        """The first n users by a global rule, or a few more."""
        head = self._best.get(rule)
        if head is None or len(head) < min(n, len(self.order)):
            scores = self.rules[rule]()[self.order]
            head = self._best[rule] = self.order[top_indices(scores, np.arange(len(scores)), max(n, 512))]
        return head

    def best_of(self, users: np.ndarray, scores: np.ndarray, fallback: np.ndarray, n: int) -> np.ndarray:
        """The first n of: `users` by score, then the users of `fallback` in their order."""
        head = users[top_indices(scores, self.rank[users], n)]
        if len(head) >= n:
            return head
        return np.concatenate([head, fallback[~np.isin(fallback, users)]])[:n]


def top_indices(scores: np.ndarray, rank: np.ndarray, n: int) -> np.ndarray:
    """Indices of the n largest scores, best first, ties by the smaller rank; all of them if there are fewer."""
    chosen = np.arange(len(scores))
    if len(scores) > 4 * n:
        chosen = np.flatnonzero(scores >= np.partition(scores, -n)[-n])
    return chosen[np.lexsort((rank[chosen], -scores[chosen]))][:n]


Scores = tuple[np.ndarray, np.ndarray]
"""(users, their scores); all other users score lower"""


@dataclass(frozen=True)
class ContactScores:
    """A user's contacts, scored by each feature of the contact rules."""

    frequency: Scores
    """contact events from the user to each contact"""
    recency: Scores
    """UTC second of the last contact event with each contact, in either direction"""
    base_level: Scores
    """base-level activation of ACT-R: the sum of age ** -0.5 over the contact events with each contact (Anderson and
    Schooler 1991)"""


class ContactFeatures:
    """Features of a user's contacts, as of any cutoff."""

    def __init__(self, log: EventLog, histories: Histories):
        self.log, self.histories = log, histories
        self.neighbor, self.event = histories.other.numpy(), histories.event.numpy()
        self.incoming = histories.received.numpy()

    def scores_at(self, user: int, num_visible: int, cutoff: int) -> ContactScores:
        """user: any internal id; a user who is not in the log has no contacts."""
        if user >= self.log.num_users:
            empty = np.empty(0, np.int64), np.empty(0)
            return ContactScores(empty, empty, empty)
        window = self.histories.entries_of(user, num_visible)
        contact = self.log.is_contact[self.event[window]]
        users, index = np.unique(self.neighbor[window][contact], return_inverse=True)
        t = self.log.timestamp[self.event[window][contact]]
        outgoing = np.bincount(index, ~self.incoming[window][contact], len(users))
        recency = np.zeros(len(users), np.int64)
        recency[index] = t  # of repeated indices, the last value written stays: the latest
        activation = np.bincount(index, np.maximum(cutoff - t, 1).astype(float) ** -0.5, len(users))
        return ContactScores((users[outgoing > 0], outgoing[outgoing > 0]), (users, recency), (users, activation))


@dataclass(frozen=True)
class GraphScores:
    """Scores of each graph rule; all other users have score 0."""

    adamic_adar: Scores
    ppr: Scores


class ContactGraph:
    """The undirected contact graph as of any cutoff, exactly.

    Edges are stored in the order of first contact, so that the graph as of a cutoff is a prefix: of the list of edges,
    and of each user's list of neighbours.
    """

    def __init__(self, log: EventLog):
        n, contact = log.num_users, np.flatnonzero(log.is_contact)
        u, v = log.actor[contact].astype(np.int64), log.target[contact].astype(np.int64)
        _, first = np.unique(np.minimum(u, v) * n + np.maximum(u, v), return_index=True)
        first.sort()
        self.edge_event = contact[first]
        u, v = u[first], v[first]
        # The two directions of an edge are adjacent, so that a prefix holds both.
        self.source, self.target = np.stack([u, v], 1).ravel(), np.stack([v, u], 1).ravel()
        self.neighbour = self.target[np.argsort(self.source, kind="stable")]
        self.indptr = np.concatenate([[0], np.bincount(self.source, minlength=n).cumsum()])

    def state_at(self, num_visible: int) -> ContactGraphSnapshot:
        return ContactGraphSnapshot(self, 2 * int(np.searchsorted(self.edge_event, num_visible)))


class ContactGraphSnapshot:
    """The contact graph as of a cutoff: its first edges."""

    def __init__(self, graph: ContactGraph, edges: int):
        """edges: number of edges, each direction counted."""
        self.graph, self.edges = graph, edges
        self.degree = np.bincount(graph.source[:edges], minlength=len(graph.indptr) - 1)

    def scores(self, user: int) -> GraphScores:
        """Adamic-Adar: the sum of 1 / ln degree(w) over the common contacts w (Adamic and Adar 2003).

        PPR: the probabilities of a random walk from the user after 1, 2 and 3 steps, weighted by 1/2, 1/4 and 1/8: the
        first terms of personalized PageRank with restart probability 1/2. A user who is not in the log has no scores.
        """
        graph, n, degree = self.graph, len(self.degree), self.degree
        neighbours = np.empty(0, np.int64)
        if user < n:
            neighbours = graph.neighbour[graph.indptr[user] : graph.indptr[user] + degree[user]]
        if not len(neighbours):
            return GraphScores(*2 * ((np.empty(0, np.int64), np.empty(0)),))
        degrees = degree[neighbours]
        # Neighbours of neighbours: of each neighbour w, the offsets indptr[w] ... indptr[w] + degree[w] - 1.
        start = np.repeat(graph.indptr[neighbours] - (degrees.cumsum() - degrees), degrees)
        second = graph.neighbour[start + np.arange(len(start))]
        weight = np.where(degrees > 1, 1 / np.log(np.maximum(degrees, 2)), 0)
        adamic_adar = np.bincount(second, np.repeat(weight, degrees), n)
        step1 = np.zeros(n)
        step1[neighbours] = 1 / len(neighbours)
        step2 = np.bincount(second, np.repeat(step1[neighbours] / degrees, degrees), n)
        outflow = step2 / np.maximum(degree, 1)
        step3 = np.bincount(graph.target[: self.edges], outflow[graph.source[: self.edges]], n)
        ppr = step1 / 2 + step2 / 4 + step3 / 8
        return GraphScores(_nonzero(adamic_adar), _nonzero(ppr))


def _nonzero(scores: np.ndarray) -> Scores:
    users = np.flatnonzero(scores)
    return users, scores[users]
