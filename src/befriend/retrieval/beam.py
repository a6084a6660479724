"""Beam search over the trie of STUs: only people who exist and may be shown come out.

A query's history is encoded once; a step looks at the children of the best prefixes so far, for all queries at once.
A prefix counts for the probability that its users have on average, and for the most that anybody beneath it adds who
may be shown: what somebody has been doing lately and a common past belong to single users, so no beam loses them. A
prefix beneath which nobody may be shown is none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from befriend.models.paths import Paths
from befriend.models.stu import FLOOR, LEAST, NextTargetPredictionSTU
from befriend.retrieval.knn import Neighbours
from befriend.tokens.trie import Hidden, Trie

AWAY = -torch.inf
SPARSE = 8  # a level is looked up by all tokens where at least one in so many leads on


@dataclass(frozen=True)
class Step:
    """What B requests look at on one level: the children of W nodes each."""

    node: Tensor
    """int64[B, W], of the level above, -1 where a beam leads nowhere"""
    child: Callable[[Tensor | None], Tensor]
    """the children in some columns, int64[B, K], or in all, None: int64[B, K], whatever where the score is -inf"""
    score: Tensor
    """float32[B, C], log-probability, -inf where there is no child"""
    sizes: Tensor
    """float32[B, C]: log of how many users lie beneath"""
    first: Tensor
    """int64[B, W], the column where the children of each node begin"""
    dense: bool
    """whether every token has a column; otherwise children stand side by side"""


class Bounds(Protocol):
    """What the users beneath a node may add to the score, at most, and whether any of them may be shown."""

    def __call__(self, level: int, step: Step) -> Tensor:
        """float32[B, C]: the scores with it, -inf where nobody may be shown. Exact for leaves."""


class Shown:
    """Nothing is added; some users may not be shown to some requests. What it takes does not grow with the users."""

    def __init__(self, trie: Trie, hidden: Hidden):
        self.trie = trie
        row, node = hidden.keys // max(len(trie.users), 1), hidden.keys % max(len(trie.users), 1)
        self.closed = []
        for starts in reversed(trie.starts):
            parent = torch.searchsorted(starts.long(), node, right=True) - 1
            self.closed.append((row, node, parent))
            # A node is closed where all of its children are.
            keys, count = torch.unique(row * len(starts) + parent, return_counts=True)
            row, node = keys // len(starts), keys % len(starts)
            all_ = count == (starts[node + 1] - starts[node])
            row, node = row[all_], node[all_]
        self.closed.reverse()

    def __call__(self, level: int, step: Step) -> Tensor:
        row, child, parent = self.closed[level]
        at, slot = (step.node[row] == parent[:, None]).nonzero(as_tuple=True)
        row, child, parent = row[at], child[at], parent[at]
        inside = self.trie.tokens[level][child].long() if step.dense else child - self.trie.starts[level][parent]
        step.score[row, step.first[row, slot] + inside] = AWAY
        return step.score


class Maxima:
    """Every user adds something of their own to the score of every request."""

    def __init__(self, trie: Trie, terms: Tensor):
        """terms: float32[leaves, B], what the user of each leaf adds; -inf for those not to be shown."""
        self.levels = [terms]
        for starts in trie.starts[:0:-1]:
            # Children lie side by side, and every node has some.
            above = np.maximum.reduceat(self.levels[-1].numpy(), starts[:-1].numpy(), axis=0)
            self.levels.append(torch.from_numpy(above))
        self.levels.reverse()

    def __call__(self, level: int, step: Step) -> Tensor:
        return step.score + self.levels[level][step.child(None), torch.arange(len(step.node))[:, None]]


@dataclass(frozen=True)
class Level:
    """Of a level on which many tokens lead on: all of them, for each node above."""

    scores: Tensor
    """float32[nodes above, V], -inf for tokens that lead to nobody"""
    child: Tensor
    """int64[nodes above, V], whither they lead"""
    sums: Tensor
    """float32[nodes above, V], exp of the scores, less the largest"""
    sizes: Tensor
    """float32[nodes above, V]: log of how many users lie beneath, 0 for tokens that lead to nobody"""


@dataclass(frozen=True)
class Following:
    """The part of each level's scores that depends on the prefix alone, for all prefixes of a trie."""

    edge: tuple[Tensor, ...]
    """L times float32[nodes]: the score of each node's own token after the one above"""
    largest: tuple[Tensor, ...]
    """L times float32[nodes above]: the largest score of a token that leads on"""
    sizes: tuple[Tensor, ...]
    """L times float32[nodes]: log of how many users lie beneath, 0 for none"""
    dense: tuple[Level | None, ...]
    """L levels, None where few tokens lead on"""

    @classmethod
    @torch.no_grad()
    def of(cls, model: NextTargetPredictionSTU, trie: Trie, paths: Paths) -> Following:
        """trie: of the users whom the model was told of; paths: theirs, where those count who are there."""
        edge, largest, sizes = [], [], []
        dense: list[Level | None] = []
        for level in range(trie.levels):
            starts, token = trie.starts[level].long(), trie.tokens[level].long()
            scores = model.following(level, torch.arange(len(starts) - 1), paths)
            above = torch.repeat_interleave(starts.diff())
            edge.append(scores[above, token])
            largest.append(scores.amax(1).clamp(min=LEAST))
            sizes.append(paths.sizes[level][above, token].clamp(min=0))
            table = None
            if len(token) * SPARSE >= scores.numel():
                child = torch.zeros(scores.shape, dtype=torch.long)
                child[above, token] = torch.arange(len(token))
                beneath = torch.zeros(scores.shape)
                beneath[above, token] = sizes[-1]
                table = Level(scores, child, (scores - largest[-1][:, None]).exp(), beneath)
            dense.append(table)
        return cls(tuple(edge), tuple(largest), tuple(sizes), tuple(dense))


@torch.no_grad()
def search(
    model: NextTargetPredictionSTU,
    trie: Trie,
    following: Following,
    asked: Tensor,
    bounds: Bounds,
    width: int,
    k: int,
) -> Neighbours:
    """The best k people for each request. asked: float32[B, H], from a query; width: prefixes kept on each level."""
    node, log = torch.zeros(len(asked), 1, dtype=torch.long), torch.zeros(len(asked), 1)
    for level in range(trie.levels):
        wanted = model.wanted(level, asked)  # (B, V)
        step = _step(trie, level, following, node, log, wanted)
        total = bounds(level, step)
        if level == trie.levels - 1:
            best = total.topk(min(k, total.shape[1]), dim=1)
            return _found(trie, best.values, step.child(best.indices), k)
        best = (total - step.sizes).topk(min(width, total.shape[1]), dim=1)
        real = best.values > AWAY
        node = torch.where(real, step.child(best.indices), -1)  # beneath -1 nobody has to be hidden
        log = torch.where(real, step.score.gather(1, best.indices), AWAY)
    raise AssertionError("a trie has at least one level")


def _step(trie: Trie, level: int, following: Following, node: Tensor, log: Tensor, wanted: Tensor) -> Step:
    """The children of the beams' nodes, int64[B, W]. log: float32[B, W], -inf for beams that lead nowhere."""
    high = wanted.amax(1, keepdim=True)
    most = high + following.largest[level][node]
    table = following.dense[level]
    if table is None:
        return _side_by_side(trie, level, following, node, log, wanted, most)
    behind = torch.bmm(table.sums[node], (wanted - high).exp()[..., None]).squeeze(2)
    log = log - (behind.clamp(min=FLOOR).log() + most)
    score = table.scores[node].add_(wanted[:, None]).add_(log[..., None])  # in place: memory is what takes time
    v = wanted.shape[1]

    def child(columns: Tensor | None) -> Tensor:
        if columns is None:
            return table.child[node].flatten(1)
        return table.child[node.gather(1, columns // v), columns % v]

    first = torch.arange(node.shape[1]).expand(len(node), -1) * v
    return Step(node, child, score.flatten(1), table.sizes[node].flatten(1), first, True)


def _side_by_side(
    trie: Trie, level: int, following: Following, node: Tensor, log: Tensor, wanted: Tensor, most: Tensor
) -> Step:
    """As `_step`, where few tokens lead on. most: float32[B, W], no child of a node scores higher."""
    count, children = _children(trie, level, node, log)
    own, many = count.flatten(), count.sum(1)
    begin = torch.arange(len(node)).repeat_interleave(many) * wanted.shape[1]  # of each child's request in flat scores
    score = wanted.flatten().index_select(0, begin.add_(trie.tokens[level].index_select(0, children)))
    score.add_(following.edge[level].index_select(0, children))
    above = most.flatten().repeat_interleave(own)
    behind = torch.segment_reduce((score - above).exp_(), "sum", lengths=own, unsafe=True)
    score.add_((log.flatten() - (behind.clamp(min=FLOOR).log() + most.flatten())).repeat_interleave(own))
    # The children of a request stand side by side, and nobody behind the last: a few requests have many.
    there = torch.arange(max(1, int(many.max()))) < many[:, None]
    scores = torch.full(there.shape, AWAY).masked_scatter_(there, score)
    before = (many.cumsum(0) - many)[:, None]

    def child(columns: Tensor | None) -> Tensor:
        at = before + (torch.arange(there.shape[1]) if columns is None else columns)
        # Behind the last child of the last request there is none; and maybe nobody has any.
        return children[at.clamp(max=len(children) - 1)] if len(children) else torch.zeros_like(at)

    leaves = level + 1 == trie.levels
    sizes = torch.zeros(()).expand(there.shape) if leaves else following.sizes[level][child(None)]
    return Step(node, child, scores, sizes, count.cumsum(1) - count, False)


def _children(trie: Trie, level: int, node: Tensor, log: Tensor) -> tuple[Tensor, Tensor]:
    """Children on a level of all beams: how many, int64[B, W], and which, int64[C], one beam after the other."""
    starts = trie.starts[level]
    low = starts[node].long()
    count = torch.where(log > AWAY, starts[node + 1].long() - low, 0)
    own = count.flatten()
    child = (low.flatten() - (own.cumsum(0) - own)).repeat_interleave(own)
    return count, child.add_(torch.arange(len(child)))


def exhaustive(model: NextTargetPredictionSTU, trie: Trie, asked: Tensor, terms: Tensor, k: int) -> Neighbours:
    """The best k of everyone: what a beam is measured by. asked: float32[B, H]; terms: as of `Maxima`."""
    best = (model.log_probs(asked, trie.users.long()) + terms.T).topk(min(k, len(trie.users)), dim=1)
    return _found(trie, best.values, best.indices, k)


def _found(trie: Trie, scores: Tensor, leaf: Tensor, k: int) -> Neighbours:
    """The users of some leaves, int64[B, K], K <= k, the best first; nobody where the score, float32[B, K], is -inf."""
    found = torch.where(scores > AWAY, trie.users[leaf].long(), -1)
    missing = (0, k - found.shape[1])
    return Neighbours(F.pad(found, missing, value=-1), F.pad(scores, missing, value=AWAY))
