"""Heuristics: rankings without learned parameters, as baselines and as sources of candidates for the ranker.

There are three kinds. A *global* heuristic ranks users in the same order for everyone (popularity, last activity). A
*contact* heuristic ranks the contacts of the requesting user first, by one of their features, then all other users by a
global heuristic. A *graph* heuristic scores the neighborhood of the requesting user in the contact graph (Adamic-Adar,
personalized PageRank), then ranks all other users by their last activity. In a name, `a-x-b` is the product of a and b,
and `a-then-b` means contacts by a, then all other users by b.

A contact event, such as a message, makes two users contacts. All heuristics are computed as of the cutoff of a list, a
UTC second: only events before it count. Ties go to the user whose last event, done or received, is later, then to the
smaller external id. Lists hold only users with an event, no cold-start users.

Shapes: N users of the log; n users of one list.
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

NEVER = -1  # UTC second of an event that never happened; `activity.NEVER` would overflow in `_order_and_rank`
# The INCOMING_HALF_LIVES, in seconds, by name.
HALF_LIVES = {"1h": 3600, "6h": 6 * 3600, "day": DAY, "3d": 3 * DAY, "week": 7 * DAY, "month": 30 * DAY}
HALF_LIVES |= {"quarter": 91 * DAY, "year": 365 * DAY}
DECAYED_DEGREE_HALF_LIVES = ("6h", "week", "quarter")
# The heuristic `attention` sums the contact events that a user received, each weighted by age ** -0.8. A sum of
# exponentials, which can be updated event by event, approximates this weight. The exponent, and the half-lives of the
# decayed in-degrees, were chosen on the validation part.
ATTENTION_DECAY = 0.8
GLOBAL_HEURISTICS = (
    "popularity",
    "last-active",
    "last-received",
    "last-active-or-received",
    "popularity-x-fresh",
    "attention",
    *(f"decayed-in-degree-{name}" for name in DECAYED_DEGREE_HALF_LIVES),
)
# name, feature of the contacts (in `ContactScores`), global heuristic for all other users
CONTACT_HEURISTICS = (
    ("frequency", "frequency", "last-active"),
    ("recency", "recency", "last-active"),
    ("recency-then-last-received", "recency", "last-received"),
    ("base-level-then-attention", "base_level", "attention"),
    ("base-level-then-decayed-quarter", "base_level", "decayed-in-degree-quarter"),
)
# name, score (in `GraphScores`), factor that multiplies it (in `GlobalScores.factor`)
GRAPH_HEURISTICS = (
    ("adamic-adar", "adamic_adar", ""),
    ("adamic-adar-x-fresh", "adamic_adar", "fresh"),
    ("adamic-adar-x-attention", "adamic_adar", "attention"),
    ("ppr", "ppr", ""),
    ("ppr-x-fresh", "ppr", "fresh"),
    ("ppr-x-attention", "ppr", "attention"),
)
HEURISTICS = (*GLOBAL_HEURISTICS, *(row[0] for row in CONTACT_HEURISTICS), *(row[0] for row in GRAPH_HEURISTICS))
"""names of all heuristics"""


class Heuristics:
    """All heuristics on an event log."""

    def __init__(self, log: EventLog, activity: Activity):
        self.log, self.activity = log, activity
        self.contact_features = ContactFeatures(log, activity.histories)
        self.graph = ContactGraph(log)
        self.id_rank = np.empty(log.num_users, np.int64)  # rank of each user's external id, ascending
        self.id_rank[log.user_ids.arg_sort().to_numpy()] = np.arange(log.num_users)

    def state_at(self, snapshot: FeatureSnapshot) -> HeuristicsSnapshot:
        return HeuristicsSnapshot(self, snapshot)


class HeuristicsSnapshot:
    """All heuristics as of a cutoff."""

    def __init__(self, heuristics: Heuristics, snapshot: FeatureSnapshot):
        self.snapshot = snapshot
        self.global_scores = GlobalScores(heuristics.activity, heuristics.id_rank, snapshot)
        self.graph = heuristics.graph.state_at(snapshot.num_visible)
        self.contact_features = heuristics.contact_features

    def lists(
        self, user: int, excluded: Sequence[np.ndarray], names: Sequence[str] = HEURISTICS, k: int = CANDIDATE_DEPTH
    ) -> list[dict[str, np.ndarray]]:
        """The lists for one user, once for each set of excluded users.

        user: internal id, N for a user who is not in the log; excluded: sets of internal ids, int64 each; names:
        heuristics. Returns for each set: name of the heuristic -> int64[k], best first, padded with -1. The user is
        never on their own list.
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
                if len(listed) < k <= len(head) - extra:  # too many users of the head are not eligible: rank all users
                    head = dict(self._heads(contacts, graph, len(ineligible), frozenset([name])))[name]
                    listed = head[~masked[head]][:k]
                lists[name] = np.full(k, -1)
                lists[name][: len(listed)] = listed
            results.append(lists)
        return results

    def _heads(
        self, contacts: ContactScores, graph: GraphScores, n: int, names: frozenset[str]
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Name and int64: the first n users, or more, by each heuristic in `names`; all users if there are fewer."""
        global_scores = self.global_scores
        for name in GLOBAL_HEURISTICS:
            if name in names:
                yield name, global_scores.best(name, n)
        for name, feature, fallback in CONTACT_HEURISTICS:
            if name in names:
                users, score = getattr(contacts, feature)
                if feature == "frequency":  # many contacts have equal counts: those who were active last come first
                    score = score + 1e-6 * global_scores.factor("fresh")[users]
                yield (
                    name,
                    global_scores.best_then_fallback(users, score, global_scores.best(fallback, n + len(users)), n),
                )
        for name, feature, factor in GRAPH_HEURISTICS:
            if name in names:
                users, value = getattr(graph, feature)
                if factor:
                    value = value * global_scores.factor(factor)[users]
                    users, value = users[value > 0], value[value > 0]
                yield (
                    name,
                    global_scores.best_then_fallback(
                        users, value, global_scores.best("last-active", n + len(users)), n
                    ),
                )


class GlobalScores:
    """The scores of the global heuristics, for all users as of a cutoff."""

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
        # int64[N]: seconds since each user's last entry, at which the decayed sums in `stats` stand
        self.age = np.where(self.has_events, snapshot.cutoff - last_events[:, USER_ENTRY_TIME], 0)
        self.score_functions: dict[str, Callable[[], np.ndarray]] = {
            "popularity": lambda: self.popularity,
            "last-active": lambda: self.last_outgoing,
            "last-received": lambda: self.last_incoming,
            "last-active-or-received": lambda: np.maximum(self.last_outgoing, self.last_incoming),
            "popularity-x-fresh": lambda: self.popularity * self.factor("fresh"),
            "attention": lambda: self.factor("attention"),
            **{
                f"decayed-in-degree-{name}": partial(self.decayed, HALF_LIVES[name])
                for name in DECAYED_DEGREE_HALF_LIVES
            },
        }
        self._best: dict[str, np.ndarray] = {}
        self._factor: dict[str, np.ndarray] = {}

    @cached_property
    def popularity(self) -> np.ndarray:
        """float64[N]: contact events received."""
        return np.rint(np.expm1(self.stats[:, 4].astype(np.float64)))

    def decayed(self, half_life: int) -> np.ndarray:
        """float64[N]: decayed in-degree, the contact events received, each with weight 0.5 ** (age / half_life).

        half_life: in seconds, one of INCOMING_HALF_LIVES.
        """
        column = 5 + INCOMING_HALF_LIVES.index(half_life)
        return self.stats[:, column] * 0.5 ** (self.age / half_life)

    @property
    def order(self) -> np.ndarray:
        """int64: all users with an event, in the order that breaks ties: by the last event done or received, latest
        first, then by external id. Exclude events, such as a block, are not a last event."""
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
        """float64[N]: a factor that multiplies scores.

        fresh: 1 / log(e + age of the user's last event as an actor, in seconds), 0 without one; attention: the sum of
        all contact events received, each weighted about in proportion to age ** -ATTENTION_DECAY.
        """
        if name not in self._factor:
            if name == "attention":
                terms = (h**-ATTENTION_DECAY * self.decayed(h) for h in HALF_LIVES.values())
                self._factor[name] = np.sum(list(terms), axis=0)
            else:
                age = np.maximum(self.cutoff - self.last_outgoing, 1)
                self._factor[name] = np.where(self.last_outgoing == NEVER, 0, 1 / np.log(age + np.e))
        return self._factor[name]

    def best(self, name: str, n: int) -> np.ndarray:
        """int64: the first n users, or more, by a global heuristic."""
        head = self._best.get(name)
        if head is None or len(head) < min(n, len(self.order)):
            scores = self.score_functions[name]()[self.order]
            head = self._best[name] = self.order[top_n_indices(scores, np.arange(len(scores)), max(n, 512))]
        return head

    def best_then_fallback(self, users: np.ndarray, scores: np.ndarray, fallback: np.ndarray, n: int) -> np.ndarray:
        """int64: the first n users of a list with `users` by score, then the other users of `fallback` in its order."""
        head = users[top_n_indices(scores, self.rank[users], n)]
        if len(head) >= n:
            return head
        return np.concatenate([head, fallback[~np.isin(fallback, users)]])[:n]


def top_n_indices(scores: np.ndarray, rank: np.ndarray, n: int) -> np.ndarray:
    """int64: indices of the n largest scores, best first, ties by the smaller rank; all indices if there are fewer."""
    chosen = np.arange(len(scores))
    if len(scores) > 4 * n:
        chosen = np.flatnonzero(scores >= np.partition(scores, -n)[-n])
    return chosen[np.lexsort((rank[chosen], -scores[chosen]))][:n]


Scores = tuple[np.ndarray, np.ndarray]
"""int64[n], users as internal ids, and int64[n] or float64[n], their scores; all other users are ranked after them"""


@dataclass(frozen=True)
class ContactScores:
    """The contacts of a user, scored by each feature of the contact heuristics."""

    frequency: Scores
    """number of contact events from the user to each contact, without contacts who have received none"""
    recency: Scores
    """UTC second of the last contact event with each contact, in either direction"""
    base_level: Scores
    """the sum of (age in seconds) ** -0.5 over the contact events with each contact, in either direction; its logarithm
    is the base-level activation of the ACT-R theory of memory (Anderson and Schooler 1991)"""


class ContactFeatures:
    """Features of a user's contacts, as of any cutoff."""

    def __init__(self, log: EventLog, histories: Histories):
        self.log, self.histories = log, histories
        self.neighbor, self.event = histories.other_user.numpy(), histories.event.numpy()
        self.incoming = histories.received.numpy()

    def scores_at(self, user: int, num_visible: int, cutoff: int) -> ContactScores:
        """The contacts of a user before a cutoff, with their scores.

        user: internal id, N for a user who is not in the log and has no contacts; num_visible: number of events before
        the cutoff, a UTC second.
        """
        if user >= self.log.num_users:
            empty = np.empty(0, np.int64), np.empty(0)
            return ContactScores(empty, empty, empty)
        window = self.histories.user_entries(user, num_visible)
        contact = self.log.is_contact[self.event[window]]
        users, index = np.unique(self.neighbor[window][contact], return_inverse=True)
        t = self.log.timestamp[self.event[window][contact]]
        outgoing = np.bincount(index, ~self.incoming[window][contact], len(users))
        recency = np.zeros(len(users), np.int64)
        recency[index] = t  # of repeated indices, NumPy stores the last value: the latest time
        activation = np.bincount(index, np.maximum(cutoff - t, 1).astype(float) ** -0.5, len(users))
        return ContactScores((users[outgoing > 0], outgoing[outgoing > 0]), (users, recency), (users, activation))


@dataclass(frozen=True)
class GraphScores:
    """The scores of the graph heuristics that are not 0."""

    adamic_adar: Scores
    ppr: Scores
    """personalized PageRank"""


class ContactGraph:
    """The undirected contact graph as of any cutoff: an edge between two users from their first contact event on.

    Edges are stored in the order of first contacts. So the graph as of a cutoff is a prefix of the list of edges, and a
    user's neighbors are a prefix of the user's adjacency list.
    """

    def __init__(self, log: EventLog):
        n, contact = log.num_users, np.flatnonzero(log.is_contact)
        u, v = log.actor[contact].astype(np.int64), log.target[contact].astype(np.int64)
        _, first = np.unique(np.minimum(u, v) * n + np.maximum(u, v), return_index=True)
        first.sort()
        self.edge_event = contact[first]
        u, v = u[first], v[first]
        # The two directions of an edge are stored one after the other, so that a prefix of the list holds both.
        self.source, self.target = np.stack([u, v], 1).ravel(), np.stack([v, u], 1).ravel()
        self.neighbor = self.target[np.argsort(self.source, kind="stable")]
        self.indptr = np.concatenate([[0], np.bincount(self.source, minlength=n).cumsum()])

    def state_at(self, num_visible: int) -> ContactGraphSnapshot:
        return ContactGraphSnapshot(self, 2 * int(np.searchsorted(self.edge_event, num_visible)))


class ContactGraphSnapshot:
    """The contact graph as of a cutoff."""

    def __init__(self, graph: ContactGraph, num_edges: int):
        """num_edges: number of directed edges before the cutoff, two for each pair of contacts."""
        self.graph, self.num_edges = graph, num_edges
        self.degree = np.bincount(graph.source[:num_edges], minlength=len(graph.indptr) - 1)

    def scores(self, user: int) -> GraphScores:
        """Scores of the users near a user, internal id; none for a user who is not in the log.

        Adamic-Adar: the sum of 1 / ln degree(w) over the common contacts w (Adamic and Adar 2003). PPR: the
        probabilities of a random walk from the user after 1, 2 and 3 steps, weighted by 1/2, 1/4 and 1/8. That is twice
        the terms of 1 to 3 steps of personalized PageRank with restart probability 1/2.
        """
        graph, n, degree = self.graph, len(self.degree), self.degree
        neighbors = np.empty(0, np.int64)
        if user < n:
            neighbors = graph.neighbor[graph.indptr[user] : graph.indptr[user] + degree[user]]
        if not len(neighbors):
            return GraphScores(*2 * ((np.empty(0, np.int64), np.empty(0)),))
        degrees = degree[neighbors]
        # Neighbors of neighbors: of each neighbor w, the offsets indptr[w] ... indptr[w] + degree[w] - 1.
        start = np.repeat(graph.indptr[neighbors] - (degrees.cumsum() - degrees), degrees)
        second = graph.neighbor[start + np.arange(len(start))]
        weight = np.where(degrees > 1, 1 / np.log(np.maximum(degrees, 2)), 0)
        adamic_adar = np.bincount(second, np.repeat(weight, degrees), n)
        step1 = np.zeros(n)
        step1[neighbors] = 1 / len(neighbors)
        step2 = np.bincount(second, np.repeat(step1[neighbors] / degrees, degrees), n)
        outflow = step2 / np.maximum(degree, 1)
        step3 = np.bincount(graph.target[: self.num_edges], outflow[graph.source[: self.num_edges]], n)
        ppr = step1 / 2 + step2 / 4 + step3 / 8
        return GraphScores(_nonzero(adamic_adar), _nonzero(ppr))


def _nonzero(scores: np.ndarray) -> Scores:
    users = np.flatnonzero(scores)
    return users, scores[users]
