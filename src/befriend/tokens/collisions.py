"""Distinct STUs for all users: the nearest codes level by level, and what to do when users would get the same STU.

A prefix may have as many users as there are STUs that begin with it. If a code is full, a user moves to the nearest
code with room on that level (mostly the last level, where a code has room for one user). When a table is created, the
users farthest from a full code move (`assign_nearest_first`); when users join it, the later ones (`assign_in_order`).
`append_digit` leaves the codes as they are, and numbers the users who share them. Existing STUs never change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from befriend.errors import DataError
from befriend.tokens.quantizer import BLOCK, distances, nearest


def assign_nearest_first(vectors: Tensor, codebooks: Sequence[Tensor], balance: float | None = None) -> Tensor:
    """int64[n, L]: distinct STUs of the first n users of a table; the users nearest to a code get it.

    vectors: float32[n, d]; codebooks: L times float32[K, d]; balance: most users beneath a prefix, as a multiple of the
    mean over all prefixes of its length; it does not bind users who join the table later.

    Each of the two codes of the first level has room for three users:

    >>> codebooks = [torch.tensor([[0.0], [10.0]]), torch.tensor([[-1.0], [0.0], [1.0]])]
    >>> vectors = torch.tensor([[0.1], [0.4], [1.2], [9.0], [0.2]])
    >>> assign_nearest_first(vectors, codebooks).tolist()
    [[0, 1], [0, 2], [1, 1], [1, 0], [0, 0]]

    Four users are nearest to code 0.0 (token 0), so the farthest of them, 1.2, moves to code 10.0 (token 1). On the
    second level, the residuals after code 0.0 are 0.1, 0.4 and 0.2, all nearest to code 0.0 (token 1). It has room for
    one user: 0.1 gets it. Code 1.0 (token 2) is next for both others; 0.4 is nearer and gets it, and -1.0 (token 0)
    remains for 0.2. After code 10.0, the residuals of 1.2 and 9.0 are -8.8 and -1.0, both nearest to code -1.0 (token
    0): 9.0 is nearer and gets it, and 1.2 gets the next code, 0.0 (token 1).
    """
    sizes = _require_capacity(codebooks, len(vectors))
    residual, stus = vectors, []
    prefix = torch.zeros(len(vectors), dtype=torch.long, device=vectors.device)
    for level, codebook in enumerate(codebooks):
        room = math.prod(sizes[level + 1 :])
        if balance is not None:
            room = min(room, math.ceil(balance * len(vectors) / math.prod(sizes[: level + 1])))
        code = _nearest_first(residual, codebook, prefix, room)
        prefix = prefix * sizes[level] + code
        residual = residual - codebook[code]
        stus.append(code)
    return torch.stack(stus, 1)


def assign_in_order(vectors: Tensor, codebooks: Sequence[Tensor], taken: Tensor) -> Tensor:
    """int64[n, L]: STUs of users who join a table one after the other, in the order of the rows.

    vectors: float32[n, d]; codebooks: L times float32[K, d]; taken: int64[m, L], existing STUs. On each level, a user
    gets the nearest code with room left by existing users and earlier rows, so no row depends on a later one.

    Four users join one with the STU 0 1. Each code of the first level has room for three users:

    >>> codebooks = [torch.tensor([[0.0], [10.0]]), torch.tensor([[-1.0], [0.0], [1.0]])]
    >>> vectors = torch.tensor([[0.1], [0.4], [1.2], [9.0]])
    >>> assign_in_order(vectors, codebooks, taken=torch.tensor([[0, 1]])).tolist()
    [[0, 2], [0, 0], [1, 0], [1, 1]]

    The first two users fill code 0.0 (token 0), so 1.2 gets code 10.0 (token 1). On the second level, 0.1 is nearest to
    code 0.0 (token 1), which is taken, and gets the next, 1.0 (token 2); -1.0 (token 0) remains for 0.4. The residual
    of 1.2 after code 10.0 is -8.8, so it gets code -1.0. The later 9.0 has the residual -1.0, and gets the next code.
    """
    sizes = _require_capacity(codebooks, len(vectors) + len(taken))
    residual, stus = vectors, []
    prefix, taken_prefix = (torch.zeros(len(x), dtype=torch.long) for x in (vectors, taken))
    for level, codebook in enumerate(codebooks):
        taken_prefix = taken_prefix * sizes[level] + taken[:, level]
        code = _earliest_first(residual, codebook, prefix, taken_prefix.sort().values, math.prod(sizes[level + 1 :]))
        prefix = prefix * sizes[level] + code
        residual = residual - codebook[code]
        stus.append(code)
    return torch.stack(stus, 1)


def append_digit(codes: Tensor, taken: Tensor, vocabulary: int) -> Tensor:
    """int64[n, L + 1]: codes, int64[n, L], with a last token, the digit, that tells apart the users who share them.

    taken: int64[m, L + 1], existing STUs; vocabulary: number of digits. Users with equal codes get ascending digits:
    first the existing users, then the rows in their order, so no row depends on a later one. DataError if the digits do
    not suffice.

    Four users join one with the STU 0 1 0. Three of them share the codes 0 1:

    >>> codes = torch.tensor([[0, 1], [0, 1], [2, 2], [0, 1]])
    >>> append_digit(codes, taken=torch.tensor([[0, 1, 0]]), vocabulary=4).tolist()
    [[0, 1, 1], [0, 1, 2], [2, 2, 0], [0, 1, 3]]
    """
    all_codes = torch.cat([taken[:, :-1], codes])
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
    return torch.cat([codes, digit[len(taken) :, None]], 1)


def _require_capacity(codebooks: Sequence[Tensor], users: int) -> list[int]:
    """Number of codes of each level; DataError if they make fewer STUs than there are users."""
    sizes = [len(codebook) for codebook in codebooks]
    if users > math.prod(sizes):
        raise DataError(
            f"{users:,} users need an STU, and {' x '.join(map(str, sizes))} codes make {math.prod(sizes):,}. "
            "Raise tokenize.codes or tokenize.num_codebooks."
        )
    return sizes


def _nearest_first(vectors: Tensor, codebook: Tensor, prefix: Tensor, room: int) -> Tensor:
    """int64[n]: the nearest code with room of each vector, float32[n, d]; the vectors nearest to a code get it first.

    prefix: int64[n], number of each vector's prefix on the levels above; room: most users of a code beneath a prefix.
    """
    size = len(codebook)
    code = nearest(vectors, codebook)
    key = prefix * size + code
    distance = (vectors - codebook[code]).square().sum(1)
    rank = _rank(key, distance)
    moving = (rank >= room).nonzero().squeeze(1)
    moving = moving[prefix[moving].argsort(stable=True)]
    taken = key[rank < room].sort().values
    for block in moving.split(max(1, BLOCK // size)):
        groups, group = prefix[block].unique(return_inverse=True)
        keys = groups[:, None] * size + torch.arange(size, device=key.device)
        free = room - _count(taken, keys)  # (groups, K)
        squared = distances(vectors[block], codebook) + vectors[block].square().sum(1, keepdim=True)
        waiting = torch.arange(len(block), device=key.device)
        while len(waiting):
            has_room = free[group[waiting]] > 0
            best = squared[waiting].masked_fill(~has_room, torch.inf).min(1)
            best_key = group[waiting] * size + best.indices
            is_assigned = _rank(best_key, best.values) < free.view(-1)[best_key]
            code[block[waiting[is_assigned]]] = best.indices[is_assigned]
            free.view(-1).sub_(torch.bincount(best_key[is_assigned], minlength=free.numel()))
            waiting = waiting[~is_assigned]
        taken = torch.cat([taken, prefix[block] * size + code[block]]).sort().values
    return code


def _earliest_first(vectors: Tensor, codebook: Tensor, prefix: Tensor, taken: Tensor, room: int) -> Tensor:
    """As `_nearest_first`, but rows get codes in their order, after the existing users.

    taken: int64[m], prefix * K + code of the existing users, ascending.
    """
    size = len(codebook)
    code = nearest(vectors, codebook)
    key = prefix * size + code
    full = _rank(key, torch.arange(len(key))) + _count(taken, key) >= room
    # A user whose nearest code is full takes room that a later row may need, so the users beneath such a prefix are
    # assigned row by row. Beneath all other prefixes every user gets the nearest code.
    crowded = torch.isin(prefix, prefix[full]).nonzero().squeeze(1)
    crowded = crowded[prefix[crowded].argsort(stable=True)]
    existing, assigned, current = taken.numpy(), code.numpy(), -1
    for block in crowded.split(max(1, BLOCK // size)):
        squared = distances(vectors[block], codebook).numpy()
        for row, row_prefix, row_distances in zip(block.tolist(), prefix[block].tolist(), squared, strict=True):
            if row_prefix != current:
                low, high = np.searchsorted(existing, [row_prefix * size, (row_prefix + 1) * size])
                free, current = room - np.bincount(existing[low:high] - row_prefix * size, minlength=size), row_prefix
            if not free[assigned[row]]:
                assigned[row] = np.where(free > 0, row_distances, np.inf).argmin()
            free[assigned[row]] -= 1
    return code


def _rank(key: Tensor, distance: Tensor) -> Tensor:
    """int64[n]: rank of each row by distance among the rows with the same key, from 0."""
    order = distance.argsort(stable=True)
    order = order[key[order].argsort(stable=True)]
    rank = torch.empty_like(key)
    rank[order] = torch.arange(len(key), device=key.device) - torch.searchsorted(key[order], key[order])
    return rank


def _count(ascending: Tensor, keys: Tensor) -> Tensor:
    """int64[...]: how often each key, int64[...], occurs in a sorted list, int64[m]."""
    return torch.searchsorted(ascending, keys, right=True) - torch.searchsorted(ascending, keys)
