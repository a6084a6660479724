"""Maximum inner product search: the k target vectors with the largest inner product with each query vector.

`ExactIndex` looks at every target; `IvfIndex` at the inverted lists that promise most, and hands the rows that it
cannot fill to an `ExactIndex`. Both answer alike: best first, of equal scores the smaller id first, nobody excluded,
and as many as may be found up to k. What a vector stands for, and what else adds to a score, they do not know.
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

ROWS = 1024  # queries at a time
SCORES = 2**20  # scores of one block of targets: 4 MiB, which stay in the cache while they are searched
GROUP = 64  # neighbouring scores that are skipped together when the largest of them is too small
SAMPLE = 64  # vectors a direction that k-means sees
BANDS = 8  # bands of norms at most; the highest holds 1 / 2^8 of the vectors
PROBES = 192  # lists asked for a query at most
OVERFETCH = 4  # at most so many times k are fetched in place of excluded ones

Array = np.ndarray | Tensor


@dataclass(frozen=True)
class Neighbours:
    """What was found for B queries, best first; -1 and -inf behind the last where fewer than k may be found."""

    ids: Tensor
    """int64[B, k]"""
    scores: Tensor
    """float32[B, k]: inner products; of a beam, log-probabilities and what each user adds"""


class ExactIndex:
    """Every inner product, block by block: memory is bounded whatever the number of queries and targets."""

    def __init__(self, vectors: Tensor):
        """vectors: float32[N, D], target i at row i. Kept, not copied."""
        self.vectors = vectors

    def search(
        self,
        queries: Tensor,
        k: int,
        exclude_indptr: Array | None = None,
        exclude: Array | None = None,
        allowed: Array | None = None,
    ) -> Neighbours:
        """queries: float32[B, D]. allowed: bool[N], who may be found at all.

        exclude_indptr: int64[B + 1], exclude: int64, the ids not to be found for each query as CSR (see
        `evaluation.protocol.Request`); ids without a vector among them do no harm.
        """
        pairs = _Pairs.of(len(queries), exclude_indptr, exclude)
        ids = None if allowed is None else torch.as_tensor(allowed).nonzero().flatten()
        return self.find(queries, k, pairs, ids)

    def find(self, queries: Tensor, k: int, pairs: _Pairs, ids: Tensor | None) -> Neighbours:
        """ids: int64[M], ascending, who may be found; None for everybody."""
        places = pairs.at_places(len(self.vectors), ids)
        return _in_batches(queries, k, places, lambda part, hidden: self._find(part, k, hidden, ids))

    def _find(self, queries: Tensor, k: int, hidden: _Pairs, ids: Tensor | None) -> Neighbours:
        rows, size = len(queries), len(self.vectors) if ids is None else len(ids)
        width = -(-max(1, min(max(SCORES // rows, k), size)) // GROUP) * GROUP
        best = _Best(rows, k, width)
        block = torch.empty(rows, width)
        for start in range(0, size, width):
            stop = min(start + width, size)
            targets = self.vectors[start:stop] if ids is None else self.vectors[ids[start:stop]]
            torch.mm(queries, targets.T, out=block[:, : stop - start])
            block[:, stop - start :] = -torch.inf
            here = hidden.between(start, stop)
            block[here.row, here.id - start] = -torch.inf
            best.add(block, start)
        found = best.found()
        if ids is None or not size:
            return found
        return Neighbours(ids[found.ids.clamp(min=0)].where(found.ids >= 0, -1), found.scores)


class _Best:
    """The k best of every row so far, and behind them, not yet in order, what has since beaten the k-th.

    Sorting every block would take longer than the inner products. Most blocks hold next to nothing above the k-th
    best so far, and the largest score of a group shows it.
    """

    def __init__(self, rows: int, k: int, width: int):
        self.k = k
        self.scores = torch.full((rows, 2 * k + width), -torch.inf)
        self.places = torch.full((rows, 2 * k + width), -1)
        self.used = torch.full((rows,), k)

    def add(self, block: Tensor, start: int) -> None:
        """block: float32[B, width], the scores of the places start, start + 1, ...; places rise from call to call.

        A later place with the score of the k-th stays out, and sorting is stable: the smaller place wins a tie.
        """
        bar = self.scores[:, self.k - 1]
        groups = block.view(len(block), -1, GROUP)  # (B, width / GROUP, GROUP)
        row, group = (groups.amax(2) > bar[:, None]).nonzero(as_tuple=True)
        scores = groups[row, group]  # (groups with something above the bar, GROUP)
        hit, lane = (scores > bar[row, None]).nonzero(as_tuple=True)
        row, place = row[hit], start + group[hit] * GROUP + lane  # row by row, places ascending
        count = torch.bincount(row, minlength=len(block))
        slot = self.used[row] + torch.arange(len(row)) - (count.cumsum(0) - count)[row]
        self.scores[row, slot] = scores[hit, lane]
        self.places[row, slot] = place
        self.used += count
        if self.used.max() > 2 * self.k:
            self._sort()

    def _sort(self) -> None:
        k, end = self.k, int(self.used.max())
        scores, order = self.scores[:, :end].sort(dim=1, descending=True, stable=True)
        self.places[:, :k] = self.places[:, :end].gather(1, order[:, :k])
        self.scores[:, :k] = scores[:, :k]
        self.scores[:, k:end] = -torch.inf
        self.used.fill_(k)

    def found(self) -> Neighbours:
        self._sort()
        return Neighbours(self.places[:, : self.k].clone(), self.scores[:, : self.k].clone())


class IvfIndex:
    """Inverted lists (IVF) of vectors of like direction and like norm; only the most promising ones are looked at.

    A list holds the vectors of one direction (spherical k-means) within one band of norms, and promises a query its
    inner product with the direction times the band's mean norm. Where norms have a long tail (popular users), few
    vectors can win at all, and lists by direction alone hide them among the many that cannot: bands of norms as in
    Yan et al. 2018, "Norm-Ranging LSH for Maximum Inner Product Search". Norms that are all alike make one band.
    """

    def __init__(self, vectors: Tensor, directions: Tensor, edges: Tensor, radii: Tensor, looks: int):
        """vectors: float32[N, D], kept; directions: float32[L, D] of norm 1; edges: float32[R - 1], where bands
        meet; radii: float32[R], their mean norms; looks: how many vectors are looked at for a query."""
        from faiss.contrib.ivf_tools import add_preassigned

        faiss = _faiss()
        self.vectors, self.directions, self.edges, self.radii, self.looks = vectors, directions, edges, radii, looks
        width, lists = vectors.shape[1], len(directions) * len(radii)
        quantizer = faiss.IndexFlatIP(width)  # only its size matters: lists are chosen here
        quantizer.add(np.zeros((lists, width), np.float32))
        self._lists = faiss.IndexIVFFlat(quantizer, width, lists, faiss.METRIC_INNER_PRODUCT)
        nearest = torch.cat([(part @ directions.T).argmax(1) for part in vectors.split(SCORES // len(directions))])
        band = torch.bucketize(vectors.norm(dim=1), edges, right=True)
        add_preassigned(self._lists, vectors.numpy(), (nearest * len(radii) + band).numpy())

    @classmethod
    def build(cls, vectors: Tensor, lists: int | None = None, looks: int | None = None, seed: int = 0) -> IvfIndex:
        """vectors: float32[N, D]; lists: directions, sqrt(N) if not given; looks: 6 sqrt(N) and
        at least 4,000 if not given."""
        root = max(1, len(vectors)) ** 0.5
        lists = min(lists or round(root), len(vectors))
        chosen = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(seed))[: SAMPLE * lists]
        means = _faiss().Kmeans(vectors.shape[1], lists, niter=10, spherical=True, seed=seed, min_points_per_centroid=1)
        means.train(F.normalize(vectors[chosen], dim=1).numpy())
        norms = vectors.norm(dim=1)
        edges = _edges(norms)
        band = torch.bucketize(norms, edges, right=True)
        count = torch.bincount(band, minlength=len(edges) + 1)
        radii = torch.zeros(len(edges) + 1).index_add_(0, band, norms) / count.clamp(min=1)
        return cls(vectors, torch.from_numpy(means.centroids), edges, radii, looks or max(4000, round(6 * root)))

    def refreshed(self, vectors: Tensor) -> IvfIndex:
        """The same lists, filled with these vectors: float32[N', D]; nothing is trained again."""
        return IvfIndex(vectors, self.directions, self.edges, self.radii, self.looks)

    def save(self, path: Path) -> None:
        """Directions and bands beside the vectors, as safetensors; equal indexes are equal bytes."""
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
    ) -> Neighbours:
        """As `ExactIndex.search`."""
        pairs = _Pairs.of(len(queries), exclude_indptr, exclude).at_places(len(self.vectors), None)
        mask = None if allowed is None else torch.as_tensor(allowed)
        return _in_batches(queries, k, pairs, lambda part, hidden: self._find(part, k, hidden, mask))

    def _find(self, queries: Tensor, k: int, hidden: _Pairs, allowed: Tensor | None) -> Neighbours:
        most = int(torch.bincount(hidden.row).max()) if len(hidden.row) else 0
        faiss = _faiss()
        fetch = k + min(most, OVERFETCH * k)
        looks, selector = max(self.looks, 4 * fetch), None
        if allowed is not None:  # those who may not be found do not count as looked at
            looks = looks * len(allowed) // max(1, int(allowed.sum()))
            selector = faiss.IDSelectorBitmap(np.packbits(allowed.numpy(), bitorder="little"))
        lists, promise = self._promising(queries)
        asked = faiss.SearchParametersIVF(nprobe=lists.shape[1], max_codes=looks, sel=selector)
        scores, ids = torch.empty(len(queries), fetch), torch.empty(len(queries), fetch, dtype=torch.long)
        # faiss's own wrapper of this call does not take parameters
        tensors = (queries.contiguous(), fetch, lists, promise, scores, ids)
        pointers = (faiss.swig_ptr(item.numpy()) if isinstance(item, Tensor) else item for item in tensors)
        self._lists.search_preassigned_c(len(queries), *pointers, False, asked)
        gone = hidden.contain(ids) | (ids < 0)
        ids, order = ids.masked_fill(gone, -1).sort(dim=1)
        scores, order = scores.masked_fill(gone, -torch.inf).gather(1, order).sort(dim=1, descending=True, stable=True)
        found = Neighbours(ids.gather(1, order[:, :k]), scores[:, :k].contiguous())
        short = (found.ids[:, -1] < 0).nonzero().flatten()
        if len(short):
            may = None if allowed is None else allowed.nonzero().flatten()
            exact = ExactIndex(self.vectors).find(queries[short], k, hidden.of_rows(short), may)
            found.ids[short], found.scores[short] = exact.ids, exact.scores
        return found

    def _promising(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """int64[B, P] lists and float32[B, P] what they promise, best first.

        The best P lists lie in the best P directions: in front of any other there are P in its own band.
        """
        probes = min(len(self.directions), PROBES)
        nearness, direction = (queries @ self.directions.T).topk(probes, dim=1)
        promise = (nearness[:, :, None] * self.radii).flatten(1)  # (B, P * R)
        lists = (direction[:, :, None] * len(self.radii) + torch.arange(len(self.radii))).flatten(1)
        promise, order = promise.topk(probes, dim=1)
        return lists.gather(1, order), promise


def _faiss() -> Any:
    """faiss, whose type stubs do not know half of its calls; not imported by those who search exactly."""
    import faiss

    return faiss


def _edges(norms: Tensor) -> Tensor:
    """float32[R - 1], rising: where the upper 1/4, 1/8, 1/16, ... of the norms begin, each 10 % above the one before
    (the first above the median); the others are left out."""
    kept: list[float] = []
    median, *upper = np.quantile(norms.numpy(), 1 - 0.5 ** np.arange(1, BANDS + 1))
    for edge in upper:
        if edge > 1.1 * (kept[-1] if kept else median):
            kept.append(float(edge))
    return torch.tensor(kept, dtype=torch.float32)


@dataclass(frozen=True)
class _Pairs:
    """(row, id) that may not meet, sorted by id, then row."""

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

    def at_places(self, size: int, ids: Tensor | None) -> _Pairs:
        """With the places of the ids among `ids` (int64[M], ascending; None for all of 0 .. size - 1) instead;
        pairs whose id is not among them are left out."""
        known = (self.id >= 0) & (self.id < size)
        row, place = self.row[known], self.id[known]
        if ids is not None:
            table = torch.full((size,), -1).index_copy_(0, ids, torch.arange(len(ids)))
            place = table[place]
            row, place = row[place >= 0], place[place >= 0]
        return _Pairs(row, place)

    def between(self, start: int, stop: int) -> _Pairs:
        """Those with an id from start to stop - 1."""
        low, high = torch.searchsorted(self.id, torch.tensor([start, stop])).tolist()
        return _Pairs(self.row[low:high], self.id[low:high])

    def of_rows(self, rows: Tensor) -> _Pairs:
        """Those of these rows (int64, ascending), which become rows 0, 1, ..."""
        at = torch.searchsorted(rows, self.row).clamp(max=len(rows) - 1)
        kept = rows[at] == self.row
        return _Pairs(at[kept], self.id[kept])

    def contain(self, ids: Tensor) -> Tensor:
        """ids: int64[B, F], row by row. Returns bool[B, F], which of them may not be there."""
        if not len(self.id):
            return torch.zeros_like(ids, dtype=torch.bool)
        rows = len(ids)
        keys = self.id * rows + self.row  # ascending
        wanted = ids * rows + torch.arange(rows)[:, None]
        return keys[torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)] == wanted


def _in_batches(queries: Tensor, k: int, pairs: _Pairs, find: Callable[[Tensor, _Pairs], Neighbours]) -> Neighbours:
    found = [
        find(queries[low : low + ROWS], pairs.of_rows(torch.arange(low, min(low + ROWS, len(queries)))))
        for low in range(0, len(queries), ROWS)
    ]
    if not found:
        return Neighbours(torch.zeros(0, k, dtype=torch.long), torch.zeros(0, k))
    return Neighbours(torch.cat([part.ids for part in found]), torch.cat([part.scores for part in found]))
