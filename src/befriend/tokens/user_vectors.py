"""User vectors from events: a spectral embedding of the interaction graph.

The graph is symmetric: an event in either direction makes an edge between two users, with a weight that depends on its
action and decays with its age. The leading eigenspace of the normalised adjacency separates communities. A user's
vector is its row of this eigenspace, with each dimension weighted by its singular value, scaled to length 1. A user who
joins later gets a vector from its edges to users of the graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from befriend.data.event_log import DAY, EventLog

if TYPE_CHECKING:
    from scipy.sparse import csr_array  # type: ignore[import-untyped]


@dataclass(frozen=True)
class InteractionGraph:
    """The weights of events, from which the graph is made."""

    half_life: float
    """days after which an event has half its weight"""
    weights: dict[str, float]
    """action -> weight of its events, 1 for actions not listed"""

    def adjacency(self, log: EventLog, events: np.ndarray, now: int) -> csr_array:
        """float64[N, N], symmetric edge weights. events: int64[n], indices; now: UTC second at which ages are 0.

        An edge weighs log(1 + the sum of the events' weights), so the hundredth message adds less than the first.
        Exclude events, such as blocks, do not count.
        """
        from scipy.sparse import coo_array, csr_array

        events = events[~log.is_exclude[events]]
        by_action = np.array([self.weights.get(name, 1.0) for name in log.actions])
        age = (now - log.timestamp[events]).clip(min=0) / (self.half_life * DAY)
        weight = by_action[log.action[events]] * np.exp2(-age)
        actor, target = log.actor[events], log.target[events]
        ends = np.concatenate([actor, target]), np.concatenate([target, actor])
        shape = (log.num_users, log.num_users)
        graph = csr_array(coo_array((np.concatenate([weight, weight]), ends), shape=shape))
        graph.sum_duplicates()
        graph.data = np.log1p(graph.data)
        return graph


def normalized_adjacency(graph: csr_array) -> tuple[csr_array, np.ndarray]:
    """D_tau^-1/2 A D_tau^-1/2 of a graph A, float64[N, N], and the diagonal of D_tau^-1/2, float64[N].

    D_tau is the diagonal matrix of the degrees plus tau, their mean. This regularisation (Chaudhuri et al. 2012)
    prevents weakly connected users from forming dimensions of their own.
    """
    from scipy.sparse import diags_array

    degree = graph.sum(1)
    root = 1 / np.sqrt(degree + max(degree.mean(), 1e-12))
    return (diags_array(root) @ graph @ diags_array(root)).tocsr(), root


@dataclass(frozen=True)
class SpectralEmbedding:
    """The leading eigenspace of a graph, scaled so that it also embeds users who join later."""

    basis: np.ndarray
    """float32[n, D], D_tau^-1/2 U / s, with the left singular vectors U and the singular values s of the normalised
    adjacency"""
    scale: np.ndarray
    """float32[D], s"""

    @classmethod
    def of(cls, graph: csr_array, dimensions: int, seed: int) -> Self:
        """By randomised SVD (Halko et al. 2011), in time linear in the number of edges.

        graph: float64[n, n]; dimensions: D. With fewer than D + 1 users, the last dimensions are 0.
        """
        from sklearn.utils.extmath import randomized_svd  # type: ignore[import-untyped]

        n = graph.shape[0]
        normal, root = normalized_adjacency(graph)
        rank = min(dimensions, max(1, n - 1))
        u, s, _ = randomized_svd(normal, rank, n_iter=6, random_state=seed)
        basis, scale = np.zeros((n, dimensions)), np.zeros(dimensions)
        basis[:, :rank] = root[:, None] * u / np.maximum(s, 1e-6)
        scale[:rank] = s
        return cls(basis.astype(np.float32), scale.astype(np.float32))

    def embed(self, edge_weights: csr_array) -> np.ndarray:
        """float32[m, D], vectors of length 1 of m users, from their edges to users of the graph, float64[m, n].

        A vector is the sum of the neighbors' rows of the basis, weighted by edges, times s, scaled to length 1. For
        users of the graph, this is their row of U s, up to the signs of columns, because the normalised adjacency maps
        each column of U / s to that of U or -U. 0 for users without edges.
        """
        vectors = (edge_weights @ self.basis) * self.scale
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        return (vectors / np.where(length > 0, length, 1)).astype(np.float32)
