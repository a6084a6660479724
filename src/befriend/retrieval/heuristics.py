"""Heuristics: rankings without learned parameters, as baselines and as sources of candidates for the ranker.

There are three kinds. A *global* heuristic ranks users in the same order for everyone (popularity, last activity). A
*contact* heuristic ranks the contacts of the requesting user first, by one of their features, then all other users by a
global heuristic. A *graph* heuristic scores the neighborhood of the requesting user in the contact graph (Adamic-Adar,
personalized PageRank), then ranks all other users by their last activity. In a name, `a-x-b` is the product of a and b,
and `a-then-b` means contacts by a, then all other users by b. Contacts of `decayed-` heuristics count less with age.

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
from befriend.features.feature_view import FeatureView
from befriend.features.histories import Histories
from befriend.features.snapshot import FeatureSnapshot
from befriend.retrieval.contact_graph import ContactGraph, GraphScores, Scores
from befriend.retrieval.ease import Ease, EaseFit
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
    ("local-global", "recency_of_done", "last-received"),  # local, then global recency (Cornell et al. 2025)
    ("base-level-then-attention", "base_level", "attention"),
    ("base-level-then-decayed-quarter", "base_level", "decayed-in-degree-quarter"),
)
# name, score, factor that multiplies it (in `GlobalScores.factor`)
GRAPH_HEURISTICS: tuple[tuple[str, Callable[[GraphScores], Scores], str], ...] = (
    ("adamic-adar", lambda graph: graph.adamic_adar, ""),
    ("adamic-adar-x-fresh", lambda graph: graph.adamic_adar, "fresh"),
    ("adamic-adar-x-attention", lambda graph: graph.adamic_adar, "attention"),
    ("ppr", lambda graph: graph.ppr, ""),
    ("ppr-x-fresh", lambda graph: graph.ppr, "fresh"),
    ("ppr-x-attention", lambda graph: graph.ppr, "attention"),
    ("decayed-adamic-adar-day", lambda graph: graph.decayed_adamic_adar(DAY), ""),
    ("decayed-adamic-adar-week", lambda graph: graph.decayed_adamic_adar(7 * DAY), ""),
    ("decayed-adamic-adar-month", lambda graph: graph.decayed_adamic_adar(30 * DAY), ""),
    ("decayed-adamic-adar-x-fresh", lambda graph: graph.decayed_adamic_adar(), "fresh"),
    ("decayed-ppr-week", lambda graph: graph.decayed_ppr, ""),
)
HEURISTICS = (
    *GLOBAL_HEURISTICS,
    *(row[0] for row in CONTACT_HEURISTICS),
    *(row[0] for row in GRAPH_HEURISTICS),
    "base3",
    "ease",
)
"""names of all heuristics"""


class Heuristics:
    """All heuristics on an event log."""

    def __init__(self, feature_view: FeatureView):
        log, self.activity, self.two_hop = feature_view.log, feature_view.activity, feature_view.two_hop
        self.contact_features = ContactFeatures(log, self.activity.histories)
        self.graph, self.ease = ContactGraph(log), Ease(log)
        self.id_rank = np.empty(log.num_users, np.int64)  # rank of each user's external id, ascending
        self.id_rank[log.user_ids.arg_sort().to_numpy()] = np.arange(log.num_users)

    def state_at(self, snapshot: FeatureSnapshot) -> HeuristicsSnapshot:
        return HeuristicsSnapshot(self, snapshot)


class HeuristicsSnapshot:
    """All heuristics as of a cutoff."""

    def __init__(self, heuristics: Heuristics, snapshot: FeatureSnapshot):
        self.snapshot = snapshot
        self.global_scores = GlobalScores(heuristics.activity, heuristics.id_rank, snapshot)
        self.graph, self.two_hop = heuristics.graph.state_at(snapshot.num_visible), heuristics.two_hop
        self.contact_features = heuristics.contact_features
        self._ease = heuristics.ease

    @cached_property
    def ease(self) -> EaseFit:
        return self._ease.as_of(self.snapshot.num_visible)

    def lists(
        self, user: int, excluded: Sequence[np.ndarray], names: Sequence[str] = HEURISTICS, k: int = CANDIDATE_DEPTH
    ) -> list[dict[str, np.ndarray]]:
        """The lists for one user, once for each set of excluded users.

        user: internal id, N for a user who is not in the log; excluded: sets of internal ids, int64 each; names:
        heuristics. Returns for each set: name of the heuristic -> int64[k], best first, padded with -1. The user is
        never on their own list.
        """
        contacts = self.contact_features.scores_at(user, self.snapshot.num_visible, self.snapshot.cutoff)
        graph = GraphScores(self.graph, self.two_hop, user, self.snapshot.num_visible, self.snapshot.cutoff)
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
        for name, score_function, factor in GRAPH_HEURISTICS:
            if name in names:
                users, value = score_function(graph)
                if factor:
                    value = value * global_scores.factor(factor)[users]
                    users, value = users[value > 0], value[value > 0]
                yield name, self._then_last_active(users, value, n)
        if "base3" in names:
            yield "base3", self._then_last_active(*self._base3(contacts, graph), n)
        if "ease" in names:
            users, counts = contacts.count
            yield "ease", self._then_last_active(self.ease.users, self.ease.scores(users, counts), n)

    def _then_last_active(self, users: np.ndarray, scores: np.ndarray, n: int) -> np.ndarray:
        """int64: the first n users of a list with `users` by score, then all others by their last activity."""
        fallback = self.global_scores.best("last-active", n + len(users))
        return self.global_scores.best_then_fallback(users, scores, fallback, n)

    def _base3(self, contacts: ContactScores, graph: GraphScores) -> Scores:
        """The mean of three scores, each at most 1 (Base3: Kondrup 2025), of users with an event.

        EdgeBank: whether the user contacted them before; PopTrack: the decayed number of contact events that they
        received; and co-occurrence: their decayed contacts in common with the user. The last two are divided by the
        largest score of any user.
        """
        n = len(self.global_scores.has_events)
        popularity, co_occurrence, edge_bank = self.global_scores.decayed(HALF_LIVES["week"]), np.zeros(n), np.zeros(n)
        users, scores = graph.decayed_adamic_adar(HALF_LIVES["week"])
        co_occurrence[users] = scores
        edge_bank[contacts.frequency[0]] = 1
        total = edge_bank + sum(x / max(x.max(initial=0), 1e-12) for x in (popularity, co_occurrence))
        return self.global_scores.order, total[self.global_scores.order] / 3


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


@dataclass(frozen=True)
class ContactScores:
    """The contacts of a user, scored by each feature of the contact heuristics."""

    frequency: Scores
    """number of contact events from the user to each contact, without contacts who have received none"""
    recency: Scores
    """UTC second of the last contact event with each contact, in either direction"""
    recency_of_done: Scores
    """UTC second of the last contact event from the user to each contact, without contacts who have received none"""
    base_level: Scores
    """the sum of (age in seconds) ** -0.5 over the contact events with each contact, in either direction; its logarithm
    is the base-level activation of the ACT-R theory of memory (Anderson and Schooler 1991)"""
    count: Scores
    """number of contact events with each contact, in either direction"""


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
            return ContactScores(*5 * (empty,))
        window = self.histories.user_entries(user, num_visible)
        contact = self.log.is_contact[self.event[window]]
        users, index = np.unique(self.neighbor[window][contact], return_inverse=True)
        t = self.log.timestamp[self.event[window][contact]]
        outgoing = np.bincount(index, ~self.incoming[window][contact], len(users))
        recency = np.zeros(len(users), np.int64)
        recency[index] = t  # of repeated indices, NumPy stores the last value: the latest time
        is_done, last_done = ~self.incoming[window][contact], np.zeros(len(users), np.int64)
        last_done[index[is_done]] = t[is_done]
        activation = np.bincount(index, np.maximum(cutoff - t, 1).astype(float) ** -0.5, len(users))
        has_received = outgoing > 0
        counts = np.bincount(index, minlength=len(users))
        frequency, recency_of_done = ((users[has_received], x[has_received]) for x in (outgoing, last_done))
        return ContactScores(frequency, (users, recency), recency_of_done, (users, activation), (users, counts))
