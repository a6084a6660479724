"""The prefixes of all STUs: whose they are, what they read, and which tokens lead on to somebody."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Paths:
    """Distinct prefixes are nodes, numbered in order within their level, as in the trie of the same STUs."""

    nodes: tuple[Tensor, ...]
    """L times int64[N], where each user's STU passes"""
    prefixes: tuple[Tensor, ...]
    """L times int64[n, l], the tokens that lead to each node above level l; the root for level 0"""
    sizes: tuple[Tensor, ...]
    """L times float32[n, V], log of how many users that count lie beneath each token after a node above level l, -inf
    for none"""

    @classmethod
    def of(cls, stus: Tensor, vocabulary: tuple[int, ...], counted: Tensor | None = None) -> Self:
        """stus: int64[N, L]; vocabulary: L sizes; counted: bool[N], who is there yet, None: everybody."""
        nodes, prefixes, sizes = [], [], []
        above, prefix = torch.zeros(len(stus), dtype=torch.long, device=stus.device), stus.new_zeros(1, 0)
        for level, size in enumerate(vocabulary):
            key = above * size + stus[:, level]
            keys, node = key.unique(return_inverse=True)
            nodes.append(node)
            prefixes.append(prefix)
            sizes.append(_sizes(key, len(prefix), size, counted))
            prefix = torch.cat([prefix[keys // size], (keys % size)[:, None]], 1)
            above = node
        return cls(tuple(nodes), tuple(prefixes), tuple(sizes))

    def among(self, stus: Tensor, counted: Tensor) -> Self:
        """The same paths where others count. stus: int64[N, L], those of `of`; counted: bool[N]."""
        sizes = tuple(
            _sizes(self.parents(level) * size + stus[:, level], nodes, size, counted)
            for level, (nodes, size) in enumerate(old.shape for old in self.sizes)
        )
        return replace(self, sizes=sizes)

    def parents(self, level: int) -> Tensor:
        """int64[N]: the node above a level in each user's STU."""
        return self.nodes[level - 1] if level else torch.zeros_like(self.nodes[0])

    def to(self, device: torch.device | str) -> Self:
        return type(self)(*(tuple(x.to(device) for x in part) for part in (self.nodes, self.prefixes, self.sizes)))


def _sizes(key: Tensor, nodes: int, vocabulary: int, counted: Tensor | None) -> Tensor:
    """float32[nodes, V]: log of how many users have a key, int64[N], node * V + token, of those who count."""
    weight = None if counted is None else counted.float()
    return key.bincount(weight, minlength=nodes * vocabulary).view(nodes, vocabulary).float().log()
