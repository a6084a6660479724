"""One STU for each user: nearest codes level by level, and what happens where two users would get the same.

No prefix has more users than STUs begin with it: whoever finds a code full moves to the nearest one with room, on
whichever level that is (on the last, where a code holds one, mostly). Of the users whom a table begins with, those
farthest from the code move (`reassigned`); of those who join it, whoever comes later (`one_by_one`). `with_digit`
leaves the codes as they are, and numbers the users who share them. Nothing touches an STU that somebody has already.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from befriend.errors import DataError
from befriend.tokens.quantizer import BLOCK, distances, nearest


def reassigned(vectors: Tensor, codebooks: Sequence[Tensor], balance: float | None = None) -> Tensor:
    """int64[n, L]: STUs of the first n users of a table, all different; who lies nearest to a code has it.

    balance: most users beneath a prefix, as a multiple of the mean over all prefixes of its length; whoever joins the
    table later is not bound by it.
    """
    sizes = _enough(codebooks, len(vectors))
    left, stus = vectors, []
    prefix = torch.zeros(len(vectors), dtype=torch.long, device=vectors.device)
    for level, codebook in enumerate(codebooks):
        room = math.prod(sizes[level + 1 :])
        if balance is not None:
            room = min(room, math.ceil(balance * len(vectors) / math.prod(sizes[: level + 1])))
        code = _nearest_first(left, codebook, prefix, room)
        prefix = prefix * sizes[level] + code
        left = left - codebook[code]
        stus.append(code)
    return torch.stack(stus, 1)


def one_by_one(vectors: Tensor, codebooks: Sequence[Tensor], taken: Tensor) -> Tensor:
    """int64[n, L]: STUs of users who join a table one after the other, in the order of the rows; taken: int64[m, L].

    On each level everyone has the nearest code with room for them, so no row depends on one below it.
    """
    sizes = _enough(codebooks, len(vectors) + len(taken))
    left, stus = vectors, []
    prefix, taken_prefix = (torch.zeros(len(x), dtype=torch.long) for x in (vectors, taken))
    for level, codebook in enumerate(codebooks):
        taken_prefix = taken_prefix * sizes[level] + taken[:, level]
        code = _earliest_first(left, codebook, prefix, taken_prefix.sort().values, math.prod(sizes[level + 1 :]))
        prefix = prefix * sizes[level] + code
        left = left - codebook[code]
        stus.append(code)
    return torch.stack(stus, 1)


def with_digit(codes: Tensor, taken: Tensor, vocabulary: int) -> Tensor:
    """int64[n, L + 1]: codes, int64[n, L], and a digit that tells apart the users who share them.

    taken: int64[m, L + 1]. Digits go on where those taken end, in the order of the rows: none depends on a later one.
    """
    both = torch.cat([taken[:, :-1], codes])
    group = torch.unique(both, dim=0, return_inverse=True)[1]
    order = group.argsort(stable=True)
    first = torch.searchsorted(group[order], group[order])
    digit = torch.empty_like(group)
    digit[order] = torch.arange(len(group), device=group.device) - first
    if len(digit) and int(digit.max()) >= vocabulary:
        raise DataError(
            f"{int(digit.max()) + 1:,} users share the codes {both[digit.argmax()].tolist()}, and the extra digit has "
            f"{vocabulary:,} values. Raise tokenize.digits or tokenize.codes, or set tokenize.collisions to reassign."
        )
    return torch.cat([codes, digit[len(taken) :, None]], 1)


def _enough(codebooks: Sequence[Tensor], users: int) -> list[int]:
    """Codes of each level; a DataError where they make fewer STUs than there are users."""
    sizes = [len(codebook) for codebook in codebooks]
    if users > math.prod(sizes):
        raise DataError(
            f"{users:,} users need an STU, and {' x '.join(map(str, sizes))} codes make {math.prod(sizes):,}. "
            "Raise tokenize.codes or tokenize.num_codebooks."
        )
    return sizes


def _nearest_first(vectors: Tensor, codebook: Tensor, prefix: Tensor, room: int) -> Tensor:
    """int64[n]: the nearest code of each vector with room for it beneath its prefix; the nearest vectors choose first.

    prefix: int64[n], of the levels above; room: how many users a code may have beneath one prefix.
    """
    size = len(codebook)
    code = nearest(vectors, codebook)
    key = prefix * size + code
    distance = (vectors - codebook[code]).square().sum(1)
    rank = _rank(key, distance)
    moving = (rank >= room).nonzero().squeeze(1)
    moving = moving[prefix[moving].argsort(stable=True)]
    held = key[rank < room].sort().values
    for part in moving.split(max(1, BLOCK // size)):
        groups, group = prefix[part].unique(return_inverse=True)
        keys = groups[:, None] * size + torch.arange(size, device=key.device)
        free = room - _count(held, keys)  # (groups, K)
        far = distances(vectors[part], codebook) + vectors[part].square().sum(1, keepdim=True)
        waiting = torch.arange(len(part), device=key.device)
        while len(waiting):
            open_ = free[group[waiting]] > 0
            best = far[waiting].masked_fill(~open_, torch.inf).min(1)
            wanted = group[waiting] * size + best.indices
            gets = _rank(wanted, best.values) < free.view(-1)[wanted]
            code[part[waiting[gets]]] = best.indices[gets]
            free.view(-1).sub_(torch.bincount(wanted[gets], minlength=free.numel()))
            waiting = waiting[~gets]
        held = torch.cat([held, prefix[part] * size + code[part]]).sort().values
    return code


def _earliest_first(vectors: Tensor, codebook: Tensor, prefix: Tensor, taken: Tensor, room: int) -> Tensor:
    """As `_nearest_first`, but the rows choose in their order, after users who are there already.

    taken: int64[m], prefix * K + code of these users, ascending.
    """
    size = len(codebook)
    code = nearest(vectors, codebook)
    key = prefix * size + code
    full = _rank(key, torch.arange(len(key))) + _count(taken, key) >= room
    # Whoever finds a code full takes a place that somebody further down might want, so beneath such a prefix it goes
    # row by row; beneath all others everyone has what is nearest.
    crowded = torch.isin(prefix, prefix[full]).nonzero().squeeze(1)
    crowded = crowded[prefix[crowded].argsort(stable=True)]
    held, chosen, at = taken.numpy(), code.numpy(), -1
    for part in crowded.split(max(1, BLOCK // size)):
        far = distances(vectors[part], codebook).numpy()
        for row, beneath, of_row in zip(part.tolist(), prefix[part].tolist(), far, strict=True):
            if beneath != at:
                low, high = np.searchsorted(held, [beneath * size, (beneath + 1) * size])
                free, at = room - np.bincount(held[low:high] - beneath * size, minlength=size), beneath
            if not free[chosen[row]]:
                chosen[row] = np.where(free > 0, of_row, np.inf).argmin()
            free[chosen[row]] -= 1
    return code


def _rank(key: Tensor, distance: Tensor) -> Tensor:
    """int64[n]: 0 for the row with the smallest distance of all with the same key, 1 for the next, ..."""
    order = distance.argsort(stable=True)
    order = order[key[order].argsort(stable=True)]
    rank = torch.empty_like(key)
    rank[order] = torch.arange(len(key), device=key.device) - torch.searchsorted(key[order], key[order])
    return rank


def _count(ascending: Tensor, keys: Tensor) -> Tensor:
    """int64[...]: how often each key stands in a sorted list."""
    return torch.searchsorted(ascending, keys, right=True) - torch.searchsorted(ascending, keys)
