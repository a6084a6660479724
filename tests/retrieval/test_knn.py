"""Maximum inner product search: results computed by hand, exclusions, ties, and approximate against exact search."""

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
QUERIES = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # inner products 1 0 3 -1 0 and 0 2 1 -1 2
BOTH_INDEXES = pytest.mark.parametrize("make", [ExactIndex, IvfIndex.build])


def clustered(count: int, queries: int, seed: int = 0, tail: float = 0.4) -> tuple[Tensor, Tensor]:
    """float32[count, 32] around 50 directions with log-normal norms, float32[queries, 32] around the same."""
    generator = torch.Generator().manual_seed(seed)
    centres = F.normalize(torch.randn(50, 32, generator=generator), dim=1)

    def near(rows: int) -> Tensor:
        center = torch.randint(50, (rows,), generator=generator)
        return F.normalize(
            centres[center] + 0.7 * F.normalize(torch.randn(rows, 32, generator=generator), dim=1), dim=1
        )

    return near(count) * (tail * torch.randn(count, 1, generator=generator)).exp(), near(queries)


def csr(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.cumsum([0, *map(len, rows)]), np.array([one for row in rows for one in row], np.int64)


def brute_force(
    vectors: Tensor, queries: Tensor, k: int, excluded: list[list[int]], allowed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The k best by computing and sorting all scores."""
    scores = queries.numpy() @ vectors.numpy().T
    scores[:, ~allowed] = -INF
    for row, ids in enumerate(excluded):
        scores[row, ids] = -INF
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, order, axis=1)
    return np.where(best > -INF, order, -1), best


def recall(exact: SearchResult, result: SearchResult, k: int = 10) -> float:
    pairs = zip(exact.ids[:, :k], result.ids[:, :k], strict=True)
    return float(np.mean([torch.isin(expected, listed).float().mean() for expected, listed in pairs]))


def equal_results(a: SearchResult, b: SearchResult) -> bool:
    return torch.equal(a.ids, b.ids) and torch.equal(a.scores, b.scores)


@BOTH_INDEXES
def test_results_are_sorted_by_score_then_by_id(make) -> None:
    result = make(TINY).search(QUERIES, 4)
    assert result.ids.tolist() == [[2, 0, 1, 4], [1, 4, 2, 0]]
    assert result.scores.tolist() == [[3, 1, 0, 0], [2, 2, 1, 0]]
    assert (result.ids.dtype, result.scores.dtype) == (torch.int64, torch.float32)


@BOTH_INDEXES
def test_excluded_ids_are_not_returned_and_results_are_padded(make) -> None:
    result = make(TINY).search(QUERIES, 3, *csr([[2], [4, 0, 1, 3]]))
    assert result.ids.tolist() == [[0, 1, 4], [2, -1, -1]]
    assert result.scores.tolist() == [[1, 0, 0], [1, -INF, -INF]]


@BOTH_INDEXES
def test_only_allowed_ids_are_returned(make) -> None:
    allowed = np.array([True, False, False, True, True])
    result = make(TINY).search(QUERIES, 3, *csr([[0], []]), allowed=allowed)
    assert result.ids.tolist() == [[4, 3, -1], [4, 0, 3]]
    assert result.scores.tolist() == [[0, -1, -INF], [2, 0, -1]]


@BOTH_INDEXES
def test_results_without_allowed_ids_with_few_vectors_and_without_queries(make) -> None:
    index = make(TINY)
    assert index.search(QUERIES, 2, allowed=np.zeros(5, bool)).ids.tolist() == [[-1, -1], [-1, -1]]
    assert index.search(QUERIES, 7).ids.tolist() == [[2, 0, 1, 4, 3, -1, -1], [1, 4, 2, 0, 3, -1, -1]]
    assert index.search(QUERIES[:0], 2).ids.shape == (0, 2)


@BOTH_INDEXES
def test_ids_without_a_vector_may_be_excluded(make) -> None:
    assert make(TINY).search(QUERIES, 1, *csr([[5, 2, -1, 99], [7]])).ids.tolist() == [[0], [1]]


@pytest.mark.parametrize("blocks", [64, 1000, 2**20])
def test_exact_search_agrees_with_brute_force_ties_included(blocks: int, monkeypatch) -> None:
    """Coordinates are small integers, so that inner products are exact in any order of summation, and ties are frequent."""
    monkeypatch.setattr(knn, "SCORES_PER_BLOCK", blocks)
    monkeypatch.setattr(knn, "QUERIES_PER_BATCH", 7)
    rng = np.random.default_rng(1)
    vectors = torch.from_numpy(rng.integers(-2, 3, (1500, 6)).astype(np.float32))
    queries = torch.from_numpy(rng.integers(-2, 3, (20, 6)).astype(np.float32))
    excluded = [rng.choice(1500, size, replace=False).tolist() for size in [0, 1, 5, 1499, 1500, *[40] * 14, 1490]]
    for allowed in (np.ones(1500, bool), rng.random(1500) < 0.3):
        result = ExactIndex(vectors).search(queries, 25, *csr(excluded), allowed=allowed)
        ids, scores = brute_force(vectors, queries, 25, excluded, allowed)
        assert result.ids.tolist() == ids.tolist()
        assert result.scores.tolist() == scores.tolist()


def test_exact_search_is_right_if_scores_grow_from_block_to_block(monkeypatch) -> None:
    """The worst case of the running top k: each block has larger scores than all blocks before it."""
    monkeypatch.setattr(knn, "SCORES_PER_BLOCK", 128)
    result = ExactIndex(torch.arange(1000.0)[:, None]).search(torch.tensor([[1.0], [-1.0]]), 3)
    assert result.ids.tolist() == [[999, 998, 997], [0, 1, 2]]


@pytest.mark.parametrize("tail", [0.0, 0.4, 0.8])
def test_the_approximate_index_finds_nearly_all_of_the_best(tail: float) -> None:
    vectors, queries = clustered(40_000, 200, tail=tail)
    index = IvfIndex.build(vectors)
    exact, result = ExactIndex(vectors).search(queries, 100), index.search(queries, 100)
    assert recall(exact, result) >= 0.95
    assert (result.ids >= 0).all()
    scores = (queries[:, None] * vectors[result.ids]).sum(2)
    torch.testing.assert_close(result.scores, scores)
    assert (result.scores.diff(dim=1) <= 0).all()


def test_equal_norms_give_one_band() -> None:
    assert len(IvfIndex.build(clustered(2000, 1, tail=0.0)[0]).radii) == 1
    assert len(IvfIndex.build(clustered(2000, 1, tail=0.4)[0]).radii) > 4


def test_the_approximate_index_returns_no_excluded_ids_and_fills_every_list() -> None:
    vectors, queries = clustered(3000, 60)
    index = IvfIndex.build(vectors, max_codes=200)
    best = ExactIndex(vectors).search(queries, 3000).ids
    sizes = [0, 3, 30, 150, 1500, 2995]
    excluded = [best[row, : sizes[row % 6]].tolist() for row in range(60)]  # the best ids, as contacts often are
    result = index.search(queries, 10, *csr(excluded))
    for row, hidden in enumerate(excluded):
        listed = result.ids[row].tolist()
        assert not set(listed) & set(hidden)
        assert sum(one >= 0 for one in listed) == min(10, 3000 - len(hidden))
        assert len(set(listed) - {-1}) == sum(one >= 0 for one in listed)
    few = np.zeros(3000, bool)
    few[[5, 700, 2999]] = True
    assert {*index.search(queries, 10, allowed=few).ids[0].tolist()} == {5, 700, 2999, -1}


def test_a_refreshed_index_holds_the_new_vectors_in_the_old_directions() -> None:
    vectors, queries = clustered(3000, 5)
    index = IvfIndex.build(vectors)
    moved = torch.cat([vectors, 50 * queries])  # five new vectors, each the best for one query
    moved[17] = 100 * queries[0]
    moved[index.search(queries, 1).ids[1, 0]] = 0
    refreshed = index.refreshed(moved)
    assert refreshed.search(queries, 2).ids[0].tolist() == [17, 3000]
    assert refreshed.search(queries[1:], 1, *csr([[17]] * 4)).ids.flatten().tolist() == [3001, 3002, 3003, 3004]
    assert recall(ExactIndex(moved).search(queries, 10), refreshed.search(queries, 10)) >= 0.9
    assert torch.equal(refreshed.directions, index.directions)
    assert index.search(queries, 1).ids.max() < 3000


def test_a_loaded_index_returns_the_results_of_the_saved_one(tmp_path: Path) -> None:
    vectors, queries = clustered(3000, 20)
    index = IvfIndex.build(vectors, max_codes=300)
    index.save(tmp_path / "index.safetensors")
    loaded = IvfIndex.load(tmp_path / "index.safetensors")
    assert equal_results(loaded.search(queries, 10), index.search(queries, 10))
    loaded.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "index.safetensors").read_bytes()


def test_equal_seeds_build_equal_indexes() -> None:
    vectors, queries = clustered(20_000, 50)
    one, two, other = (IvfIndex.build(vectors, max_codes=400, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.directions, two.directions)
    assert equal_results(one.search(queries, 20), two.search(queries, 20))
    assert not torch.equal(one.directions, other.directions)
