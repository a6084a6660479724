"""The tree of the distinct prefixes of all STUs, with the tokens of each prefix and the number of users below it.

STU stands for social tokenized user id: the semantic ID of a user, L tokens, one for each level of a residual
quantizer. A node of the tree is a distinct prefix, that is the first tokens of one or more STUs.

The model computes probabilities with this tree: it needs the node of each prefix of a user, and for each node the
counts of all V next tokens. Beam search uses the trie of `tokens.trie`: it needs the existing children of a node, and
the user of a leaf. Both number the nodes of a level in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class PrefixTree:
    """The tree as tensors, one for each level l from 0 to L - 1.

    Level l has one node for each distinct prefix of l + 1 tokens, in ascending order of the prefixes. The parents of
    these nodes are the n nodes of the level above, with l tokens each. On level 0 the only parent is the root, without
    tokens.
    """

    user_nodes: tuple[Tensor, ...]
    """L times int64[N], the node of each user on level l"""
    prefixes: tuple[Tensor, ...]
    """L times int64[n, l], the tokens of each parent"""
    log_num_users: tuple[Tensor, ...]
    """L times float32[n, V], for each parent and each next token: the log of the number of counted users whose STU
    begins with the parent's tokens and this token; -inf without such a user"""

    @classmethod
    def of(cls, stus: Tensor, vocabulary: tuple[int, ...], is_counted: Tensor | None = None) -> Self:
        """The tree of the STUs of N users.

        stus: int64[N, L]; vocabulary: L numbers of tokens, V of each level; is_counted: bool[N], the users that
        `log_num_users` counts, None: all.

        Three users with STUs 00, 01 and 10:

        >>> tree = PrefixTree.of(torch.tensor([[0, 0], [0, 1], [1, 0]]), (2, 2))
        >>> [nodes.tolist() for nodes in tree.user_nodes]  # nodes 0 and 1; then 00, 01 and 10
        [[0, 0, 1], [0, 1, 2]]
        >>> [counts.exp().round().tolist() for counts in tree.log_num_users]  # after the root; after 0 and after 1
        [[[2.0, 1.0]], [[1.0, 1.0], [1.0, 0.0]]]
        """
        user_nodes, prefixes, log_num_users = [], [], []
        parent, prefix = torch.zeros(len(stus), dtype=torch.long, device=stus.device), stus.new_zeros(1, 0)
        for level, num_tokens in enumerate(vocabulary):
            key = parent * num_tokens + stus[:, level]
            keys, node = key.unique(return_inverse=True)
            user_nodes.append(node)
            prefixes.append(prefix)
            log_num_users.append(_log_counts(key, len(prefix), num_tokens, is_counted))
            prefix = torch.cat([prefix[keys // num_tokens], (keys % num_tokens)[:, None]], 1)
            parent = node
        return cls(tuple(user_nodes), tuple(prefixes), tuple(log_num_users))

    def recount(self, stus: Tensor, is_counted: Tensor) -> Self:
        """The same tree with other users counted. stus: int64[N, L], as given to `of`; is_counted: bool[N]."""
        log_num_users = tuple(
            _log_counts(self.parents(level) * num_tokens + stus[:, level], num_parents, num_tokens, is_counted)
            for level, (num_parents, num_tokens) in enumerate(counts.shape for counts in self.log_num_users)
        )
        return replace(self, log_num_users=log_num_users)

    def parents(self, level: int) -> Tensor:
        """int64[N]: the parent of each user's node on a level; on level 0 it is 0, the root."""
        return self.user_nodes[level - 1] if level else torch.zeros_like(self.user_nodes[0])

    def to(self, device: torch.device | str) -> Self:
        fields = (self.user_nodes, self.prefixes, self.log_num_users)
        return type(self)(*(tuple(level.to(device) for level in levels) for levels in fields))


def _log_counts(key: Tensor, num_parents: int, num_tokens: int, is_counted: Tensor | None) -> Tensor:
    """float32[num_parents, V]: log of the number of counted users with each parent and next token.

    key: int64[N], parent * V + token of each user.
    """
    weight = None if is_counted is None else is_counted.float()
    return key.bincount(weight, minlength=num_parents * num_tokens).view(num_parents, num_tokens).float().log()
