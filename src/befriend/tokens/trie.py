"""The trie of all STUs: which tokens may follow which, and whose STU each path is.

Sorted STUs make it: the nodes of a level lie in order, the children of a node side by side, and the users beneath any
node are a run of leaves. So a step of a search is one gather, and whether anybody beneath a node is allowed is a
subtraction. Tensors only, on any device; what a token means it does not know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from befriend.errors import DataError

MOST_TOKENS = 2**15  # a level; tokens are kept in 16 bits


@dataclass(frozen=True)
class Hidden:
    """Users whom B requests must not find."""

    keys: Tensor
    """int64, row * leaves + leaf, ascending, each once"""


@dataclass(frozen=True)
class Trie:
    """Nodes of L levels, counted from 0; a node of the last level is a leaf, one user."""

    tokens: tuple[Tensor, ...]
    """L times int16[n], the token of each node"""
    starts: tuple[Tensor, ...]
    """L times int32[n of the level above + 1], where the children of each node begin; the root is above level 0"""
    users: Tensor
    """int32[leaves], the user of each leaf"""
    leaves: Tensor
    """int32[N], the leaf of each user, -1 for those without an STU"""

    @classmethod
    def of(cls, stus: Tensor, users: Tensor | None = None) -> Self:
        """The trie of STUs, int[n, L], each once; users: int64[n], each once, by default 0 to n - 1."""
        n, levels = stus.shape
        users = torch.arange(n, device=stus.device) if users is None else users
        low, high = (int(stus.min()), int(stus.max())) if stus.numel() else (0, 0)
        if low < 0 or high >= MOST_TOKENS:
            raise DataError(f"tokens lie between 0 and {MOST_TOKENS - 1}, found {low} to {high}.")
        order = _lexicographic(stus)
        stus, users = stus[order], users[order]
        fresh = torch.zeros(n, dtype=torch.bool, device=stus.device)  # where the prefix up to here is a new one
        fresh[:1] = True
        tokens, starts = [], []
        above = torch.zeros(n, dtype=torch.long, device=stus.device)  # the node of each row in the level above
        count = 1
        for level in range(levels):
            fresh[1:] |= stus[1:, level] != stus[:-1, level]
            first = fresh.nonzero().squeeze(1)
            tokens.append(stus[first, level].short())
            children = torch.bincount(above[first], minlength=count)
            starts.append(torch.cat([children.new_zeros(1), children.cumsum(0)]).int())
            above, count = fresh.cumsum(0) - 1, len(first)
        if count < n:
            twice = users[~fresh][0], users[(~fresh).nonzero()[0, 0] - 1]
            raise DataError(f"users {int(twice[1])} and {int(twice[0])} have the same STU.")
        leaves = users.new_full((int(users.max()) + 1 if n else 0,), -1, dtype=torch.int32)
        leaves[users.long()] = torch.arange(n, dtype=torch.int32, device=stus.device)
        return cls(tuple(tokens), tuple(starts), users.int(), leaves)

    @property
    def levels(self) -> int:
        return len(self.tokens)

    def to(self, device: torch.device | str) -> Self:
        tokens, starts = (tuple(x.to(device) for x in part) for part in (self.tokens, self.starts))
        return type(self)(tokens, starts, self.users.to(device), self.leaves.to(device))

    def stus(self) -> Tensor:
        """int64[leaves, L]: the STU of each leaf, ascending."""
        node = torch.arange(len(self.users), device=self.users.device)
        columns = []
        for level in reversed(range(self.levels)):
            columns.append(self.tokens[level][node].long())
            node = torch.searchsorted(self.starts[level].long(), node, right=True) - 1
        return torch.stack(columns[::-1], 1)

    def insert(self, stus: Tensor, users: Tensor) -> Self:
        """The trie with more users; nobody's STU changes."""
        return self.of(torch.cat([self.stus(), stus.long()]), torch.cat([self.users.long(), users.long()]))

    def children(self, level: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Nodes of `level` that follow nodes of the level above: int64[..., W], and bool[..., W], which of them exist.

        nodes: int64[...]; for level 0, the root: 0. W is the largest number of children among them.
        """
        low, high = self.starts[level][nodes].long(), self.starts[level][nodes + 1].long()
        width = int((high - low).max()) if nodes.numel() else 0
        child = low[..., None] + torch.arange(width, device=nodes.device)
        real = child < high[..., None]
        return torch.where(real, child, 0), real

    def find(self, prefixes: Tensor) -> Tensor:
        """int64[B]: the node of each prefix, int[B, l], in level l - 1; -1 where nobody's STU begins with it."""
        node = torch.zeros(len(prefixes), dtype=torch.long, device=prefixes.device)
        if not len(self.users):
            return node - 1
        real = torch.ones_like(node, dtype=torch.bool)
        for level, token in enumerate(prefixes.long().T):
            low, high = self.starts[level][node].long(), self.starts[level][node + 1].long()
            # Tokens ascend among siblings: parent * tokens + token ascends in the whole level.
            parent = torch.repeat_interleave(self.starts[level].diff().long())
            key = parent * MOST_TOKENS + self.tokens[level].long()
            at = torch.searchsorted(key, node * MOST_TOKENS + token.clamp(0, MOST_TOKENS - 1))
            inside = (at >= low) & (at < high)
            at = at.clamp(max=len(key) - 1)
            real &= inside & (self.tokens[level][at].long() == token)
            node = torch.where(real, at, 0)
        return torch.where(real, node, -1)

    def span(self, level: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """int64[...], int64[...]: the leaves beneath nodes of a level, from and up to."""
        low, high = nodes, nodes + 1
        for below in self.starts[level + 1 :]:
            low, high = below[low].long(), below[high].long()
        return low, high

    def hide(self, indptr: Tensor, users: Tensor) -> Hidden:
        """Who must not be found, as CSR over requests: indptr int64[B + 1], users int64. Unknown users are nobody."""
        row = torch.repeat_interleave(indptr.diff())
        known = (users >= 0) & (users < len(self.leaves))
        leaf = torch.where(known, self.leaves[torch.where(known, users, 0)].long(), -1) if len(self.leaves) else users
        there = known & (leaf >= 0)
        return Hidden((row[there] * len(self.users) + leaf[there]).unique())

    def allowed(self, level: int, nodes: Tensor, rows: Tensor, hidden: Hidden) -> Tensor:
        """int64[...]: how many users beneath nodes of a level may be found by requests `rows`, int64[...]."""
        low, high = self.span(level, nodes)
        first = rows * len(self.users)
        away = torch.searchsorted(hidden.keys, first + high) - torch.searchsorted(hidden.keys, first + low)
        return high - low - away


def _lexicographic(stus: Tensor) -> Tensor:
    """int64[n]: the order of rows by their first token, then the second, and so on."""
    order = torch.arange(len(stus), device=stus.device)
    for column in stus.T.flip(0).unbind():
        order = order[column[order].argsort(stable=True)]
    return order
