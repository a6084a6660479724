"""Recall when a query searches only a share of the users, for any partition of the users into inverted lists.

As in an inverted-file index (IVF), each user is on one list, and a query scores the users of the most promising lists.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from befriend.data.event_log import EventLog
from befriend.data.regimes import Regime
from befriend.evaluation.protocol import EvalQueries, make_requests
from befriend.features.snapshot import FeatureSnapshot
from befriend.retrieval.cluster_retriever import InvertedLists, last_events
from befriend.retrieval.requests import RequestBatch, group_by_cutoff
from befriend.retrieval.retriever import ExcludedPairs, ModelView
from befriend.retrieval.two_tower_retriever import TwoTowerRetriever

SHARES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
TOP_K = 10  # recall is measured at this rank
COLUMNS = ("share", "searched", "recall", "relative_recall")
Partition = Callable[[ModelView], tuple[Tensor, int]]
"""view (vectors of the E users that are eligible at a cutoff) -> int64[E], the list of each; and the number of lists"""
CurvePoints = list[tuple[np.ndarray, np.ndarray]]
"""for each of SHARES: bool[B], whether the target is in the top 10 of a query; float32[B], share of users searched"""


@dataclass(frozen=True)
class _ScoredQueries:
    """B queries of list `new` with the same cutoff, and the users who score higher than their targets."""

    view: ModelView
    """of E eligible users"""
    vector: Tensor
    """float32[B, W], of the queries"""
    last_event: Tensor
    """int64[E], index into the log of the last event of each user; -1 for none"""
    target_row: Tensor
    """int64[B], row of the view of each target, arbitrary where the target cannot be listed"""
    is_listable: Tensor
    """bool[B], whether the target is eligible and not excluded"""
    better_query: Tensor
    """int64[P], queries of the P pairs (query, row of the view) that score above the target of the query"""
    better_row: Tensor
    """int64[P], rows of the same pairs"""


@dataclass(frozen=True)
class _SearchLists:
    """The inverted lists that a query searches in part, and the users that every query searches."""

    lists: InvertedLists
    """of the rows of the view that are not always searched"""
    list_of_row: Tensor
    """int64[E], -1 for rows that are always searched"""
    position: Tensor
    """int64[E], index of each row on its list"""
    is_always_searched: Tensor
    """bool[E]"""

    @classmethod
    def of(cls, scored: _ScoredQueries, list_of_row: Tensor, num_lists: int, always_searched: Tensor) -> _SearchLists:
        """list_of_row: int64[E], the list of each row of the view; always_searched: int64[A], rows of the view."""
        list_of_row = list_of_row.clone()
        list_of_row[always_searched] = -1
        lists = InvertedLists.of(list_of_row, num_lists, scored.view.vectors, scored.last_event)
        position = (lists.position - lists.offsets[list_of_row.clamp(min=0)]).masked_fill(list_of_row < 0, 0)
        is_always_searched = torch.zeros(len(list_of_row), dtype=torch.bool)
        is_always_searched[always_searched] = True
        return cls(lists, list_of_row, position, is_always_searched)

    def is_searched(self, budget: Tensor, query: Tensor, row: Tensor) -> Tensor:
        """bool[P]: whether a query searches a row of the view, for P pairs.

        query, row: int64[P], the pairs. budget: int64[B, lists], how many users of each list a query searches, counted
        from the start of the list.
        """
        list_of_row = self.list_of_row[row]
        return self.is_always_searched[row] | (
            (list_of_row >= 0) & (self.position[row] < budget[query, list_of_row.clamp(min=0)])
        )


@torch.no_grad()
def search_curve(
    retriever: TwoTowerRetriever,
    log: EventLog,
    queries: EvalQueries,
    regime: Regime,
    partitions: dict[str, Partition],
    num_recently_active: int,
) -> pl.DataFrame:
    """Recall@10 of list `new` by the share of users that a query searches, for each partition.

    A query searches the lists in the order of the mean score of their users, until it has searched the given share of
    all eligible users. Of the last list it searches only the most recently active users. Where `with_recent` is true,
    every query also searches the `num_recently_active` most recently active users. The score is the inner product of
    query and user, without the pointer term of users in the actor's own history. A share of 1 is the full search.

    Columns: partition; with_recent; share, as in SHARES; searched, the mean share of users searched, recently active
    ones included; recall; relative_recall, divided by the recall of the full search; n, the number of queries.
    """
    groups: dict[tuple[str, bool], list[CurvePoints]] = {}
    for scored in _scored_queries(retriever, log, queries, regime):
        recently_active_rows = scored.last_event.topk(min(num_recently_active, len(scored.last_event))).indices
        for name, partition in partitions.items():
            list_of_row, num_lists = partition(scored.view)
            for with_recent in (False, True):
                always_searched = recently_active_rows if with_recent else recently_active_rows[:0]
                lists = _SearchLists.of(scored, list_of_row, num_lists, always_searched)
                groups.setdefault((name, with_recent), []).append(_curve_points(scored, lists))
    return _curve_table(groups)


def _scored_queries(
    retriever: TwoTowerRetriever, log: EventLog, queries: EvalQueries, regime: Regime
) -> Iterator[_ScoredQueries]:
    """Yields the `new` rows of the queries that the protocol scores, grouped by cutoff."""
    first_row = 0
    view: ModelView | None = None
    for request, events, _ in make_requests(log, retriever.activity.histories, {regime: queries}):
        new_rows = np.flatnonzero(queries.is_scored_new_list[first_row : first_row + len(request)])
        first_row += len(request)
        if not len(new_rows):
            continue
        request, target = request.select(new_rows), torch.from_numpy(log.target[events[new_rows]].astype(np.int64))
        query = retriever.queries(request)
        for rows in group_by_cutoff(request):
            snapshot = FeatureSnapshot(
                retriever.feature_view, int(request.num_visible[rows[0]]), int(request.cutoff[rows[0]])
            )
            view = retriever.view_at(snapshot, view)
            vector = query.select(torch.from_numpy(rows)).vector().float()
            yield _score(retriever, view, vector, request.select(rows), target[rows])


def _score(
    retriever: TwoTowerRetriever, view: ModelView, vector: Tensor, request: RequestBatch, target: Tensor
) -> _ScoredQueries:
    """Scores all users of the view. vector: float32[B, W], of B queries; target: int64[B], internal ids."""
    snapshot = view.snapshot
    scores = vector @ view.vectors.T  # float32[B, E]
    excluded = ExcludedPairs.of(request).with_pairs(torch.arange(len(request)), torch.from_numpy(request.user))
    excluded_row = torch.cat([snapshot.row_of_user, torch.tensor([-1])])[excluded.user]
    scores[excluded.row[excluded_row >= 0], excluded_row[excluded_row >= 0]] = -torch.inf
    target_row = snapshot.row_of_user[target]
    target_score = scores.gather(1, target_row.clamp(min=0)[:, None])
    target_score = target_score.masked_fill(target_row[:, None] < 0, -torch.inf)
    is_listable = (target_score > -torch.inf).squeeze(1)
    better_query, better_row = ((scores > target_score) & is_listable[:, None]).nonzero(as_tuple=True)
    last_event = last_events(retriever, snapshot)
    return _ScoredQueries(view, vector, last_event, target_row.clamp(min=0), is_listable, better_query, better_row)


def _curve_points(scored: _ScoredQueries, search: _SearchLists) -> CurvePoints:
    """Whether each query has its target in the top 10, and the share of users it searches, for each of SHARES."""
    points = []
    num_users, queries = len(scored.last_event), torch.arange(len(scored.vector))
    for share in SHARES:
        budget = search.lists.probe_budget(scored.vector, math.ceil(share * num_users))
        is_better_searched = search.is_searched(budget, scored.better_query, scored.better_row)
        rank = torch.zeros(len(queries)).index_add_(0, scored.better_query, is_better_searched.float())  # from 0
        is_target_searched = search.is_searched(budget, queries, scored.target_row) & scored.is_listable
        searched_share = (budget.sum(1) + int(search.is_always_searched.sum())) / num_users
        points.append(((is_target_searched & (rank < TOP_K)).numpy(), searched_share.numpy()))
    return points


def _curve_table(groups: dict[tuple[str, bool], list[CurvePoints]]) -> pl.DataFrame:
    """The table of `search_curve`: means over all queries.

    groups: (partition, with_recent) -> the points of each group of queries with the same cutoff.
    """
    table: list[dict[str, Any]] = []
    for (name, with_recent), points_by_cutoff in groups.items():
        hits = [np.concatenate([points[k][0] for points in points_by_cutoff]) for k in range(len(SHARES))]
        recalls = [hits_of_share.mean() for hits_of_share in hits]
        for k, share in enumerate(SHARES):
            searched = np.concatenate([points[k][1] for points in points_by_cutoff]).mean()
            metrics = {
                "searched": searched,
                "recall": recalls[k],
                "relative_recall": recalls[k] / max(recalls[-1], 1e-9),
            }
            table.append(
                {"partition": name, "with_recent": with_recent, "share": share}
                | {key: round(float(value), 6) for key, value in metrics.items()}
                | {"n": len(hits[k])}
            )
    schema: dict[str, Any] = {"partition": pl.String, "with_recent": pl.Boolean} | dict.fromkeys(COLUMNS, pl.Float64)
    return pl.DataFrame(table, schema | {"n": pl.Int64})
