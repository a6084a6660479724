"""Beam search over the trie of STUs: only people who exist and may be shown come out.

A query's history is encoded once; a step looks at the children of the best prefixes so far, for all queries at once.
A prefix counts for its probability and for the best that those beneath it may add who may be shown: what somebody has
been doing lately and a common past belong to single users, so no beam loses them. A prefix beneath which nobody may be
shown is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from befriend.models.stu import NextTargetPredictionSTU
from befriend.tokens.trie import Hidden, Trie

AWAY = -torch.inf


class Bounds(Protocol):
    """What the users beneath a node may add to the score, at most, and whether any of them may be shown."""

    def __call__(self, level: int, nodes: Tensor) -> Tensor:
        """float32[B, C], for nodes of a level, int64[B, C]; -inf where nobody may be shown. Exact for leaves."""


class Shown:
    """Nothing is added; some users may not be shown to some requests. What it takes does not grow with the users."""

    def __init__(self, trie: Trie, hidden: Hidden, requests: int):
        self.trie, self.hidden = trie, hidden
        self.rows = torch.arange(requests)[:, None]

    def __call__(self, level: int, nodes: Tensor) -> Tensor:
        allowed = self.trie.allowed(level, nodes, self.rows.expand_as(nodes), self.hidden)
        return torch.where(allowed > 0, 0.0, AWAY)


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

    def __call__(self, level: int, nodes: Tensor) -> Tensor:
        return self.levels[level][nodes, torch.arange(len(nodes))[:, None]]


@dataclass(frozen=True)
class Following:
    """The part of each level's scores that depends on the prefix alone, for all prefixes of a trie."""

    sums: tuple[Tensor, ...]
    """L times float32[nodes above, V]: exp of the scores, less the largest, 0 for tokens that lead to nobody"""
    largest: tuple[Tensor, ...]
    """L times float32[nodes above]"""
    edge: tuple[Tensor, ...]
    """L times float32[nodes]: the score of each node's own token after the one above"""

    @classmethod
    @torch.no_grad()
    def of(cls, model: NextTargetPredictionSTU, trie: Trie) -> Following:
        """trie: of the users whom the model was told of."""
        sums, largest, edge = [], [], []
        for level in range(trie.levels):
            starts = trie.starts[level].long()
            scores = model.following(level, torch.arange(len(starts) - 1))
            above = torch.repeat_interleave(starts.diff())
            edge.append(scores[above, trie.tokens[level].long()])
            largest.append(scores.amax(1))
            sums.append((scores - largest[-1][:, None]).exp())
        return cls(tuple(sums), tuple(largest), tuple(edge))


@dataclass(frozen=True)
class Found:
    """People found for B requests, best first; -1 and -inf behind the last."""

    users: Tensor
    """int64[B, k]"""
    scores: Tensor
    """float32[B, k]: log-probability, and what each user adds"""


@torch.no_grad()
def search(
    model: NextTargetPredictionSTU,
    trie: Trie,
    following: Following,
    asked: Tensor,
    bounds: Bounds,
    width: int,
    k: int,
) -> Found:
    """The best k people for each request. asked: float32[B, H], from a query; width: prefixes kept on each level."""
    node, log = torch.zeros(len(asked), 1, dtype=torch.long), torch.zeros(len(asked), 1)
    for level in range(trie.levels):
        child, slot, real = _children(trie, level, node, log)
        wanted = model.wanted(level, asked)  # (B, V)
        behind = _behind(wanted, following.sums[level], following.largest[level], node)
        token = trie.tokens[level][child].long()
        score = (log - behind).gather(1, slot) + wanted.gather(1, token) + following.edge[level][child]
        score = score.masked_fill(~real, AWAY)
        total = score + bounds(level, child)
        if level == trie.levels - 1:
            return _found(total, trie.users.long()[child], k)
        best = total.topk(min(width, total.shape[1]), dim=1)
        node = child.gather(1, best.indices)
        log = torch.where(best.values > AWAY, score.gather(1, best.indices), AWAY)
    raise AssertionError("a trie has at least one level")


def _children(trie: Trie, level: int, node: Tensor, log: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Children of the beams' nodes, int64[B, W]: packed int64[B, C], whose they are, int64[B, C], and bool[B, C].

    Packed by row: a few nodes have many children, and most have few.
    """
    starts = trie.starts[level]
    low = starts[node].long()
    count = torch.where(log > AWAY, starts[node + 1].long() - low, 0)
    end = count.cumsum(1)
    place = torch.arange(max(1, int(end[:, -1].max())))[None].expand(len(node), -1).contiguous()
    slot = torch.searchsorted(end, place, right=True)
    real = slot < node.shape[1]
    slot = slot.clamp(max=node.shape[1] - 1)
    child = low.gather(1, slot) + place - (end - count).gather(1, slot)
    return torch.where(real, child, 0), slot, real


def _behind(wanted: Tensor, sums: Tensor, largest: Tensor, node: Tensor) -> Tensor:
    """float32[B, W]: log of the sum of exp of the scores of all tokens that lead on. As `models.stu.log_sums`."""
    high = wanted.amax(1, keepdim=True)
    total = torch.bmm(sums[node], (wanted - high).exp()[..., None]).squeeze(2)
    return total.clamp(min=1e-30).log() + high + largest[node]


def exhaustive(model: NextTargetPredictionSTU, trie: Trie, asked: Tensor, terms: Tensor, k: int) -> Found:
    """The best k of everyone: what a beam is measured by. asked: float32[B, H]; terms: as of `Maxima`."""
    return _found((model.log_probs(asked, trie.users.long()) + terms.T), trie.users.long().expand(len(asked), -1), k)


def _found(scores: Tensor, users: Tensor, k: int) -> Found:
    """The k with the best scores of each row. scores: float32[B, C]; users: int64[B, C]."""
    best = scores.topk(min(k, scores.shape[1]), dim=1)
    found = torch.where(best.values > AWAY, users.gather(1, best.indices), -1)
    missing = (0, k - found.shape[1])
    return Found(F.pad(found, missing, value=-1), F.pad(best.values, missing, value=AWAY))
