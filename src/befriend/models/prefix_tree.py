"""The distinct prefixes of all STUs: their tokens, their users, and how many users each next token leads to.

The prefix tree serves the probabilities of the model: from a user it finds the node of each prefix, and from a node the
scores of all V next tokens. The trie of `tokens.trie` serves the search: from a node it finds the children that exist,
and from a leaf the user. Both number the nodes alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class PrefixTree:
    """Nodes are distinct prefixes, numbered in ascending order within their level, as in the trie of the same STUs."""

    nodes: tuple[Tensor, ...]
    """L times int64[N], the node of each user on that level"""
    prefixes: tuple[Tensor, ...]
    """L times int64[n, l], the tokens of each node on the level above l; for level 0 the root, without tokens"""
    sizes: tuple[Tensor, ...]
    """L times float32[n, V], for each node above level l and each next token: the log of the number of counted users
    whose STU begins so, -inf for none"""

    @classmethod
    def of(cls, stus: Tensor, vocabulary: tuple[int, ...], counted: Tensor | None = None) -> Self:
        """stus: int64[N, L]; vocabulary: L sizes; counted: bool[N], users to count in `sizes`, None: all users.

        Three users with STUs 00, 01 and 10:

        >>> tree = PrefixTree.of(torch.tensor([[0, 0], [0, 1], [1, 0]]), (2, 2))
        >>> [nodes.tolist() for nodes in tree.nodes]  # prefixes 0 and 1; then 00, 01 and 10
        [[0, 0, 1], [0, 1, 2]]
        >>> [sizes.exp().round().tolist() for sizes in tree.sizes]  # below the root; below prefix 0 and prefix 1
        [[[2.0, 1.0]], [[1.0, 1.0], [1.0, 0.0]]]
        """
        nodes, prefixes, sizes = [], [], []
        parent, prefix = torch.zeros(len(stus), dtype=torch.long, device=stus.device), stus.new_zeros(1, 0)
        for level, size in enumerate(vocabulary):
            key = parent * size + stus[:, level]
            keys, node = key.unique(return_inverse=True)
            nodes.append(node)
            prefixes.append(prefix)
            sizes.append(_sizes(key, len(prefix), size, counted))
            prefix = torch.cat([prefix[keys // size], (keys % size)[:, None]], 1)
            parent = node
        return cls(tuple(nodes), tuple(prefixes), tuple(sizes))

    def recount(self, stus: Tensor, counted: Tensor) -> Self:
        """The same nodes with other users counted. stus: int64[N, L], those given to `of`; counted: bool[N]."""
        sizes = tuple(
            _sizes(self.parents(level) * size + stus[:, level], nodes, size, counted)
            for level, (nodes, size) in enumerate(old.shape for old in self.sizes)
        )
        return replace(self, sizes=sizes)

    def parents(self, level: int) -> Tensor:
        """int64[N]: each user's node on the level above; 0, the root, for level 0."""
        return self.nodes[level - 1] if level else torch.zeros_like(self.nodes[0])

    def to(self, device: torch.device | str) -> Self:
        return type(self)(*(tuple(x.to(device) for x in levels) for levels in (self.nodes, self.prefixes, self.sizes)))


def _sizes(key: Tensor, nodes: int, vocabulary: int, counted: Tensor | None) -> Tensor:
    """float32[nodes, V]: log of the number of counted users with each key, int64[N], node * V + token."""
    weight = None if counted is None else counted.float()
    return key.bincount(weight, minlength=nodes * vocabulary).view(nodes, vocabulary).float().log()
