"""Recall lost by searching only a share of the users, for any partition of the users into lists."""

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
from befriend.retrieval.cluster_retriever import InvertedLists, last_seen_events
from befriend.retrieval.requests import RequestBatch, group_by_cutoff
from befriend.retrieval.retriever import ExcludedPairs, ModelView
from befriend.retrieval.two_tower_retriever import TwoTowerRetriever

SHARES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
TOP_K = 10  # recall is measured at this rank
COLUMNS = ("share", "searched", "recall", "relative_recall")
Partition = Callable[[ModelView], tuple[Tensor, int]]
"""Model view -> int64[E], the list of each row of the view, from 0; and the number of lists."""
CurvePoints = list[tuple[np.ndarray, np.ndarray]]
"""For each of SHARES: bool[B], whether the target of each query is in its top 10; float32[B], share searched."""


@dataclass(frozen=True)
class _ScoredQueries:
    """B queries of list `new` with the same cutoff, and what a full search returns for them."""

    view: ModelView
    """of E eligible users"""
    vector: Tensor
    """float32[B, W], of the queries"""
    last_event: Tensor
    """int64[E], when each user was last active; -1 for never"""
    target_row: Tensor
    """int64[B], row of the view of each target, arbitrary where the target cannot be listed"""
    is_listable: Tensor
    """bool[B], whether the target is eligible and not excluded"""
    better_query: Tensor
    """int64[P]"""
    better_row: Tensor
    """int64[P], with `better_query` the (query, row of the view) pairs that score above the target of the query"""


@dataclass(frozen=True)
class _SearchLists:
    """The lists that a search goes through. Some users are always searched, whatever their list."""

    lists: InvertedLists
    """of the rows of the view that are not always searched"""
    list_of_row: Tensor
    """int64[E], -1 for rows that are always searched"""
    position: Tensor
    """int64[E], position of each row on its list"""
    is_always_searched: Tensor
    """bool[E]"""

    @classmethod
    def of(cls, scored: _ScoredQueries, list_of_row: Tensor, count: int, always: Tensor) -> _SearchLists:
        """list_of_row: int64[E], of a partition into `count` lists; always: int64, rows that are always searched."""
        list_of_row = list_of_row.clone()
        list_of_row[always] = -1
        lists = InvertedLists.of(list_of_row, count, scored.view.vectors, scored.last_event)
        position = (lists.position - lists.starts[list_of_row.clamp(min=0)]).masked_fill(list_of_row < 0, 0)
        is_always_searched = torch.zeros(len(list_of_row), dtype=torch.bool)
        is_always_searched[always] = True
        return cls(lists, list_of_row, position, is_always_searched)

    def is_searched(self, budget: Tensor, query: Tensor, row: Tensor) -> Tensor:
        """bool[P]: whether each query, int64[P], searches a row of the view, int64[P].

        budget: int64[B, lists], how many users of each list a query searches, from the start of the list.
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

    A query searches the lists whose users score best on average, list after list, until it has searched the given share
    of the users; of the last list, the most recently active users. Where with_recent, it always searches the
    `num_recently_active` most recently active users of all as well. Scores are exact; a share of 1 is the full search.
    Columns: partition, with_recent, share (requested), searched (mean share searched), recall, relative_recall (to the
    full search).
    """
    groups: dict[tuple[str, bool], list[CurvePoints]] = {}
    for scored in _scored_queries(retriever, log, queries, regime):
        recently_active_rows = scored.last_event.topk(min(num_recently_active, len(scored.last_event))).indices
        for name, partition in partitions.items():
            list_of_row, count = partition(scored.view)
            for with_recent in (False, True):
                always = recently_active_rows if with_recent else recently_active_rows[:0]
                lists = _SearchLists.of(scored, list_of_row, count, always)
                groups.setdefault((name, with_recent), []).append(_curve_points(scored, lists))
    return _curve_table(groups)


def _scored_queries(
    retriever: TwoTowerRetriever, log: EventLog, queries: EvalQueries, regime: Regime
) -> Iterator[_ScoredQueries]:
    """The scored `new` rows of the queries, cutoff by cutoff."""
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
    """vector: float32[B, W], of the queries of a request; target: int64[B], internal ids."""
    snapshot = view.snapshot
    scores = vector @ view.vectors.T  # (B, E)
    hidden = ExcludedPairs.of(request).with_pairs(torch.arange(len(request)), torch.from_numpy(request.user))
    hidden_row = torch.cat([snapshot.row_of_user, torch.tensor([-1])])[hidden.user]
    scores[hidden.row[hidden_row >= 0], hidden_row[hidden_row >= 0]] = -torch.inf
    target_row = snapshot.row_of_user[target]
    target_score = scores.gather(1, target_row.clamp(min=0)[:, None])
    target_score = target_score.masked_fill(target_row[:, None] < 0, -torch.inf)
    is_listable = (target_score > -torch.inf).squeeze(1)
    better_query, better_row = ((scores > target_score) & is_listable[:, None]).nonzero(as_tuple=True)
    last_event = last_seen_events(retriever, snapshot)
    return _ScoredQueries(view, vector, last_event, target_row.clamp(min=0), is_listable, better_query, better_row)


def _curve_points(scored: _ScoredQueries, search: _SearchLists) -> CurvePoints:
    """Whether each query finds its target, and how many users it searches, for each of SHARES."""
    points = []
    users, queries = len(scored.last_event), torch.arange(len(scored.vector))
    for share in SHARES:
        budget = search.lists.probe_budget(scored.vector, math.ceil(share * users))
        is_better_searched = search.is_searched(budget, scored.better_query, scored.better_row)
        rank = torch.zeros(len(queries)).index_add_(0, scored.better_query, is_better_searched.float())  # from 0
        is_target_searched = search.is_searched(budget, queries, scored.target_row) & scored.is_listable
        searched = (budget.sum(1) + int(search.is_always_searched.sum())) / users
        points.append(((is_target_searched & (rank < TOP_K)).numpy(), searched.numpy()))
    return points


def _curve_table(groups: dict[tuple[str, bool], list[CurvePoints]]) -> pl.DataFrame:
    """Means over all queries. groups: (partition, with_recent) -> points of each group of queries."""
    table: list[dict[str, Any]] = []
    for (name, with_recent), points in groups.items():
        recalls = [np.concatenate([group[k][0] for group in points]).mean() for k in range(len(SHARES))]
        for k, share in enumerate(SHARES):
            searched = np.concatenate([group[k][1] for group in points]).mean()
            metrics = {
                "searched": searched,
                "recall": recalls[k],
                "relative_recall": recalls[k] / max(recalls[-1], 1e-9),
            }
            table.append(
                {"partition": name, "with_recent": with_recent, "share": share}
                | {key: round(float(value), 6) for key, value in metrics.items()}
            )
    return pl.DataFrame(table, {"partition": pl.String, "with_recent": pl.Boolean} | dict.fromkeys(COLUMNS, pl.Float64))
