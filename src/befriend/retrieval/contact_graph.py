"""Scores of users near a user in the contact graph: common contacts and random walks, with and without decay.

A contact event, such as a message, makes two users contacts. All scores are as of a cutoff, a UTC second: only events
before it count. Decayed contacts are those of `befriend.features.two_hop`.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch

from befriend.data.event_log import DAY, EventLog
from befriend.features.two_hop import DECAYED_ADAMIC_ADAR, TWO_HOP_HALF_LIVES, TwoHop

Scores = tuple[np.ndarray, np.ndarray]
"""int64[n], users as internal ids, and int64[n] or float64[n], their scores; all other users are ranked after them"""
WALK_HALF_LIFE = 7 * DAY
WALK_FRONTIER = 64  # number of users from whom a step of a decayed walk is taken


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

    def scores(self, user: int) -> tuple[Scores, Scores]:
        """Adamic-Adar and PPR of the users near a user, internal id; none for a user who is not in the log.

        Adamic-Adar: the sum of 1 / ln degree(w) over the common contacts w (Adamic and Adar 2003). PPR: the
        probabilities of a random walk from the user after 1, 2 and 3 steps, weighted by 1/2, 1/4 and 1/8. That is twice
        the terms of 1 to 3 steps of personalized PageRank with restart probability 1/2.
        """
        graph, n, degree = self.graph, len(self.degree), self.degree
        neighbors = np.empty(0, np.int64)
        if user < n:
            neighbors = graph.neighbor[graph.indptr[user] : graph.indptr[user] + degree[user]]
        if not len(neighbors):
            return (np.empty(0, np.int64), np.empty(0)), (np.empty(0, np.int64), np.empty(0))
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
        return _nonzero(adamic_adar), _nonzero(step1 / 2 + step2 / 4 + step3 / 8)


class GraphScores:
    """The scores of the users near one user, each computed when it is first needed. Their names are in GRAPH_SCORES."""

    def __init__(self, graph: ContactGraphSnapshot, two_hop: TwoHop, user: int, num_visible: int, cutoff: int):
        """user: internal id, N for a user who is not in the log; cutoff: UTC second, with num_visible events before."""
        self.graph, self.two_hop, self.user = graph, two_hop, user
        self.as_of = torch.tensor([num_visible]), torch.tensor([cutoff])

    @cached_property
    def undecayed(self) -> tuple[Scores, Scores]:
        """`adamic_adar` and `ppr`."""
        return self.graph.scores(self.user)

    @property
    def adamic_adar(self) -> Scores:
        return self.undecayed[0]

    @property
    def ppr(self) -> Scores:
        return self.undecayed[1]

    @cached_property
    def two_hop_scores(self) -> tuple[np.ndarray, np.ndarray]:
        """int64[n], the two-hop neighbors, and float64[n, NUM_TWO_HOP_FEATURES], their features."""
        neighbors = self.two_hop.neighbors(torch.tensor([self.user]), *self.as_of)
        return neighbors.neighbor.numpy(), neighbors.features.double().numpy()

    def decayed_adamic_adar(self, half_life: int | None = None) -> Scores:
        """Adamic-Adar of contacts that decay with one of TWO_HOP_HALF_LIVES, in seconds; None: the sum over all."""
        users, features = self.two_hop_scores
        values = features[:, DECAYED_ADAMIC_ADAR]
        return users, values.sum(1) if half_life is None else values[:, TWO_HOP_HALF_LIVES.index(half_life)]

    @cached_property
    def decayed_ppr(self) -> Scores:
        """As `ppr`, of walks that take a contact in proportion to its decayed weight, see WALK_HALF_LIFE.

        A step is taken from the WALK_FRONTIER likeliest users, and does not go on from the user's own return.
        """
        n, column = len(self.graph.degree), TWO_HOP_HALF_LIVES.index(WALK_HALF_LIFE)

        def step(probability: np.ndarray) -> np.ndarray:
            """float64[N]: probabilities after one more step from the likeliest users."""
            users = np.flatnonzero(probability)
            users = users[np.lexsort((users, -probability[users]))[:WALK_FRONTIER]]
            start = torch.from_numpy(users)
            as_of = [x.expand(len(start)) for x in self.as_of]
            row, contact, weight = self.two_hop.contacts(start, *as_of)
            share = weight[:, column].double().numpy() / self.two_hop.sums(start, *as_of)[1][row, column].numpy()
            return np.bincount(contact.numpy(), probability[users][row.numpy()] * share, n)

        first = np.zeros(n)
        if self.user < n:
            first[self.user] = 1
        first = step(first)
        second = step(first)
        second[self.user : self.user + 1] = 0
        return _nonzero(first / 2 + second / 4 + step(second) / 8)


def _nonzero(scores: np.ndarray) -> Scores:
    users = np.flatnonzero(scores)
    return users, scores[users]
