"""Maximum inner product search: the k target vectors with the largest inner product with each query vector.

`ExactIndex` scores every target. `IvfIndex` scores the most promising inverted lists, and leaves the queries whose
results it cannot fill to an `ExactIndex`. Both return results alike: best first, ties by the smaller id, without
excluded ids, and as many as qualify, up to k. They know neither what a vector stands for, nor which other terms a
score has.
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

ROWS = 1024  # queries per batch
SCORES = 2**20  # scores per block of targets: 4 MiB, which stay in the CPU cache while they are searched
GROUP = 64  # adjacent scores that are skipped together when the largest of them is too small
SAMPLE = 64  # vectors per direction that k-means is trained on
BANDS = 8  # maximum number of norm bands; the highest holds 1 / 2^8 of the vectors
PROBES = 192  # maximum number of lists probed per query
OVERFETCH = 4  # at most this many times k results are fetched in addition, to replace excluded ones

Array = np.ndarray | Tensor


@dataclass(frozen=True)
class SearchResult:
    """Results of B queries, best first; padded with -1 and -inf where fewer than k targets qualify."""

    ids: Tensor
    """int64[B, k]"""
    scores: Tensor
    """float32[B, k]: inner products; of a beam search, log-probability plus the user's own terms"""


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
        """queries: float32[B, D]. allowed: bool[N], targets that may be returned to any query; None: all.

        exclude_indptr: int64[B + 1], exclude: int64, the ids that must not be returned to each query, as CSR (see
        `retrieval.requests.RequestBatch`); ids without a vector are ignored.
        """
        excluded = _Pairs.of(len(queries), exclude_indptr, exclude)
        allowed_ids = None if allowed is None else torch.as_tensor(allowed).nonzero().flatten()
        return self.find(queries, k, excluded, allowed_ids)

    def find(self, queries: Tensor, k: int, excluded: _Pairs, allowed_ids: Tensor | None) -> SearchResult:
        """As `search`. allowed_ids: int64[M], ascending; None: all."""
        columns = excluded.to_columns(len(self.vectors), allowed_ids)
        return _in_batches(queries, k, columns, lambda batch, pairs: self._find(batch, k, pairs, allowed_ids))

    def _find(self, queries: Tensor, k: int, excluded: _Pairs, allowed_ids: Tensor | None) -> SearchResult:
        """excluded: (row, column) pairs, where column i is target i, or allowed_ids[i]."""
        rows, size = len(queries), len(self.vectors) if allowed_ids is None else len(allowed_ids)
        width = -(-max(1, min(max(SCORES // rows, k), size)) // GROUP) * GROUP
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
    """The k best scores of every row so far, then the unsorted scores that have beaten the k-th since.

    Sorting every block would take longer than the inner products. Most blocks hold next to nothing above the k-th
    best score so far, and the largest score of a group shows it.

    Example: one row, k = 2, five users. The first block scores columns 0, 1 and 2, the second columns 64 and 65.

    >>> def block(*scores):
    ...     return torch.tensor([[*scores, *[-torch.inf] * (GROUP - len(scores))]])
    >>> best = _RunningTopK(rows=1, k=2, width=GROUP)
    >>> best.add(block(0.25, 1.0, 0.5), start=0)
    >>> best.result()
    SearchResult(ids=tensor([[1, 2]]), scores=tensor([[1.0000, 0.5000]]))

    The threshold is now 0.5. Column 64 only equals it and stays out; column 65 beats it and replaces column 2:

    >>> best.add(block(0.5, 0.75), start=64)
    >>> best.result()
    SearchResult(ids=tensor([[ 1, 65]]), scores=tensor([[1.0000, 0.7500]]))
    """

    def __init__(self, rows: int, k: int, width: int):
        """width: columns of a block, a multiple of GROUP."""
        self.k = k
        self.scores = torch.full((rows, 2 * k + width), -torch.inf)
        self.columns = torch.full((rows, 2 * k + width), -1)
        self.used = torch.full((rows,), k)

    def add(self, block: Tensor, start: int) -> None:
        """block: float32[B, width], the scores of columns start, start + 1, ...; `start` rises from call to call.

        A later column with the score of the k-th stays out, and sorting is stable: the smaller column wins a tie.
        """
        threshold = self.scores[:, self.k - 1]
        groups = block.view(len(block), -1, GROUP)  # (B, width / GROUP, GROUP)
        row, group = (groups.amax(2) > threshold[:, None]).nonzero(as_tuple=True)
        scores = groups[row, group]  # (groups with a score above the threshold, GROUP)
        hit, lane = (scores > threshold[row, None]).nonzero(as_tuple=True)
        row, column = row[hit], start + group[hit] * GROUP + lane  # row by row, columns ascending
        count = torch.bincount(row, minlength=len(block))
        slot = self.used[row] + torch.arange(len(row)) - (count.cumsum(0) - count)[row]
        self.scores[row, slot] = scores[hit, lane]
        self.columns[row, slot] = column
        self.used += count
        if self.used.max() > 2 * self.k:
            self._sort()

    def _sort(self) -> None:
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
    """Inverted lists (IVF) of vectors of similar direction and similar norm; a query scores only the best lists.

    A list holds the vectors of one direction (spherical k-means) within one band of norms. Its estimated score for a
    query is the query's inner product with the direction times the band's mean norm. Where norms have a long tail
    (popular users), few vectors can win at all, and lists by direction alone hide them among the many that cannot:
    bands of norms as in Yan et al. 2018, "Norm-Ranging LSH for Maximum Inner Product Search". If all norms are alike,
    there is one band.
    """

    def __init__(self, vectors: Tensor, directions: Tensor, edges: Tensor, radii: Tensor, looks: int):
        """vectors: float32[N, D], referenced; directions: float32[L, D] of norm 1; edges: float32[R - 1], the norms at
        which bands meet; radii: float32[R], their mean norms; looks: vectors scored per query (faiss: max_codes)."""
        from faiss.contrib.ivf_tools import add_preassigned

        faiss = _faiss()
        self.vectors, self.directions, self.edges, self.radii, self.looks = vectors, directions, edges, radii, looks
        width, lists = vectors.shape[1], len(directions) * len(radii)
        quantizer = faiss.IndexFlatIP(width)  # only its size matters: lists are chosen here
        quantizer.add(np.zeros((lists, width), np.float32))
        self._lists = faiss.IndexIVFFlat(quantizer, width, lists, faiss.METRIC_INNER_PRODUCT)
        nearest = torch.cat([(chunk @ directions.T).argmax(1) for chunk in vectors.split(SCORES // len(directions))])
        band = torch.bucketize(vectors.norm(dim=1), edges, right=True)
        add_preassigned(self._lists, vectors.numpy(), (nearest * len(radii) + band).numpy())

    @classmethod
    def build(cls, vectors: Tensor, lists: int | None = None, looks: int | None = None, seed: int = 0) -> IvfIndex:
        """vectors: float32[N, D]; lists: number of directions, by default sqrt(N); looks: vectors scored per query, by
        default 6 sqrt(N) and at least 4,000."""
        root = max(1, len(vectors)) ** 0.5
        lists = min(lists or round(root), len(vectors))
        sample = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(seed))[: SAMPLE * lists]
        means = _faiss().Kmeans(vectors.shape[1], lists, niter=10, spherical=True, seed=seed, min_points_per_centroid=1)
        means.train(F.normalize(vectors[sample], dim=1).numpy())
        norms = vectors.norm(dim=1)
        edges = _edges(norms)
        band = torch.bucketize(norms, edges, right=True)
        count = torch.bincount(band, minlength=len(edges) + 1)
        radii = torch.zeros(len(edges) + 1).index_add_(0, band, norms) / count.clamp(min=1)
        return cls(vectors, torch.from_numpy(means.centroids), edges, radii, looks or max(4000, round(6 * root)))

    def refreshed(self, vectors: Tensor) -> IvfIndex:
        """The same directions and bands, filled with these vectors: float32[N', D]; nothing is trained again."""
        return IvfIndex(vectors, self.directions, self.edges, self.radii, self.looks)

    def save(self, path: Path) -> None:
        """Writes vectors, directions and bands as safetensors; equal indexes give equal bytes."""
        from safetensors.torch import save_file

        tensors = {name: getattr(self, name).contiguous() for name in ("vectors", "directions", "edges", "radii")}
        with atomic(path) as temporary:
            save_file(tensors | {"looks": torch.tensor(self.looks)}, temporary)

    @classmethod
    def load(cls, path: Path) -> IvfIndex:
        from safetensors.torch import load_file

        tensors = load_file(path)
        looks = int(tensors.pop("looks"))
        return cls(**tensors, looks=looks)

    def search(
        self,
        queries: Tensor,
        k: int,
        exclude_indptr: Array | None = None,
        exclude: Array | None = None,
        allowed: Array | None = None,
    ) -> SearchResult:
        """As `ExactIndex.search`."""
        excluded = _Pairs.of(len(queries), exclude_indptr, exclude).to_columns(len(self.vectors), None)
        mask = None if allowed is None else torch.as_tensor(allowed)
        return _in_batches(queries, k, excluded, lambda batch, pairs: self._find(batch, k, pairs, mask))

    def _find(self, queries: Tensor, k: int, excluded: _Pairs, allowed: Tensor | None) -> SearchResult:
        most_excluded = int(torch.bincount(excluded.row).max()) if len(excluded.row) else 0
        faiss = _faiss()
        fetch = k + min(most_excluded, OVERFETCH * k)
        looks, selector = max(self.looks, 4 * fetch), None
        if allowed is not None:  # targets that are not allowed do not count as scored
            looks = looks * len(allowed) // max(1, int(allowed.sum()))
            selector = faiss.IDSelectorBitmap(np.packbits(allowed.numpy(), bitorder="little"))
        lists, estimate = self._best_lists(queries)
        parameters = faiss.SearchParametersIVF(nprobe=lists.shape[1], max_codes=looks, sel=selector)
        scores, ids = torch.empty(len(queries), fetch), torch.empty(len(queries), fetch, dtype=torch.long)
        # faiss's own wrapper of this call does not take parameters
        tensors = (queries.contiguous(), fetch, lists, estimate, scores, ids)
        pointers = (faiss.swig_ptr(item.numpy()) if isinstance(item, Tensor) else item for item in tensors)
        self._lists.search_preassigned_c(len(queries), *pointers, False, parameters)
        drop = excluded.contain(ids) | (ids < 0)
        ids, order = ids.masked_fill(drop, -1).sort(dim=1)
        scores, order = scores.masked_fill(drop, -torch.inf).gather(1, order).sort(dim=1, descending=True, stable=True)
        result = SearchResult(ids.gather(1, order[:, :k]), scores[:, :k].contiguous())
        unfilled = (result.ids[:, -1] < 0).nonzero().flatten()
        if len(unfilled):
            allowed_ids = None if allowed is None else allowed.nonzero().flatten()
            exact = ExactIndex(self.vectors).find(queries[unfilled], k, excluded.of_rows(unfilled), allowed_ids)
            result.ids[unfilled], result.scores[unfilled] = exact.ids, exact.scores
        return result

    def _best_lists(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """int64[B, P] lists and float32[B, P] their estimated scores, best first.

        The best P lists lie in the best P directions: any other list is beaten by P lists of its own band.
        """
        probes = min(len(self.directions), PROBES)
        similarity, direction = (queries @ self.directions.T).topk(probes, dim=1)
        estimate = (similarity[:, :, None] * self.radii).flatten(1)  # (B, P * R)
        lists = (direction[:, :, None] * len(self.radii) + torch.arange(len(self.radii))).flatten(1)
        estimate, order = estimate.topk(probes, dim=1)
        return lists.gather(1, order), estimate


def _faiss() -> Any:
    """The faiss module. Its type stubs lack half of its calls; exact search does not import it."""
    import faiss

    return faiss


def _edges(norms: Tensor) -> Tensor:
    """float32[R - 1], ascending: the norms at which the upper 1/4, 1/8, 1/16, ... begin. An edge is left out unless it
    lies 10 % above the edge before it (the first: above the median)."""
    edges: list[float] = []
    median, *upper = np.quantile(norms.numpy(), 1 - 0.5 ** np.arange(1, BANDS + 1))
    for edge in upper:
        if edge > 1.1 * (edges[-1] if edges else median):
            edges.append(float(edge))
    return torch.tensor(edges, dtype=torch.float32)


@dataclass(frozen=True)
class _Pairs:
    """Excluded pairs (row, id), sorted by id, then row."""

    row: Tensor
    """int64[P]"""
    id: Tensor
    """int64[P]"""

    @classmethod
    def of(cls, rows: int, indptr: Array | None, ids: Array | None) -> _Pairs:
        if indptr is None or ids is None:
            return cls(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))
        ids = torch.as_tensor(ids).long()
        row = torch.repeat_interleave(torch.arange(rows), torch.as_tensor(indptr).diff())
        order = ids.argsort(stable=True)
        return cls(row[order], ids[order])

    def to_columns(self, size: int, ids: Tensor | None) -> _Pairs:
        """The pairs with each id replaced by its index in `ids` (int64[M], ascending; None: all of 0 .. size - 1);
        pairs whose id is not among them are left out."""
        valid = (self.id >= 0) & (self.id < size)
        row, column = self.row[valid], self.id[valid]
        if ids is not None:
            column_of_id = torch.full((size,), -1).index_copy_(0, ids, torch.arange(len(ids)))
            column = column_of_id[column]
            row, column = row[column >= 0], column[column >= 0]
        return _Pairs(row, column)

    def between(self, start: int, stop: int) -> _Pairs:
        """The pairs with an id from start to stop - 1."""
        low, high = torch.searchsorted(self.id, torch.tensor([start, stop])).tolist()
        return _Pairs(self.row[low:high], self.id[low:high])

    def of_rows(self, rows: Tensor) -> _Pairs:
        """The pairs of these rows (int64, ascending), which become rows 0, 1, ..."""
        new_row = torch.searchsorted(rows, self.row).clamp(max=len(rows) - 1)
        selected = rows[new_row] == self.row
        return _Pairs(new_row[selected], self.id[selected])

    def contain(self, ids: Tensor) -> Tensor:
        """ids: int64[B, F], row by row. Returns bool[B, F]: which of them are excluded."""
        if not len(self.id):
            return torch.zeros_like(ids, dtype=torch.bool)
        rows = len(ids)
        keys = self.id * rows + self.row  # ascending
        sought = ids * rows + torch.arange(rows)[:, None]
        return keys[torch.searchsorted(keys, sought).clamp(max=len(keys) - 1)] == sought


def _in_batches(
    queries: Tensor, k: int, excluded: _Pairs, find: Callable[[Tensor, _Pairs], SearchResult]
) -> SearchResult:
    batches = [
        find(queries[low : low + ROWS], excluded.of_rows(torch.arange(low, min(low + ROWS, len(queries)))))
        for low in range(0, len(queries), ROWS)
    ]
    if not batches:
        return SearchResult(torch.zeros(0, k, dtype=torch.long), torch.zeros(0, k))
    return SearchResult(torch.cat([batch.ids for batch in batches]), torch.cat([batch.scores for batch in batches]))
