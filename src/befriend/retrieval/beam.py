"""Beam search over the trie of semantic IDs: the top k users of the STU model for a batch of queries.

The semantic ID of a user, as in TIGER, consists of L tokens from a residual quantizer and is unique to the user. The
code calls it the user's STU, for "social tokenized user id". The trie holds the prefixes of all STUs, so that the
search returns only users that exist.

A user is *eligible* if they may be recommended as of the cutoff of the queries. A user is *allowed* for a query if they
are eligible and not excluded from its list (a blocked user, for example).

The score of a user is the log-probability of the STU given the query, plus an optional *term*: one number for each
query and user. A term is not a sum over tokens, so a prefix does not determine it. It stands for the parts of the score
that change with new events, such as its recent activity and its recent neighbors (the users of its last
events).

On each level, the search scores the children of the W best prefixes so far, the beams, for all queries together. It
ranks a prefix by log(mean probability of its eligible users) + the largest term of its allowed users, so that a user
with a large term is not lost at an improbable prefix. Prefixes without an allowed user are dropped.

Shapes: B queries of width H; W beams per query; C children, one column each; V tokens of a level.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from befriend.models.prefix_tree import PrefixTree
from befriend.models.stu_model import MIN_EXP_SUM, MIN_SCORE, NextTargetPredictionSTU
from befriend.retrieval.knn import SearchResult
from befriend.tokens.trie import ExclusionSet, Trie

NEG_INF = -torch.inf
MAX_CELLS_PER_CHILD = 8  # a level is dense, see `DenseLevel`, if its tables have at most 8 cells for each child


@dataclass(frozen=True)
class BeamStep:
    """One step of the search for B queries: the children of W beams per query.

    A beam is a node of the trie on the level above. Where fewer than W nodes have an allowed user, the remaining beams
    are dead. A row of the tensors below holds the children of all beams of a query, beam after beam, in C columns.
    """

    parent_node: Tensor
    """int64[B, W], the node of each beam; -1 for a dead beam, so that `ExclusionBounds` matches no node with it"""
    child_nodes: Callable[[Tensor | None], Tensor]
    """given columns, int64[B, K], returns the child node in each of them, int64[B, K]; given None, the child nodes in
    all columns, int64[B, C]. The node is arbitrary where `log_prob` is -inf"""
    log_prob: Tensor
    """float32[B, C], log-probability of the prefix that ends in each child; -inf where there is no child"""
    log_num_users: Tensor
    """float32[B, C], log of the number of eligible users below each child; on the last level not used, and often 0"""
    first_column: Tensor
    """int64[B, W], the first column of each beam"""
    is_dense: bool
    """True: a beam has V columns, one for each token in order, whether or not a child has it; False: a beam has one
    column for each child, in order"""


class Bounds(Protocol):
    """Upper bounds of the scores of the allowed users below each child."""

    def __call__(self, level: int, step: BeamStep) -> Tensor:
        """Returns float32[B, C]: `log_prob` of each child plus the largest term of its allowed users; -inf if it has no
        allowed user (`ExclusionBounds` knows this only at leaves). For a leaf, this is the exact score of its user."""


class ExclusionBounds:
    """Bounds for scores without terms: a set of excluded pairs (query, user) says who is not allowed.

    For searches without terms, such as measurements of the decoding alone; `TermBounds` serves. A call overwrites
    `step.log_prob`: it becomes -inf where all users below a child are excluded.
    """

    def __init__(self, trie: Trie, excluded: ExclusionSet):
        self.trie = trie
        # A key is row * number of leaves + leaf. The leaves are the nodes of the last level, where the loop starts.
        row, node = excluded.keys // max(len(trie.users), 1), excluded.keys % max(len(trie.users), 1)
        # level -> (row, node, parent): the row of a query, a node all of whose users it excludes, the node's parent
        self.fully_excluded = []
        for child_ptr in reversed(trie.child_ptr):
            parent = torch.searchsorted(child_ptr.long(), node, right=True) - 1
            self.fully_excluded.append((row, node, parent))
            # A node is fully excluded if all of its children are.
            keys, count = torch.unique(row * len(child_ptr) + parent, return_counts=True)
            row, node = keys // len(child_ptr), keys % len(child_ptr)
            is_fully_excluded = count == (child_ptr[node + 1] - child_ptr[node])
            row, node = row[is_fully_excluded], node[is_fully_excluded]
        self.fully_excluded.reverse()

    def __call__(self, level: int, step: BeamStep) -> Tensor:
        row, child_nodes, parent = self.fully_excluded[level]
        index, beam = (step.parent_node[row] == parent[:, None]).nonzero(as_tuple=True)
        row, child_nodes, parent = row[index], child_nodes[index], parent[index]
        column = (
            self.trie.tokens[level][child_nodes].long()
            if step.is_dense
            else child_nodes - self.trie.child_ptr[level][parent]
        )
        step.log_prob[row, step.first_column[row, beam] + column] = NEG_INF
        return step.log_prob


class TermBounds:
    """Bounds for scores with a term for each query and user, which is added to the user's log-probability."""

    def __init__(self, trie: Trie, terms: Tensor):
        """terms: float32[leaves, B], the term of the user of each leaf; -inf for users who are not allowed."""
        self.max_term_by_level = [terms]  # level -> float32[nodes, B], the largest term of the users below each node
        for child_ptr in trie.child_ptr[:0:-1]:
            # The children of a node are adjacent, and every inner node has at least one.
            maxima = np.maximum.reduceat(self.max_term_by_level[-1].numpy(), child_ptr[:-1].numpy(), axis=0)
            self.max_term_by_level.append(torch.from_numpy(maxima))
        self.max_term_by_level.reverse()

    def __call__(self, level: int, step: BeamStep) -> Tensor:
        return (
            step.log_prob
            + self.max_term_by_level[level][step.child_nodes(None), torch.arange(len(step.parent_node))[:, None]]
        )


@dataclass(frozen=True)
class DenseLevel:
    """Lookup tables of a dense level, with a cell for each of n parent nodes and each of V tokens.

    A level is dense if its parents have children for at least 1 / MAX_CELLS_PER_CHILD of the V tokens on average, so
    that a scan of all V cells is faster than a gather of the children.
    """

    scores: Tensor
    """float32[n, V], prefix scores; -inf for tokens that lead to no eligible user"""
    child_nodes: Tensor
    """int64[n, V], the child of each token; 0 if there is none"""
    exp_scores: Tensor
    """float32[n, V], exp(prefix score - max_score of the parent). The denominator of the softmax over a query's tokens
    is the sum of exp_scores * exp(query score) over the tokens, times a factor"""
    log_num_users: Tensor
    """float32[n, V], log of the number of eligible users below each child; 0 for tokens that lead to none"""


@dataclass(frozen=True)
class PrefixScores:
    """What the search needs of all nodes of a trie and does not depend on the query, so that it is computed once.

    The logit of a token after a prefix is the sum of two scores: one of the query and the token (query score), and one
    of the prefix and the token (prefix score). Tokens that lead to no eligible user have the logit -inf.

    Each field has one element per level of the trie, L in all.
    """

    node_score: tuple[Tensor, ...]
    """one float32[nodes] per level: the prefix score of each node's token after the prefix of its parent"""
    max_score: tuple[Tensor, ...]
    """one float32[parents] per level: the largest prefix score of the tokens after each parent"""
    log_num_users: tuple[Tensor, ...]
    """one float32[nodes] per level: log of the number of eligible users below each node; 0 for none"""
    dense: tuple[DenseLevel | None, ...]
    """the tables of each level; None for a level that is not dense"""

    @classmethod
    @torch.no_grad()
    def of(cls, model: NextTargetPredictionSTU, trie: Trie, prefix_tree: PrefixTree) -> PrefixScores:
        """Computes the prefix scores of all nodes of `trie`.

        trie: the STUs of all users whom the model knows since its last `set_users`; prefix_tree: the same STUs, with
        the number of eligible users (those who may be recommended) below each node.
        """
        node_score, max_score, log_num_users = [], [], []
        dense: list[DenseLevel | None] = []
        for level in range(trie.levels):
            child_ptr, token = trie.child_ptr[level].long(), trie.tokens[level].long()
            scores = model.prefix_scores(level, torch.arange(len(child_ptr) - 1), prefix_tree)
            parent = torch.repeat_interleave(child_ptr.diff())
            node_score.append(scores[parent, token])
            max_score.append(scores.amax(1).clamp(min=MIN_SCORE))
            log_num_users.append(prefix_tree.log_num_users[level][parent, token].clamp(min=0))
            tables = None
            if len(token) * MAX_CELLS_PER_CHILD >= scores.numel():
                child_nodes = torch.zeros(scores.shape, dtype=torch.long)
                child_nodes[parent, token] = torch.arange(len(token))
                token_sizes = torch.zeros(scores.shape)
                token_sizes[parent, token] = log_num_users[-1]
                tables = DenseLevel(scores, child_nodes, (scores - max_score[-1][:, None]).exp(), token_sizes)
            dense.append(tables)
        return cls(tuple(node_score), tuple(max_score), tuple(log_num_users), tuple(dense))


@torch.no_grad()
def beam_search(
    model: NextTargetPredictionSTU,
    trie: Trie,
    prefix_scores: PrefixScores,
    query: Tensor,
    bounds: Bounds,
    beam_width: int,
    k: int,
) -> SearchResult:
    """The best k users for each query, by score.

    query: float32[B, H], from the query tower of the model; bounds: bounds of the scores, which also say who is
    allowed; beam_width: how many prefixes per query survive a level.

    Example: users 0, 1 and 2 with STUs (0, 0), (0, 1) and (1, 0). On both levels token 0 has probability 0.4 and token
    1 has 0.6; user 2 is the only one below node 1, so that the second token is certain:

    >>> from types import SimpleNamespace
    >>> trie = Trie.of(torch.tensor([[0, 0], [0, 1], [1, 0]]))
    >>> zeros, log_num_users = (torch.zeros(2), torch.zeros(3)), (torch.tensor([2.0, 1.0]).log(), torch.zeros(3))
    >>> prefix_scores = PrefixScores(zeros, (torch.zeros(1), torch.zeros(2)), log_num_users, dense=(None, None))
    >>> model = SimpleNamespace(query_scores=lambda level, query: query)
    >>> query = torch.tensor([[0.4, 0.6]]).log()

    The term of user 0 multiplies their probability by 10. With a single beam, prefix 0 ranks by 0.4 / 2 * 10 = 2 and
    prefix 1 by 0.6. Prefix 0 survives, and its users get 0.4 * 0.4 * 10 = 1.6 and 0.4 * 0.6 = 0.24:

    >>> bounds = TermBounds(trie, torch.tensor([[10.0], [1.0], [1.0]]).log())
    >>> result = beam_search(model, trie, prefix_scores, query, bounds, beam_width=1, k=2)
    >>> result.ids.tolist(), result.scores.exp()
    ([[0, 1]], tensor([[1.6000, 0.2400]]))
    """
    node, log_prob = torch.zeros(len(query), 1, dtype=torch.long), torch.zeros(len(query), 1)
    for level in range(trie.levels):
        query_scores = model.query_scores(level, query)  # (B, V)
        step = _step(trie, level, prefix_scores, node, log_prob, query_scores)
        bound = bounds(level, step)
        if level == trie.levels - 1:
            best = bound.topk(min(k, bound.shape[1]), dim=1)
            return _users_of_leaves(trie, best.values, step.child_nodes(best.indices), k)
        best = (bound - step.log_num_users).topk(min(beam_width, bound.shape[1]), dim=1)
        is_alive = best.values > NEG_INF
        node = torch.where(is_alive, step.child_nodes(best.indices), -1)  # -1: see `BeamStep.parent_node`
        log_prob = torch.where(is_alive, step.log_prob.gather(1, best.indices), NEG_INF)
    raise AssertionError("a trie has at least one level")


def _step(
    trie: Trie, level: int, prefix_scores: PrefixScores, node: Tensor, log_prob: Tensor, query_scores: Tensor
) -> BeamStep:
    """Scores the children of the beams.

    node: int64[B, W], the node of each beam; log_prob: float32[B, W], its log-probability, -inf for dead beams;
    query_scores: float32[B, V].
    """
    query_max = query_scores.amax(1, keepdim=True)
    # The node of a dead beam, -1, indexes the last node. Its `log_prob`, -inf, makes the scores of all children -inf.
    score_max = query_max + prefix_scores.max_score[level][node]
    tables = prefix_scores.dense[level]
    if tables is None:
        return _gather_children(trie, level, prefix_scores, node, log_prob, query_scores, score_max)
    exp_sum = torch.bmm(tables.exp_scores[node], (query_scores - query_max).exp()[..., None]).squeeze(2)
    # Subtract the log of the softmax denominator of the children.
    log_prob = log_prob - (exp_sum.clamp(min=MIN_EXP_SUM).log() + score_max)
    # In place, because memory access takes most of the time.
    score = tables.scores[node].add_(query_scores[:, None]).add_(log_prob[..., None])
    v = query_scores.shape[1]

    def child_nodes(columns: Tensor | None) -> Tensor:
        if columns is None:
            return tables.child_nodes[node].flatten(1)
        return tables.child_nodes[node.gather(1, columns // v), columns % v]

    first_column = torch.arange(node.shape[1]).expand(len(node), -1) * v
    return BeamStep(node, child_nodes, score.flatten(1), tables.log_num_users[node].flatten(1), first_column, True)


def _gather_children(
    trie: Trie,
    level: int,
    prefix_scores: PrefixScores,
    node: Tensor,
    log_prob: Tensor,
    query_scores: Tensor,
    score_max: Tensor,
) -> BeamStep:
    """As `_step`, for a level that is not dense: only existing children get a column, without gaps.

    score_max: float32[B, W], an upper bound of the logits of each node's children.

    Example: five users whose STUs are (0, 0), (0, 2), (1, 1), (1, 2) and (2, 0). On level 1 the children of node 0 are
    the leaves 0 and 1, those of node 1 the leaves 2 and 3, and node 2 has leaf 4 alone. All prefix scores are 0; both
    queries score token 2 with log 2, so that it is twice as probable as tokens 0 and 1:

    >>> trie = Trie.of(torch.tensor([[0, 0], [0, 2], [1, 1], [1, 2], [2, 0]]))
    >>> zeros = (torch.zeros(3), torch.zeros(5))
    >>> prefix_scores = PrefixScores(node_score=zeros, max_score=zeros, log_num_users=zeros, dense=(None, None))
    >>> query_scores = torch.tensor([[1.0, 1.0, 2.0]]).log().expand(2, -1)

    Query 0 has beams at node 0, of probability 0.6, and at node 2, of 0.4; query 1 has one at node 1 and a dead beam:

    >>> node = torch.tensor([[0, 2], [1, -1]])
    >>> log_prob = torch.tensor([[0.6, 0.4], [1.0, 0.0]]).log()
    >>> score_max = torch.full((2, 2), 2.0).log()
    >>> step = _gather_children(trie, 1, prefix_scores, node, log_prob, query_scores, score_max)

    Query 0 has the children 0, 1 and 4, of probability 0.6 / 3, 0.6 * 2 / 3 and 0.4. Query 1 has the children 2 and 3,
    and a column of padding, whose child is arbitrary:

    >>> step.child_nodes(None).tolist()
    [[0, 1, 4], [2, 3, 3]]
    >>> step.log_prob.exp()
    tensor([[0.2000, 0.4000, 0.4000],
            [0.3333, 0.6667, 0.0000]])
    >>> step.first_column.tolist()
    [[0, 2], [0, 2]]
    """
    count, children = _children(trie, level, node, log_prob)
    row_count = count.sum(1)
    # The offset of each child's query in the flattened query scores.
    offset = torch.arange(len(node)).repeat_interleave(row_count) * query_scores.shape[1]
    score = query_scores.flatten().index_select(0, offset.add_(trie.tokens[level].index_select(0, children)))
    score.add_(prefix_scores.node_score[level].index_select(0, children))
    score = _joint_log_probs(score, count.flatten(), log_prob.flatten(), score_max.flatten())
    is_child = torch.arange(max(1, int(row_count.max()))) < row_count[:, None]
    scores = torch.full(is_child.shape, NEG_INF).masked_scatter_(is_child, score)
    row_start = (row_count.cumsum(0) - row_count)[:, None]

    def child_nodes(columns: Tensor | None) -> Tensor:
        index = row_start + (torch.arange(is_child.shape[1]) if columns is None else columns)
        # The padding of the last query is past the end of `children`, which may be empty.
        return children[index.clamp(max=len(children) - 1)] if len(children) else torch.zeros_like(index)

    level_sizes = prefix_scores.log_num_users[level]
    is_last_level = level + 1 == trie.levels
    log_num_users = torch.zeros(()).expand(is_child.shape) if is_last_level else level_sizes[child_nodes(None)]
    return BeamStep(node, child_nodes, scores, log_num_users, count.cumsum(1) - count, False)


def _joint_log_probs(score: Tensor, count: Tensor, log_prob: Tensor, score_max: Tensor) -> Tensor:
    """float32[n]: log-probability of the whole prefix of each child, beam plus last token.

    It is the log-probability of the beam plus the log-softmax of the logits of the beam's children.

    score: float32[n], the logits of the n children of all beams of all queries, beam after beam; they are overwritten;
    count: int64[B * W], number of children of each beam; log_prob: float32[B * W], log-probability of each beam;
    score_max: float32[B * W], an upper bound of the logits of each beam's children.
    """
    child_max = score_max.repeat_interleave(count)
    exp_sum = torch.segment_reduce((score - child_max).exp_(), "sum", lengths=count, unsafe=True)
    return score.add_((log_prob - (exp_sum.clamp(min=MIN_EXP_SUM).log() + score_max)).repeat_interleave(count))


def _children(trie: Trie, level: int, node: Tensor, log_prob: Tensor) -> tuple[Tensor, Tensor]:
    """The children of all beams on a level: their number per beam, int64[B, W], and the n nodes, int64[n], beam after
    beam. Dead beams, where log_prob, float32[B, W], is -inf, have no children."""
    child_ptr = trie.child_ptr[level]
    # The node of a dead beam, -1, reads arbitrary pointers, which the count of 0 makes irrelevant.
    low = child_ptr[node].long()
    count = torch.where(log_prob > NEG_INF, child_ptr[node + 1].long() - low, 0)
    beam_count = count.flatten()
    # The nodes of a beam's children are consecutive. A child at index j of the result has the node
    # low + (j - index of the beam's first child): this adds low - index of the first child, then j.
    child_nodes = (low.flatten() - (beam_count.cumsum(0) - beam_count)).repeat_interleave(beam_count)
    return count, child_nodes.add_(torch.arange(len(child_nodes)))


def exhaustive_search(model: NextTargetPredictionSTU, trie: Trie, query: Tensor, terms: Tensor, k: int) -> SearchResult:
    """The exact best k of all users, against which the recall of `beam_search` is measured.

    query: float32[B, H]; terms: float32[leaves, B], as in `TermBounds`.
    """
    best = (model.log_probs(query, trie.users.long()) + terms.T).topk(min(k, len(trie.users)), dim=1)
    return _users_of_leaves(trie, best.values, best.indices, k)


def _users_of_leaves(trie: Trie, scores: Tensor, leaf: Tensor, k: int) -> SearchResult:
    """Users of leaves as search results of width k.

    leaf, scores: int64[B, K] and float32[B, K], K <= k, best first. Where a score is -inf, the result has no user, -1.
    """
    users = torch.where(scores > NEG_INF, trie.users[leaf].long(), -1)
    missing = (0, k - users.shape[1])
    return SearchResult(F.pad(users, missing, value=-1), F.pad(scores, missing, value=NEG_INF))
