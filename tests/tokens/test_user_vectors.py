"""Vectors of users: communities lie apart, strength and age of ties count, and those who join are placed the same way."""

from __future__ import annotations

import numpy as np
import pytest

from befriend.data.log import EventLog
from befriend.tokens.user_vectors import Graph, Spectrum
from tests.conftest import make_log

DAY = 86_400
START = 1_600_000_000


def two_circles(size: int = 8) -> EventLog:
    """Two groups in which everybody writes to everybody, tied by one message."""
    pairs = [(a, b) for a in range(size) for b in range(size) if a != b]
    events = [(a + low, "hi", b + low, START + k) for low in (0, size) for k, (a, b) in enumerate(pairs)]
    events.append((0, "hi", size, START + len(pairs)))
    return make_log(sorted(events, key=lambda event: event[3]))


def test_the_adjacency_of_a_small_log() -> None:
    events = [(0, "hi", 1, START), (1, "view", 0, START), (2, "hi", 0, START + 10 * DAY), (1, "block", 2, START)]
    log = make_log(sorted(events, key=lambda event: event[3]), {"block": "exclude", "view": "signal"})
    graph = Graph(half_life=10, weights={"view": 0.5}).adjacency(log, np.arange(4), START + 10 * DAY).toarray()
    assert np.allclose(graph, graph.T)
    assert graph[0, 1] == pytest.approx(np.log1p(0.5 * (1 + 0.5)))  # a message and half a view, both a half-life old
    assert graph[0, 2] == pytest.approx(np.log1p(1))
    assert graph[1, 2] == 0  # a block ties nobody


def test_people_of_one_community_lie_together() -> None:
    log = two_circles()
    graph = Graph(90, {}).adjacency(log, np.arange(log.num_events), START)
    vectors = Spectrum.of(graph, 4, seed=0).place(graph)
    alike = vectors @ vectors.T
    one, other = slice(0, 8), slice(8, 16)
    assert np.allclose(np.diag(alike), 1, atol=1e-5)
    assert min(alike[one, one].min(), alike[other, other].min()) > alike[one, other].max() + 0.3


def test_somebody_of_the_graph_lies_where_the_eigenvectors_say() -> None:
    log = two_circles()
    graph = Graph(90, {}).adjacency(log, np.arange(log.num_events), START)
    dense = graph.toarray()
    root = 1 / np.sqrt(dense.sum(1) + dense.sum(1).mean())
    values, space = np.linalg.eigh(root[:, None] * dense * root)
    order = np.argsort(-np.abs(values))[:3]
    exact = root[:, None] * space[:, order] * values[order]  # as random-walk eigenvectors, each as long as its value
    exact = dense @ (root[:, None] * space[:, order] / np.abs(values[order])) * np.abs(values[order])
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    found = Spectrum.of(graph, 3, seed=0).place(graph)
    assert np.allclose(found @ found.T, exact @ exact.T, atol=1e-4)


def test_who_joins_later_lies_with_the_first_contacts() -> None:
    log = two_circles()
    graph = Graph(90, {}).adjacency(log, np.arange(log.num_events), START)
    spectrum = Spectrum.of(graph, 2, seed=0)  # further axes of two cliques are a matter of rounding
    from scipy.sparse import csr_array

    ties = np.zeros((3, 16))
    ties[0, [1, 2]], ties[1, [9, 12]] = 1, 1  # two newcomers with two contacts each, and one with none
    first, second, nobody = spectrum.place(csr_array(ties))
    vectors = spectrum.place(graph)
    assert (first @ vectors[:8].T).min() > 0.7 > (first @ vectors[8:].T).max()
    assert (second @ vectors[8:].T).min() > 0.7 > (second @ vectors[:8].T).max()
    assert not nobody.any()


def test_fewer_users_than_dimensions() -> None:
    log = make_log([(0, "hi", 1, START)])
    graph = Graph(90, {}).adjacency(log, np.arange(1), START)
    vectors = Spectrum.of(graph, 8, seed=0).place(graph)
    assert vectors.shape == (2, 8) and np.isfinite(vectors).all()
