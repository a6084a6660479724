"""Maximum inner product search: for each query vector, the k target vectors with the largest inner product.

`ExactIndex` scores every target. `IvfIndex` is approximate: with faiss, it scores only the most promising inverted
lists; a query for which these give fewer than k results is repeated with an `ExactIndex`. Both return results best
first, ties by the smaller id, without excluded ids, and as many as there are, up to k.

Shapes: B queries; N targets; D, width of a vector; P pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from befriend.files import atomic

QUERIES_PER_BATCH = 1024
SCORES_PER_BLOCK = 2**20  # scores computed at a time: about 4 MiB, which stay in the CPU cache while searched
GROUP_SIZE = 64  # adjacent scores that are skipped together when the largest of them is too small
SAMPLES_PER_DIRECTION = 64  # number of vectors that k-means is trained on, per direction (cluster)
MAX_BANDS = 8  # of norms, see `IvfIndex`; the highest of 8 bands holds 1 / 2^8 of the vectors
MAX_PROBES = 192  # inverted lists that a query scores at most
MAX_OVERFETCH = 4  # at most this many times k results are fetched in addition, to replace excluded ones

Array = np.ndarray | Tensor


@dataclass(frozen=True)
class SearchResult:
    """Results of B queries, best first; padded with -1 and -inf where there are fewer than k results."""

    ids: Tensor
    """int64[B, k], rows of the target vectors or ids of users"""
    scores: Tensor
    """[B, k]: inner products, or other scores of a search; float32 in the results of this module"""


class ExactIndex:
    """Computes every inner product, block by block: memory is bounded whatever the number of queries and targets."""

    def __init__(self, vectors: Tensor):
        """vectors: float32[N, D], target i at row i. Referenced, not copied."""
        self.vectors = vectors

    def search(
        self,
        queries: Tensor,
        k: int,
        exclude_indptr: Array | None = None,
        exclude: Array | None = None,
        allowed: Array | None = None,
    ) -> SearchResult:
        """The k targets with the largest inner product for each of B queries.

        queries: float32[B, D]; exclude: int64, ids that must not be returned, those of query b at
        exclude_indptr[b]:exclude_indptr[b + 1]; ids without a vector are ignored; exclude_indptr: int64[B + 1];
        allowed: bool[N], targets that may be returned at all, None: all targets.
        """
        excluded = _ExcludedPairs.of(len(queries), exclude_indptr, exclude)
        allowed_ids = None if allowed is None else torch.as_tensor(allowed).nonzero().flatten()
        return self.search_excluding(queries, k, excluded, allowed_ids)

    def search_excluding(
        self, queries: Tensor, k: int, excluded: _ExcludedPairs, allowed_ids: Tensor | None
    ) -> SearchResult:
        """As `search`. allowed_ids: int64[M], ascending; None: all targets."""
        columns = excluded.to_columns(len(self.vectors), allowed_ids)
        return _in_batches(queries, k, columns, lambda batch, pairs: self._search_batch(batch, k, pairs, allowed_ids))

    def _search_batch(
        self, queries: Tensor, k: int, excluded: _ExcludedPairs, allowed_ids: Tensor | None
    ) -> SearchResult:
        """Searches for one batch of queries.

        excluded: pairs of a query and a column; column i stands for target i, or for target allowed_ids[i].
        """
        rows, size = len(queries), len(self.vectors) if allowed_ids is None else len(allowed_ids)
        width = -(-max(1, min(max(SCORES_PER_BLOCK // rows, k), size)) // GROUP_SIZE) * GROUP_SIZE
        best = _RunningTopK(rows, k, width)
        block = torch.empty(rows, width)
        for start in range(0, size, width):
            stop = min(start + width, size)
            targets = self.vectors[start:stop] if allowed_ids is None else self.vectors[allowed_ids[start:stop]]
            torch.mm(queries, targets.T, out=block[:, : stop - start])
            block[:, stop - start :] = -torch.inf
            in_block = excluded.between(start, stop)
            block[in_block.row, in_block.id - start] = -torch.inf
            best.add(block, start)
        top = best.result()
        if allowed_ids is None or not size:
            return top
        return SearchResult(allowed_ids[top.ids.clamp(min=0)].where(top.ids >= 0, -1), top.scores)


class _RunningTopK:
    """Running top k of each row of a score matrix that arrives in blocks of columns.

    Holds, for each row, the k best scores at the last sort, and behind them, unsorted, all later scores above the k-th
    of these. To sort every block would take longer than the inner products. Most blocks have few scores above the k-th,
    and a whole group of GROUP_SIZE columns is skipped if its largest score is not above it.

    Example: one row, k = 2, five users. The first block scores columns 0, 1 and 2, the second columns 64 and 65.

    >>> def block(*scores):
    ...     return torch.tensor([[*scores, *[-torch.inf] * (GROUP_SIZE - len(scores))]])
    >>> best = _RunningTopK(rows=1, k=2, width=GROUP_SIZE)
    >>> best.add(block(0.25, 1.0, 0.5), start=0)
    >>> best.result()
    SearchResult(ids=tensor([[1, 2]]), scores=tensor([[1.0000, 0.5000]]))

    The threshold is now 0.5. Column 64 only equals it and is not added; column 65 is above it and replaces column 2:

    >>> best.add(block(0.5, 0.75), start=64)
    >>> best.result()
    SearchResult(ids=tensor([[ 1, 65]]), scores=tensor([[1.0000, 0.7500]]))
    """

    def __init__(self, rows: int, k: int, width: int):
        """width: columns of a block, a multiple of GROUP_SIZE."""
        self.k = k
        self.scores = torch.full((rows, 2 * k + width), -torch.inf)
        self.columns = torch.full((rows, 2 * k + width), -1)
        self.used = torch.full((rows,), k)  # number of slots of each row that hold a score

    def add(self, block: Tensor, start: int) -> None:
        """Adds a block of scores, float32[B, width], of the columns start, start + 1, ...

        `start` has to grow from call to call. Then the smaller of two columns with equal scores wins: a later column is
        not added if its score only equals the k-th, and sorting is stable.
        """
        threshold = self.scores[:, self.k - 1]
        if start == 0 and self.k < block.shape[1]:  # without it, all scores of the first block would be sorted
            kth = block.topk(self.k, dim=1).values[:, -1]
            threshold = torch.nextafter(kth, torch.full_like(kth, -torch.inf))
        groups = block.view(len(block), -1, GROUP_SIZE)  # (B, width / GROUP_SIZE, GROUP_SIZE)
        row, group = (groups.amax(2) > threshold[:, None]).nonzero(as_tuple=True)
        scores = groups[row, group]  # (groups with a score above the threshold, GROUP_SIZE)
        hit, lane = (scores > threshold[row, None]).nonzero(as_tuple=True)
        row, column = row[hit], start + group[hit] * GROUP_SIZE + lane  # row by row, columns ascending
        count = torch.bincount(row, minlength=len(block))
        slot = self.used[row] + torch.arange(len(row)) - (count.cumsum(0) - count)[row]
        self.scores[row, slot] = scores[hit, lane]
        self.columns[row, slot] = column
        self.used += count
        if self.used.max() > 2 * self.k:
            self._sort()

    def _sort(self) -> None:
        """Sorts each row and drops all but its k best scores."""
        k, end = self.k, int(self.used.max())
        scores, order = self.scores[:, :end].sort(dim=1, descending=True, stable=True)
        self.columns[:, :k] = self.columns[:, :end].gather(1, order[:, :k])
        self.scores[:, :k] = scores[:, :k]
        self.scores[:, k:end] = -torch.inf
        self.used.fill_(k)

    def result(self) -> SearchResult:
        """The k best columns of each row, with their scores."""
        self._sort()
        return SearchResult(self.columns[:, : self.k].clone(), self.scores[:, : self.k].clone())


class IvfIndex:
    """Inverted-file index (IVF) for inner products; a query scores only the lists that promise the largest scores.

    An inverted list holds vectors of similar direction (a cluster of spherical k-means) and similar norm (a band of
    norms). A query estimates the scores of a list as its inner product with the direction, times the mean norm of the
    band. Bands serve data whose norms have a long tail, as with popular users: a few vectors with large norms win most
    queries, and lists by direction alone would mix them with many vectors that hardly ever win. The idea is from Yan et
    al. 2018, "Norm-Ranging LSH for Maximum Inner Product Search". If all norms are similar, there is one band.
    """

    def __init__(self, vectors: Tensor, directions: Tensor, edges: Tensor, radii: Tensor, max_codes: int):
        """Puts the vectors into lists; see `build` for an index of new vectors.

        vectors: float32[N, D], referenced, not copied; directions: float32[L, D], of norm 1; edges: float32[R - 1], the
        norms that separate the R bands, ascending; radii: float32[R], the mean norm of each band; max_codes: number of
        vectors after which a query stops (in faiss, a stored vector is a code); more if many results are excluded.
        """
        from faiss.contrib.ivf_tools import add_preassigned

        faiss = _faiss()
        self.vectors, self.directions, self.edges, self.radii = vectors, directions, edges, radii
        self.max_codes = max_codes
        width, lists = vectors.shape[1], len(directions) * len(radii)
        quantizer = faiss.IndexFlatIP(width)  # faiss needs one of the right size; `_best_lists` chooses the lists
        quantizer.add(np.zeros((lists, width), np.float32))
        self._lists = faiss.IndexIVFFlat(quantizer, width, lists, faiss.METRIC_INNER_PRODUCT)
        nearest = torch.cat(
            [(chunk @ directions.T).argmax(1) for chunk in vectors.split(SCORES_PER_BLOCK // len(directions))]
        )
        band = torch.bucketize(vectors.norm(dim=1), edges, right=True)
        add_preassigned(self._lists, vectors.numpy(), (nearest * len(radii) + band).numpy())

    @classmethod
    def build(
        cls, vectors: Tensor, num_directions: int | None = None, max_codes: int | None = None, seed: int = 0
    ) -> IvfIndex:
        """Trains the directions and the bands on vectors, float32[N, D], and puts the vectors into lists.

        num_directions: by default sqrt(N), at most N; max_codes: as in `__init__`, by default 6 sqrt(N) and at least
        4,000; seed: of the sample of vectors, and of k-means.
        """
        root = max(1, len(vectors)) ** 0.5
        count = min(num_directions or round(root), len(vectors))
        order = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(seed))
        sample = order[: SAMPLES_PER_DIRECTION * count]
        means = _faiss().Kmeans(vectors.shape[1], count, niter=10, spherical=True, seed=seed, min_points_per_centroid=1)
        means.train(F.normalize(vectors[sample], dim=1).numpy())
        norms = vectors.norm(dim=1)
        edges = _band_edges(norms)
        band = torch.bucketize(norms, edges, right=True)
        band_size = torch.bincount(band, minlength=len(edges) + 1)
        radii = torch.zeros(len(edges) + 1).index_add_(0, band, norms) / band_size.clamp(min=1)
        return cls(vectors, torch.from_numpy(means.centroids), edges, radii, max_codes or max(4000, round(6 * root)))

    def refreshed(self, vectors: Tensor) -> IvfIndex:
        """An index of other vectors, float32[N', D], with the same directions and bands: nothing is trained."""
        return IvfIndex(vectors, self.directions, self.edges, self.radii, self.max_codes)

    def save(self, path: Path) -> None:
        """Writes the arguments of `__init__` as safetensors, `max_codes` as "looks"; equal indexes give equal bytes."""
        from safetensors.torch import save_file

        tensors = {name: getattr(self, name).contiguous() for name in ("vectors", "directions", "edges", "radii")}
        with atomic(path) as temporary:
            save_file(tensors | {"looks": torch.tensor(self.max_codes)}, temporary)

    @classmethod
    def load(cls, path: Path) -> IvfIndex:
        """Reads an index that `save` wrote."""
        from safetensors.torch import load_file

        tensors = load_file(path)
        max_codes = int(tensors.pop("looks"))
        return cls(**tensors, max_codes=max_codes)

    def search(
        self,
        queries: Tensor,
        k: int,
        exclude_indptr: Array | None = None,
        exclude: Array | None = None,
        allowed: Array | None = None,
    ) -> SearchResult:
        """As `ExactIndex.search`, approximately."""
        excluded = _ExcludedPairs.of(len(queries), exclude_indptr, exclude).to_columns(len(self.vectors), None)
        mask = None if allowed is None else torch.as_tensor(allowed)
        return _in_batches(queries, k, excluded, lambda batch, pairs: self._search_batch(batch, k, pairs, mask))

    def _search_batch(self, queries: Tensor, k: int, excluded: _ExcludedPairs, allowed: Tensor | None) -> SearchResult:
        most_excluded = int(torch.bincount(excluded.row).max()) if len(excluded.row) else 0
        faiss = _faiss()
        fetch = k + min(most_excluded, MAX_OVERFETCH * k)
        max_codes, selector = max(self.max_codes, 4 * fetch), None
        if allowed is not None:  # max_codes also counts targets that are not allowed: raise it by their share
            max_codes = max_codes * len(allowed) // max(1, int(allowed.sum()))
            selector = faiss.IDSelectorBitmap(np.packbits(allowed.numpy(), bitorder="little"))
        lists, estimate = self._best_lists(queries)
        parameters = faiss.SearchParametersIVF(nprobe=lists.shape[1], max_codes=max_codes, sel=selector)
        scores, ids = torch.empty(len(queries), fetch), torch.empty(len(queries), fetch, dtype=torch.long)
        # Call the C++ method, because faiss's Python wrapper of it takes no search parameters.
        tensors = (queries.contiguous(), fetch, lists, estimate, scores, ids)
        pointers = (faiss.swig_ptr(item.numpy()) if isinstance(item, Tensor) else item for item in tensors)
        self._lists.search_preassigned_c(len(queries), *pointers, False, parameters)
        drop = excluded.contains(ids) | (ids < 0)
        ids, order = ids.masked_fill(drop, -1).sort(dim=1)
        scores, order = scores.masked_fill(drop, -torch.inf).gather(1, order).sort(dim=1, descending=True, stable=True)
        result = SearchResult(ids.gather(1, order[:, :k]), scores[:, :k].contiguous())
        unfilled = (result.ids[:, -1] < 0).nonzero().flatten()
        if len(unfilled):
            allowed_ids = None if allowed is None else allowed.nonzero().flatten()
            exact = ExactIndex(self.vectors).search_excluding(
                queries[unfilled], k, excluded.select_rows(unfilled), allowed_ids
            )
            result.ids[unfilled], result.scores[unfilled] = exact.ids, exact.scores
        return result

    def _best_lists(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """The P inverted lists with the largest estimated scores, int64[B, P], and these scores, float32[B, P].

        It suffices to look at the P best directions: a list of any other direction has no larger estimate than P lists
        of the same band.
        """
        probes = min(len(self.directions), MAX_PROBES)
        similarity, direction = (queries @ self.directions.T).topk(probes, dim=1)
        estimate = (similarity[:, :, None] * self.radii).flatten(1)  # (B, P * R)
        lists = (direction[:, :, None] * len(self.radii) + torch.arange(len(self.radii))).flatten(1)
        estimate, order = estimate.topk(probes, dim=1)
        return lists.gather(1, order), estimate


def _faiss() -> Any:
    """The faiss module, untyped, because its type stubs lack many calls. Imported only for approximate search."""
    import faiss

    return faiss


def _band_edges(norms: Tensor) -> Tensor:
    """float32[R - 1], ascending: the edges of R bands of norms, float32[N].

    Edges are the quantiles above which the largest 1/4, 1/8, 1/16, ... of the norms lie. An edge is left out unless it
    is more than 10 % above the edge before it, or, for the first edge, above the median.
    """
    edges: list[float] = []
    median, *upper = np.quantile(norms.numpy(), 1 - 0.5 ** np.arange(1, MAX_BANDS + 1))
    for edge in upper:
        if edge > 1.1 * (edges[-1] if edges else median):
            edges.append(float(edge))
    return torch.tensor(edges, dtype=torch.float32)


@dataclass(frozen=True)
class _ExcludedPairs:
    """Pairs (row of a batch of queries, id that must not be returned to this query), sorted by id, then row."""

    row: Tensor
    """int64[P]"""
    id: Tensor
    """int64[P]"""

    @classmethod
    def of(cls, rows: int, indptr: Array | None, ids: Array | None) -> _ExcludedPairs:
        if indptr is None or ids is None:
            return cls(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))
        ids = torch.as_tensor(ids).long()
        row = torch.repeat_interleave(torch.arange(rows), torch.as_tensor(indptr).diff())
        order = ids.argsort(stable=True)
        return cls(row[order], ids[order])

    def to_columns(self, size: int, ids: Tensor | None) -> _ExcludedPairs:
        """Replaces each id by its index in `ids`, and drops pairs with other ids.

        ids: int64[M], ascending; None: 0, 1, ..., size - 1.
        """
        valid = (self.id >= 0) & (self.id < size)
        row, column = self.row[valid], self.id[valid]
        if ids is not None:
            column_of_id = torch.full((size,), -1).index_copy_(0, ids, torch.arange(len(ids)))
            column = column_of_id[column]
            row, column = row[column >= 0], column[column >= 0]
        return _ExcludedPairs(row, column)

    def between(self, start: int, stop: int) -> _ExcludedPairs:
        """The pairs with an id from start to stop - 1."""
        low, high = torch.searchsorted(self.id, torch.tensor([start, stop])).tolist()
        return _ExcludedPairs(self.row[low:high], self.id[low:high])

    def select_rows(self, rows: Tensor) -> _ExcludedPairs:
        """The pairs of these rows, int64, ascending; the rows are renumbered 0, 1, ..."""
        new_row = torch.searchsorted(rows, self.row).clamp(max=len(rows) - 1)
        selected = rows[new_row] == self.row
        return _ExcludedPairs(new_row[selected], self.id[selected])

    def contains(self, ids: Tensor) -> Tensor:
        """bool[B, F]: which of the ids, int64[B, F], are excluded from their row."""
        if not len(self.id):
            return torch.zeros_like(ids, dtype=torch.bool)
        rows = len(ids)
        keys = self.id * rows + self.row  # ascending
        sought = ids * rows + torch.arange(rows)[:, None]
        return keys[torch.searchsorted(keys, sought).clamp(max=len(keys) - 1)] == sought


def _in_batches(
    queries: Tensor, k: int, excluded: _ExcludedPairs, search: Callable[[Tensor, _ExcludedPairs], SearchResult]
) -> SearchResult:
    """Calls `search` with at most QUERIES_PER_BATCH queries at a time, and joins the results."""
    batches = [
        search(
            queries[low : low + QUERIES_PER_BATCH],
            excluded.select_rows(torch.arange(low, min(low + QUERIES_PER_BATCH, len(queries)))),
        )
        for low in range(0, len(queries), QUERIES_PER_BATCH)
    ]
    if not batches:
        return SearchResult(torch.zeros(0, k, dtype=torch.long), torch.zeros(0, k))
    return SearchResult(torch.cat([batch.ids for batch in batches]), torch.cat([batch.scores for batch in batches]))
