"""User vectors from events: communities are separated, edges depend on weight and age, later users are embedded."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array  # type: ignore[import-untyped]

from befriend.data.event_log import EventLog
from befriend.tokens.user_vectors import InteractionGraph, SpectralEmbedding
from tests.conftest import make_log

DAY = 86_400
START = 1_600_000_000


def two_cliques(size: int = 8) -> EventLog:
    """Two groups in which every user writes to every other user, connected by one message."""
    pairs = [(a, b) for a in range(size) for b in range(size) if a != b]
    events = [(a + offset, "hi", b + offset, START + k) for offset in (0, size) for k, (a, b) in enumerate(pairs)]
    events.append((0, "hi", size, START + len(pairs)))
    return make_log(sorted(events, key=lambda event: event[3]))


def test_the_adjacency_of_a_small_log() -> None:
    events = [(0, "hi", 1, START), (1, "view", 0, START), (2, "hi", 0, START + 10 * DAY), (1, "block", 2, START)]
    log = make_log(sorted(events, key=lambda event: event[3]), {"block": "exclude", "view": "signal"})
    graph = (
        InteractionGraph(half_life=10, weights={"view": 0.5}).adjacency(log, np.arange(4), START + 10 * DAY).toarray()
    )
    assert np.allclose(graph, graph.T)
    assert graph[0, 1] == pytest.approx(np.log1p(0.5 * (1 + 0.5)))  # a message and half a view, both a half-life old
    assert graph[0, 2] == pytest.approx(np.log1p(1))
    assert graph[1, 2] == 0  # a block makes no edge


def test_users_of_one_community_have_similar_vectors() -> None:
    log = two_cliques()
    graph = InteractionGraph(90, {}).adjacency(log, np.arange(log.num_events), START)
    vectors = SpectralEmbedding.of(graph, 4, seed=0).embed(graph)
    cosine = vectors @ vectors.T
    first, second = slice(0, 8), slice(8, 16)
    assert np.allclose(np.diag(cosine), 1, atol=1e-5)
    assert min(cosine[first, first].min(), cosine[second, second].min()) > cosine[first, second].max() + 0.3


def test_users_of_the_graph_have_the_rows_of_its_leading_eigenvectors() -> None:
    log = two_cliques()
    graph = InteractionGraph(90, {}).adjacency(log, np.arange(log.num_events), START)
    dense = graph.toarray()
    root = 1 / np.sqrt(dense.sum(1) + dense.sum(1).mean())
    values, space = np.linalg.eigh(root[:, None] * dense * root)
    order = np.argsort(-np.abs(values))[:3]
    exact = dense @ (root[:, None] * space[:, order] / np.abs(values[order])) * np.abs(values[order])
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    vectors = SpectralEmbedding.of(graph, 3, seed=0).embed(graph)
    assert np.allclose(vectors @ vectors.T, exact @ exact.T, atol=1e-4)


def test_a_later_user_has_a_vector_near_those_of_its_contacts() -> None:
    log = two_cliques()
    graph = InteractionGraph(90, {}).adjacency(log, np.arange(log.num_events), START)
    embedding = SpectralEmbedding.of(graph, 2, seed=0)  # further axes of two cliques depend on rounding
    edge_weights = np.zeros((3, 16))
    edge_weights[0, [1, 2]], edge_weights[1, [9, 12]] = 1, 1  # two later users with two contacts each, and one without
    first, second, without_contacts = embedding.embed(csr_array(edge_weights))
    vectors = embedding.embed(graph)
    assert (first @ vectors[:8].T).min() > 0.7 > (first @ vectors[8:].T).max()
    assert (second @ vectors[8:].T).min() > 0.7 > (second @ vectors[:8].T).max()
    assert not without_contacts.any()


def test_a_graph_may_have_fewer_users_than_dimensions() -> None:
    log = make_log([(0, "hi", 1, START)])
    graph = InteractionGraph(90, {}).adjacency(log, np.arange(1), START)
    vectors = SpectralEmbedding.of(graph, 8, seed=0).embed(graph)
    assert vectors.shape == (2, 8)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1])
    assert not vectors[:, 1:].any()  # two users make one dimension
