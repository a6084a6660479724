"""Nearest vectors by inner product: hand-made answers, exclusions, ties, and the approximate index against the exact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from befriend.retrieval import knn
from befriend.retrieval.knn import ExactIndex, IvfIndex, SearchResult

INF = float("inf")
TINY = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0], [-1.0, -1.0], [0.0, 2.0]])
ASKED = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # inner products 1 0 3 -1 0 and 0 2 1 -1 2
BOTH = pytest.mark.parametrize("make", [ExactIndex, IvfIndex.build])


def clustered(count: int, queries: int, seed: int = 0, tail: float = 0.4) -> tuple[Tensor, Tensor]:
    """float32[count, 32] around 50 directions with log-normal norms, float32[queries, 32] around the same."""
    generator = torch.Generator().manual_seed(seed)
    centres = F.normalize(torch.randn(50, 32, generator=generator), dim=1)

    def near(rows: int) -> Tensor:
        at = torch.randint(50, (rows,), generator=generator)
        return F.normalize(centres[at] + 0.7 * F.normalize(torch.randn(rows, 32, generator=generator), dim=1), dim=1)

    return near(count) * (tail * torch.randn(count, 1, generator=generator)).exp(), near(queries)


def csr(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.cumsum([0, *map(len, rows)]), np.array([one for row in rows for one in row], np.int64)


def brute_force(
    vectors: Tensor, queries: Tensor, k: int, excluded: list[list[int]], allowed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Every score, sorted by score and then by id."""
    scores = queries.numpy() @ vectors.numpy().T
    scores[:, ~allowed] = -INF
    for row, ids in enumerate(excluded):
        scores[row, ids] = -INF
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, order, axis=1)
    return np.where(best > -INF, order, -1), best


def recall(exact: SearchResult, found: SearchResult, k: int = 10) -> float:
    pairs = zip(exact.ids[:, :k], found.ids[:, :k], strict=True)
    return float(np.mean([torch.isin(true, listed).float().mean() for true, listed in pairs]))


def same(a: SearchResult, b: SearchResult) -> bool:
    return torch.equal(a.ids, b.ids) and torch.equal(a.scores, b.scores)


@BOTH
def test_the_best_come_first_and_of_equals_the_smaller_id(make) -> None:
    found = make(TINY).search(ASKED, 4)
    assert found.ids.tolist() == [[2, 0, 1, 4], [1, 4, 2, 0]]
    assert found.scores.tolist() == [[3, 1, 0, 0], [2, 2, 1, 0]]
    assert (found.ids.dtype, found.scores.dtype) == (torch.int64, torch.float32)


@BOTH
def test_excluded_users_are_not_found_and_the_rest_is_padded(make) -> None:
    found = make(TINY).search(ASKED, 3, *csr([[2], [4, 0, 1, 3]]))
    assert found.ids.tolist() == [[0, 1, 4], [2, -1, -1]]
    assert found.scores.tolist() == [[1, 0, 0], [1, -INF, -INF]]


@BOTH
def test_only_the_allowed_are_found(make) -> None:
    allowed = np.array([True, False, False, True, True])
    found = make(TINY).search(ASKED, 3, *csr([[0], []]), allowed=allowed)
    assert found.ids.tolist() == [[4, 3, -1], [4, 0, 3]]
    assert found.scores.tolist() == [[0, -1, -INF], [2, 0, -1]]


@BOTH
def test_nobody_allowed_fewer_users_than_asked_for_and_no_queries(make) -> None:
    index = make(TINY)
    assert index.search(ASKED, 2, allowed=np.zeros(5, bool)).ids.tolist() == [[-1, -1], [-1, -1]]
    assert index.search(ASKED, 7).ids.tolist() == [[2, 0, 1, 4, 3, -1, -1], [1, 4, 2, 0, 3, -1, -1]]
    assert index.search(ASKED[:0], 2).ids.shape == (0, 2)


@BOTH
def test_ids_without_a_vector_may_be_excluded(make) -> None:
    assert make(TINY).search(ASKED, 1, *csr([[5, 2, -1, 99], [7]])).ids.tolist() == [[0], [1]]


@pytest.mark.parametrize("blocks", [64, 1000, 2**20])
def test_exact_search_agrees_with_brute_force_ties_included(blocks: int, monkeypatch) -> None:
    """Small integers as coordinates: inner products are exact in any order of adding, and ties abound."""
    monkeypatch.setattr(knn, "SCORES", blocks)
    monkeypatch.setattr(knn, "ROWS", 7)
    rng = np.random.default_rng(1)
    vectors = torch.from_numpy(rng.integers(-2, 3, (1500, 6)).astype(np.float32))
    queries = torch.from_numpy(rng.integers(-2, 3, (20, 6)).astype(np.float32))
    excluded = [rng.choice(1500, size, replace=False).tolist() for size in [0, 1, 5, 1499, 1500, *[40] * 14, 1490]]
    for allowed in (np.ones(1500, bool), rng.random(1500) < 0.3):
        found = ExactIndex(vectors).search(queries, 25, *csr(excluded), allowed=allowed)
        ids, scores = brute_force(vectors, queries, 25, excluded, allowed)
        assert found.ids.tolist() == ids.tolist()
        assert found.scores.tolist() == scores.tolist()


def test_scores_that_only_rise_are_all_seen(monkeypatch) -> None:
    """The worst order: every block beats all before it."""
    monkeypatch.setattr(knn, "SCORES", 128)
    found = ExactIndex(torch.arange(1000.0)[:, None]).search(torch.tensor([[1.0], [-1.0]]), 3)
    assert found.ids.tolist() == [[999, 998, 997], [0, 1, 2]]


@pytest.mark.parametrize("tail", [0.0, 0.4, 0.8])
def test_the_approximate_index_finds_nearly_all_of_the_best(tail: float) -> None:
    vectors, queries = clustered(40_000, 200, tail=tail)
    index = IvfIndex.build(vectors)
    exact, found = ExactIndex(vectors).search(queries, 100), index.search(queries, 100)
    assert recall(exact, found) >= 0.95
    assert (found.ids >= 0).all()
    scores = (queries[:, None] * vectors[found.ids]).sum(2)
    torch.testing.assert_close(found.scores, scores)
    assert (found.scores.diff(dim=1) <= 0).all()


def test_norms_that_are_alike_make_one_band() -> None:
    assert len(IvfIndex.build(clustered(2000, 1, tail=0.0)[0]).radii) == 1
    assert len(IvfIndex.build(clustered(2000, 1, tail=0.4)[0]).radii) > 4


def test_the_approximate_index_never_finds_the_excluded_and_fills_every_list() -> None:
    vectors, queries = clustered(3000, 60)
    index = IvfIndex.build(vectors, looks=200)
    best = ExactIndex(vectors).search(queries, 3000).ids
    sizes = [0, 3, 30, 150, 1500, 2995]
    excluded = [best[row, : sizes[row % 6]].tolist() for row in range(60)]  # the best ones, as contacts are
    found = index.search(queries, 10, *csr(excluded))
    for row, hidden in enumerate(excluded):
        listed = found.ids[row].tolist()
        assert not set(listed) & set(hidden)
        assert sum(one >= 0 for one in listed) == min(10, 3000 - len(hidden))
        assert len(set(listed) - {-1}) == sum(one >= 0 for one in listed)
    few = np.zeros(3000, bool)
    few[[5, 700, 2999]] = True
    assert {*index.search(queries, 10, allowed=few).ids[0].tolist()} == {5, 700, 2999, -1}


def test_refreshed_lists_hold_the_new_vectors_and_new_users_in_the_old_directions() -> None:
    vectors, queries = clustered(3000, 5)
    index = IvfIndex.build(vectors)
    moved = torch.cat([vectors, 50 * queries])  # five users join, each the best there is for a query
    moved[17] = 100 * queries[0]
    moved[index.search(queries, 1).ids[1, 0]] = 0
    refreshed = index.refreshed(moved)
    assert refreshed.search(queries, 2).ids[0].tolist() == [17, 3000]
    assert refreshed.search(queries[1:], 1, *csr([[17]] * 4)).ids.flatten().tolist() == [3001, 3002, 3003, 3004]
    assert recall(ExactIndex(moved).search(queries, 10), refreshed.search(queries, 10)) >= 0.9
    assert torch.equal(refreshed.directions, index.directions)
    assert index.search(queries, 1).ids.max() < 3000


def test_a_saved_index_answers_as_before(tmp_path: Path) -> None:
    vectors, queries = clustered(3000, 20)
    index = IvfIndex.build(vectors, looks=300)
    index.save(tmp_path / "index.safetensors")
    loaded = IvfIndex.load(tmp_path / "index.safetensors")
    assert same(loaded.search(queries, 10), index.search(queries, 10))
    loaded.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "index.safetensors").read_bytes()


def test_two_builds_are_equal_and_another_seed_is_another_index() -> None:
    vectors, queries = clustered(20_000, 50)
    one, two, other = (IvfIndex.build(vectors, looks=400, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.directions, two.directions)
    assert same(one.search(queries, 20), two.search(queries, 20))
    assert not torch.equal(one.directions, other.directions)
