"""A vector for every user from who was in contact with whom: a spectral embedding of the interaction graph.

The graph is symmetric: an event in either direction ties two users, weighted by its action and fading with age. Its
normalised adjacency has a leading eigenspace that tells communities apart; users are rows of it, of length 1. Nothing
but the events given is looked at. Who joins later gets a vector from the first events with users who have one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from befriend.data.activity import DAY
from befriend.data.log import EventLog

if TYPE_CHECKING:
    from scipy.sparse import csr_array  # type: ignore[import-untyped]


@dataclass(frozen=True)
class Graph:
    """How weights are made of events."""

    half_life: float
    """days after which an event weighs half"""
    weights: dict[str, float]
    """action -> weight, 1 for those not named; blocks weigh nothing"""

    def adjacency(self, log: EventLog, events: np.ndarray, until: int) -> csr_array:
        """float64[N, N], symmetric: the ties that events, int64, make; ages count back from the second `until`.

        An entry is log(1 + the sum of the weights): the hundredth message ties less than the first.
        """
        from scipy.sparse import coo_array, csr_array

        events = events[~log.is_exclude[events]]
        by_action = np.array([self.weights.get(name, 1.0) for name in log.actions])
        age = (until - log.timestamp[events]).clip(min=0) / (self.half_life * DAY)
        weight = by_action[log.action[events]] * np.exp2(-age)
        actor, target = log.actor[events], log.target[events]
        ends = np.concatenate([actor, target]), np.concatenate([target, actor])
        shape = (log.num_users, log.num_users)
        graph = csr_array(coo_array((np.concatenate([weight, weight]), ends), shape=shape))
        graph.sum_duplicates()
        graph.data = np.log1p(graph.data)
        return graph


def normalised(graph: csr_array) -> tuple[csr_array, np.ndarray]:
    """D_tau^-1/2 A D_tau^-1/2 of ties A, float64[N, N], and the diagonal of D_tau^-1/2, float64[N].

    Degrees are regularised by their mean (Chaudhuri et al. 2012), so that loosely tied users do not make dimensions of
    their own.
    """
    from scipy.sparse import diags_array

    degree = graph.sum(1)
    root = 1 / np.sqrt(degree + max(degree.mean(), 1e-12))
    return (diags_array(root) @ graph @ diags_array(root)).tocsr(), root


@dataclass(frozen=True)
class Spectrum:
    """The leading eigenspace of a graph, and what it takes to place somebody new in it."""

    basis: np.ndarray
    """float32[n, D], D_tau^-1/2 U / s: a weighted sum of its rows is where somebody with these contacts lies"""
    scale: np.ndarray
    """float32[D], what each dimension counts"""

    @classmethod
    def of(cls, graph: csr_array, dimensions: int, seed: int) -> Self:
        """By randomised SVD (Halko et al. 2011), linear in the number of ties."""
        from sklearn.utils.extmath import randomized_svd  # type: ignore[import-untyped]

        n = graph.shape[0]
        normal, root = normalised(graph)
        kept = min(dimensions, max(1, n - 1))
        u, s, _ = randomized_svd(normal, kept, n_iter=6, random_state=seed)
        basis, scale = np.zeros((n, dimensions)), np.zeros(dimensions)
        basis[:, :kept] = root[:, None] * u / np.maximum(s, 1e-6)
        scale[:kept] = s
        return cls(basis.astype(np.float32), scale.astype(np.float32))

    def place(self, ties: csr_array) -> np.ndarray:
        """float32[m, D], rows of length 1: users by their ties to the users of the graph, float64[m, n].

        Somebody of the graph lies where the eigenvectors say: U = A U / s. 0 for users without ties.
        """
        found = (ties @ self.basis) * self.scale
        length = np.linalg.norm(found, axis=1, keepdims=True)
        return (found / np.where(length > 0, length, 1)).astype(np.float32)
