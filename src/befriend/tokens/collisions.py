"""Distinct STUs for all users: the nearest codes level by level, and what happens when users would get the same STU.

An STU (social tokenized user id) is the semantic ID of a user: one code of each level of a residual quantizer. A code
is a vector of the level's codebook, and its index there is the token. The capacity of a code, beneath a prefix of
earlier codes, is the number of STUs that begin with prefix and code. If a code is full, a user gets the nearest code
with remaining capacity on that level (mostly the last level, where the capacity of a code is one user). When a table is
created, a full code keeps its nearest users and passes the others on (`assign_by_distance`); when users join the table,
a full code passes on the later ones (`assign_in_order`). `append_digit` leaves the codes as they are and numbers the
users who share them. Existing STUs never change.

Shapes: n users; m existing users; L levels; K codes of a level; d, width of a vector of the quantizer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from befriend.errors import DataError
from befriend.tokens.quantizer import BLOCK, distances, nearest


def assign_by_distance(vectors: Tensor, codebooks: Sequence[Tensor], balance: float | None = None) -> Tensor:
    """int64[n, L]: distinct STUs of the first n users of a table; a full code keeps its nearest users.

    vectors: float32[n, d]; codebooks: L times float32[K, d]; balance: maximum number of users beneath a prefix, as a
    multiple of the mean over all prefixes of its length; it does not bind users who join the table later. Raises
    DataError if there are fewer STUs than users.

    The capacity of each of the two codes of the first level is three users:

    >>> codebooks = [torch.tensor([[0.0], [10.0]]), torch.tensor([[-1.0], [0.0], [1.0]])]
    >>> vectors = torch.tensor([[0.1], [0.4], [1.2], [9.0], [0.2]])
    >>> assign_by_distance(vectors, codebooks).tolist()
    [[0, 1], [0, 2], [1, 1], [1, 0], [0, 0]]

    Four users are nearest to code 0.0 (token 0), so the farthest of them, 1.2, moves to code 10.0 (token 1). On the
    second level, the residuals after code 0.0 are 0.1, 0.4 and 0.2, all nearest to code 0.0 (token 1). Its capacity
    is one user: 0.1 gets it. Code 1.0 (token 2) is next for both others; 0.4 is nearer and gets it, and -1.0 (token 0)
    remains for 0.2. After code 10.0, the residuals of 1.2 and 9.0 are -8.8 and -1.0, both nearest to code -1.0 (token
    0): 9.0 is nearer and gets it, and 1.2 gets the next code, 0.0 (token 1).
    """
    sizes = _require_capacity(codebooks, len(vectors))
    residual, stus = vectors, []
    prefix = torch.zeros(len(vectors), dtype=torch.long, device=vectors.device)
    for level, codebook in enumerate(codebooks):
        capacity = math.prod(sizes[level + 1 :])
        if balance is not None:
            capacity = min(capacity, math.ceil(balance * len(vectors) / math.prod(sizes[: level + 1])))
        code = _assign_by_distance(residual, codebook, prefix, capacity)
        prefix = prefix * sizes[level] + code
        residual = residual - codebook[code]
        stus.append(code)
    return torch.stack(stus, 1)


def assign_in_order(vectors: Tensor, codebooks: Sequence[Tensor], existing_stus: Tensor) -> Tensor:
    """int64[n, L]: STUs of users who join a table one after the other, in the order of the rows.

    vectors: float32[n, d]; codebooks: L times float32[K, d]; existing_stus: int64[m, L]. On each level, a user gets the
    nearest code that existing users and earlier rows have not filled, so no row depends on a later one. Raises
    DataError if there are fewer STUs than users.

    Four users join a user with the STU 0 1. The capacity of each code of the first level is three users:

    >>> codebooks = [torch.tensor([[0.0], [10.0]]), torch.tensor([[-1.0], [0.0], [1.0]])]
    >>> vectors = torch.tensor([[0.1], [0.4], [1.2], [9.0]])
    >>> assign_in_order(vectors, codebooks, existing_stus=torch.tensor([[0, 1]])).tolist()
    [[0, 2], [0, 0], [1, 0], [1, 1]]

    The first two users fill code 0.0 (token 0), so 1.2 gets code 10.0 (token 1). On the second level, 0.1 is nearest to
    code 0.0 (token 1), which is full, and gets the next, 1.0 (token 2); -1.0 (token 0) remains for 0.4. The residual
    of 1.2 after code 10.0 is -8.8, so it gets code -1.0. The later 9.0 has the residual -1.0, and gets the next code.
    """
    sizes = _require_capacity(codebooks, len(vectors) + len(existing_stus))
    residual, stus = vectors, []
    prefix, existing_prefix = (torch.zeros(len(x), dtype=torch.long) for x in (vectors, existing_stus))
    for level, codebook in enumerate(codebooks):
        existing_prefix = existing_prefix * sizes[level] + existing_stus[:, level]
        code = _assign_in_order(
            residual, codebook, prefix, existing_prefix.sort().values, math.prod(sizes[level + 1 :])
        )
        prefix = prefix * sizes[level] + code
        residual = residual - codebook[code]
        stus.append(code)
    return torch.stack(stus, 1)


def append_digit(codes: Tensor, existing_stus: Tensor, vocabulary: int) -> Tensor:
    """int64[n, L + 1]: codes, int64[n, L], with a last token, the digit, that tells apart the users who share them.

    existing_stus: int64[m, L + 1]; vocabulary: number of digits. Users with equal codes get ascending digits: first the
    existing users, then the rows in their order, so no row depends on a later one. Raises DataError if the digits do
    not suffice.

    Four users join a user with the STU 0 1 0. Three of them share the codes 0 1:

    >>> codes = torch.tensor([[0, 1], [0, 1], [2, 2], [0, 1]])
    >>> append_digit(codes, existing_stus=torch.tensor([[0, 1, 0]]), vocabulary=4).tolist()
    [[0, 1, 1], [0, 1, 2], [2, 2, 0], [0, 1, 3]]
    """
    all_codes = torch.cat([existing_stus[:, :-1], codes])
    group = torch.unique(all_codes, dim=0, return_inverse=True)[1]
    order = group.argsort(stable=True)
    first = torch.searchsorted(group[order], group[order])
    digit = torch.empty_like(group)
    digit[order] = torch.arange(len(group), device=group.device) - first
    if len(digit) and int(digit.max()) >= vocabulary:
        raise DataError(
            f"{int(digit.max()) + 1:,} users share the codes {all_codes[digit.argmax()].tolist()}, and the extra digit "
            f"has {vocabulary:,} values. Raise tokenize.digits or tokenize.codes, or set tokenize.collisions to "
            "reassign."
        )
    return torch.cat([codes, digit[len(existing_stus) :, None]], 1)


def _require_capacity(codebooks: Sequence[Tensor], num_users: int) -> list[int]:
    """Number of codes of each level. Raises DataError if they make fewer STUs than there are users."""
    sizes = [len(codebook) for codebook in codebooks]
    if num_users > math.prod(sizes):
        raise DataError(
            f"{num_users:,} users need an STU, and {' x '.join(map(str, sizes))} codes make {math.prod(sizes):,}. "
            "Raise tokenize.codes or tokenize.num_codebooks."
        )
    return sizes


def _assign_by_distance(vectors: Tensor, codebook: Tensor, prefix: Tensor, capacity: int) -> Tensor:
    """int64[n]: the nearest code with remaining capacity for each vector, float32[n, d]; a full code keeps its nearest.

    This is immediate acceptance (the Boston mechanism of matching): in rounds, each unassigned vector applies to its
    nearest code that is not full, and each code accepts its nearest applicants for good. After the first round, one
    block of vectors after the other is assigned, to bound memory. prefix: int64[n], index of each vector's prefix on
    the levels above; capacity: maximum number of users of a cell, a code beneath a prefix.
    """
    size = len(codebook)
    code = nearest(vectors, codebook)
    cell = prefix * size + code
    distance = (vectors - codebook[code]).square().sum(1)
    rank = _rank(cell, distance)
    overflow = (rank >= capacity).nonzero().squeeze(1)
    overflow = overflow[prefix[overflow].argsort(stable=True)]
    occupied_cells = cell[rank < capacity].sort().values
    for block in overflow.split(max(1, BLOCK // size)):
        groups, group = prefix[block].unique(return_inverse=True)
        cells = groups[:, None] * size + torch.arange(size, device=cell.device)
        remaining_capacity = capacity - _count_in_sorted(occupied_cells, cells)  # (groups, K)
        squared = distances(vectors[block], codebook) + vectors[block].square().sum(1, keepdim=True)
        unassigned = torch.arange(len(block), device=cell.device)
        while len(unassigned):
            has_capacity = remaining_capacity[group[unassigned]] > 0
            best = squared[unassigned].masked_fill(~has_capacity, torch.inf).min(1)
            best_cell = group[unassigned] * size + best.indices
            is_assigned = _rank(best_cell, best.values) < remaining_capacity.view(-1)[best_cell]
            code[block[unassigned[is_assigned]]] = best.indices[is_assigned]
            remaining_capacity.view(-1).sub_(
                torch.bincount(best_cell[is_assigned], minlength=remaining_capacity.numel())
            )
            unassigned = unassigned[~is_assigned]
        occupied_cells = torch.cat([occupied_cells, prefix[block] * size + code[block]]).sort().values
    return code


def _assign_in_order(
    vectors: Tensor, codebook: Tensor, prefix: Tensor, occupied_cells: Tensor, capacity: int
) -> Tensor:
    """As `_assign_by_distance`, but rows get codes in their order, after the existing users.

    occupied_cells: int64[m], prefix * K + code of the existing users, ascending.
    """
    size = len(codebook)
    code = nearest(vectors, codebook)
    cell = prefix * size + code
    is_full = _rank(cell, torch.arange(len(cell))) + _count_in_sorted(occupied_cells, cell) >= capacity
    # A user whose nearest code is full takes capacity that a later row may need, so the users beneath such a prefix
    # are assigned row by row. Beneath all other prefixes every user gets the nearest code.
    affected = torch.isin(prefix, prefix[is_full]).nonzero().squeeze(1)
    affected = affected[prefix[affected].argsort(stable=True)]
    occupied, assigned, current_prefix = occupied_cells.numpy(), code.numpy(), -1
    for block in affected.split(max(1, BLOCK // size)):
        squared = distances(vectors[block], codebook).numpy()
        for row, row_prefix, row_distances in zip(block.tolist(), prefix[block].tolist(), squared, strict=True):
            if row_prefix != current_prefix:
                low, high = np.searchsorted(occupied, [row_prefix * size, (row_prefix + 1) * size])
                remaining_capacity, current_prefix = (
                    capacity - np.bincount(occupied[low:high] - row_prefix * size, minlength=size),
                    row_prefix,
                )
            if not remaining_capacity[assigned[row]]:
                assigned[row] = np.where(remaining_capacity > 0, row_distances, np.inf).argmin()
            remaining_capacity[assigned[row]] -= 1
    return code


def _rank(cell: Tensor, distance: Tensor) -> Tensor:
    """int64[n]: rank of each row by distance among the rows of the same cell, from 0."""
    order = distance.argsort(stable=True)
    order = order[cell[order].argsort(stable=True)]
    rank = torch.empty_like(cell)
    rank[order] = torch.arange(len(cell), device=cell.device) - torch.searchsorted(cell[order], cell[order])
    return rank


def _count_in_sorted(ascending: Tensor, cells: Tensor) -> Tensor:
    """int64[...]: how often each cell, int64[...], occurs in a sorted list, int64[m]."""
    return torch.searchsorted(ascending, cells, right=True) - torch.searchsorted(ascending, cells)
