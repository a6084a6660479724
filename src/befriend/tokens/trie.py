"""The trie of all STUs: which tokens may follow a prefix, and the user of each complete STU.

An STU (social tokenized user id) is the semantic ID of a user: L tokens of a residual quantizer, unique to the user.

Beam search uses it to follow existing tokens only. `models.prefix_tree.PrefixTree` has the same nodes, and serves the
probabilities, which need the counts of all next tokens.

STUs are sorted: the nodes of a level are in ascending order, the children of a node are adjacent, and the users below a
node are a range of leaves. So one step of a search is one gather, and the number of users below a node is a difference
of two indices. The trie consists of tensors, on any device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from befriend.errors import DataError

MAX_TOKENS = 2**15  # per level, because tokens are stored in 16 bits


@dataclass(frozen=True)
class ExclusionSet:
    """Users that must not be recommended, for each of B requests, as leaves of a trie."""

    keys: Tensor
    """int64[n], request * number of leaves + leaf; ascending, distinct"""


@dataclass(frozen=True)
class Trie:
    """Nodes of L levels, with indices from 0 on each level; a node of the last level is a leaf: one user.

    A node is a prefix: on level l, the first l + 1 tokens of one or more STUs. The root, without tokens, is above
    level 0.
    """

    tokens: tuple[Tensor, ...]
    """L times int16[nodes], the last token of each node"""
    child_ptr: tuple[Tensor, ...]
    """L times int32[nodes of the level above + 1], CSR offsets: the children of node i of the level above are
    child_ptr[i] to child_ptr[i + 1] - 1"""
    users: Tensor
    """int32[leaves], the user of each leaf"""
    leaves: Tensor
    """int32[N], the leaf of each user up to the largest id, -1 for those without an STU"""

    @classmethod
    def of(cls, stus: Tensor, users: Tensor | None = None) -> Self:
        """The trie of distinct STUs, int[n, L]; users: int64[n], distinct, by default 0 to n - 1.

        Raises DataError if two users have the same STU, or a token is not between 0 and MAX_TOKENS - 1.

        Three prefixes of one token, 0, 1 and 2, lead to five STUs:

        >>> trie = Trie.of(torch.tensor([[0, 2], [1, 0], [0, 1], [1, 1], [2, 0]]))
        >>> [tokens.tolist() for tokens in trie.tokens]  # of level 0; of level 1, whose nodes are 01 02 10 11 20
        [[0, 1, 2], [1, 2, 0, 1, 0]]
        >>> [child_ptr.tolist() for child_ptr in trie.child_ptr]  # of node 0: 0 and 1; of 1: 2 and 3; of 2: 4
        [[0, 3], [0, 2, 4, 5]]
        >>> trie.users.tolist(), trie.leaves.tolist()  # user 2 has the first leaf, 01; user 0 the second, 02
        ([2, 0, 1, 3, 4], [1, 2, 0, 3, 4])
        """
        n, levels = stus.shape
        users = torch.arange(n, device=stus.device) if users is None else users
        low, high = (int(stus.min()), int(stus.max())) if stus.numel() else (0, 0)
        if low < 0 or high >= MAX_TOKENS:
            raise DataError(f"tokens lie between 0 and {MAX_TOKENS - 1}, found {low} to {high}.")
        order = _lexicographic(stus)
        stus, users = stus[order], users[order]
        is_first = torch.zeros(n, dtype=torch.bool, device=stus.device)  # first row with its prefix up to this level
        is_first[:1] = True
        tokens, child_ptr = [], []
        parent = torch.zeros(n, dtype=torch.long, device=stus.device)  # node of each row on the level above
        count = 1
        for level in range(levels):
            is_first[1:] |= stus[1:, level] != stus[:-1, level]
            first = is_first.nonzero().squeeze(1)
            tokens.append(stus[first, level].short())
            children = torch.bincount(parent[first], minlength=count)
            child_ptr.append(torch.cat([children.new_zeros(1), children.cumsum(0)]).int())
            parent, count = is_first.cumsum(0) - 1, len(first)
        if count < n:
            duplicates = users[~is_first][0], users[(~is_first).nonzero()[0, 0] - 1]
            raise DataError(f"users {int(duplicates[1])} and {int(duplicates[0])} have the same STU.")
        leaves = users.new_full((int(users.max()) + 1 if n else 0,), -1, dtype=torch.int32)
        leaves[users.long()] = torch.arange(n, dtype=torch.int32, device=stus.device)
        return cls(tuple(tokens), tuple(child_ptr), users.int(), leaves)

    @property
    def levels(self) -> int:
        return len(self.tokens)

    def to(self, device: torch.device | str) -> Self:
        tokens, child_ptr = (tuple(x.to(device) for x in levels) for levels in (self.tokens, self.child_ptr))
        return type(self)(tokens, child_ptr, self.users.to(device), self.leaves.to(device))

    def stus(self) -> Tensor:
        """int64[leaves, L]: the STU of each leaf, ascending."""
        node = torch.arange(len(self.users), device=self.users.device)
        columns = []
        for level in reversed(range(self.levels)):
            columns.append(self.tokens[level][node].long())
            node = torch.searchsorted(self.child_ptr[level].long(), node, right=True) - 1
        return torch.stack(columns[::-1], 1)

    def insert(self, stus: Tensor, users: Tensor) -> Self:
        """The trie with n more users. stus: int[n, L]; users: int64[n]."""
        return self.of(torch.cat([self.stus(), stus.long()]), torch.cat([self.users.long(), users.long()]))

    def children(self, level: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Children, on `level`, of nodes of the level above: int64[..., W] nodes, and bool[..., W] whether they exist.

        nodes: int64[...], 0 (the root) for level 0. W is the largest number of children of these nodes. Where there is
        no child, the node is 0.

        >>> trie = Trie.of(torch.tensor([[0, 2], [1, 0], [0, 1], [1, 1], [2, 0]]))
        >>> child, exists = trie.children(1, torch.tensor([0, 2]))  # of the prefixes 0 and 2
        >>> child.tolist(), exists.tolist()  # 01 and 02; 20 alone
        ([[0, 1], [4, 0]], [[True, True], [True, False]])
        """
        low, high = self.child_ptr[level][nodes].long(), self.child_ptr[level][nodes + 1].long()
        width = int((high - low).max()) if nodes.numel() else 0
        child = low[..., None] + torch.arange(width, device=nodes.device)
        is_child = child < high[..., None]
        return torch.where(is_child, child, 0), is_child

    def find(self, prefixes: Tensor) -> Tensor:
        """int64[B]: the node, on level l - 1, of each prefix, int[B, l]; -1 if no STU begins with it."""
        node = torch.zeros(len(prefixes), dtype=torch.long, device=prefixes.device)
        if not len(self.users):
            return node - 1
        has_prefix = torch.ones_like(node, dtype=torch.bool)
        for level, token in enumerate(prefixes.long().T):
            low, high = self.child_ptr[level][node].long(), self.child_ptr[level][node + 1].long()
            # Tokens ascend among siblings, so parent * MAX_TOKENS + token ascends over the whole level.
            parent = torch.repeat_interleave(self.child_ptr[level].diff().long())
            node_key = parent * MAX_TOKENS + self.tokens[level].long()
            child = torch.searchsorted(node_key, node * MAX_TOKENS + token.clamp(0, MAX_TOKENS - 1))
            is_in_range = (child >= low) & (child < high)
            child = child.clamp(max=len(node_key) - 1)
            has_prefix &= is_in_range & (self.tokens[level][child].long() == token)
            node = torch.where(has_prefix, child, 0)
        return torch.where(has_prefix, node, -1)

    def leaf_range(self, level: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """int64[...], int64[...]: the leaves below nodes of a level, as the first and one past the last."""
        low, high = nodes, nodes + 1
        for below in self.child_ptr[level + 1 :]:
            low, high = below[low].long(), below[high].long()
        return low, high

    def exclusions(self, indptr: Tensor, users: Tensor) -> ExclusionSet:
        """The set of users that must not be recommended, from CSR rows: indptr int64[B + 1], users int64[n].

        Users without an STU are ignored.
        """
        row = torch.repeat_interleave(indptr.diff())
        valid = (users >= 0) & (users < len(self.leaves))
        leaf = torch.where(valid, self.leaves[torch.where(valid, users, 0)].long(), -1) if len(self.leaves) else users
        has_leaf = valid & (leaf >= 0)
        return ExclusionSet((row[has_leaf] * len(self.users) + leaf[has_leaf]).unique())

    def count_allowed(self, level: int, nodes: Tensor, rows: Tensor, excluded: ExclusionSet) -> Tensor:
        """int64[...]: number of users below nodes who are not excluded. nodes, and rows, their requests: int64[...]."""
        low, high = self.leaf_range(level, nodes)
        first = rows * len(self.users)
        count = torch.searchsorted(excluded.keys, first + high) - torch.searchsorted(excluded.keys, first + low)
        return high - low - count


def _lexicographic(stus: Tensor) -> Tensor:
    """int64[n]: row order that sorts by the first token, then the second, and so on. stus: int[n, L]."""
    order = torch.arange(len(stus), device=stus.device)
    for column in stus.T.flip(0).unbind():
        order = order[column[order].argsort(stable=True)]
    return order
