"""What a search loses by looking at a share of the users only: for any way to part users into lists."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from befriend.data.log import EventLog
from befriend.evaluation.protocol import Questions, requests
from befriend.evaluation.regimes import Regime
from befriend.retrieval.clusters import Lists, active_last
from befriend.retrieval.moment import Moment
from befriend.retrieval.requests import moments
from befriend.retrieval.retriever import Pairs, View
from befriend.retrieval.two_tower import TwoTowerRetriever

SHARES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
HEAD = 10
COLUMNS = ("share", "looked", "recall", "kept")
Partition = Callable[[View], tuple[Tensor, int]]
"""Of a model at a moment: int64[F], the list of each row of the view, from 0; how many lists."""


@torch.no_grad()
def search_curve(
    retriever: TwoTowerRetriever,
    log: EventLog,
    questions: Questions,
    regime: Regime,
    partitions: dict[str, Partition],
    fresh: int,
) -> pl.DataFrame:
    """Recall@10 of list `new` by the share of users that a query looks at, for each partition.

    A query looks at the lists whose users score best on average, one after the other, as far as the share goes, of the
    last one at those active last; and, where beside_fresh, at the `fresh` users who were active last of all as well.
    Exact within what is looked at; a share of 1 is the full search. Columns: partition, beside_fresh, share (asked
    for), looked (the mean share looked at), recall, kept (beside the full search).
    """
    hits: dict[tuple[str, bool, int], list[np.ndarray]] = {}
    looked: dict[tuple[str, bool, int], list[np.ndarray]] = {}
    row = 0
    before: View | None = None
    for request, events, _ in requests(log, retriever.activity.histories, {regime: questions}):
        new = np.flatnonzero(questions.scored_new[row : row + len(request)])
        row += len(request)
        if not len(new):
            continue
        some, target = request.of(new), torch.from_numpy(log.target[events[new]].astype(np.int64))
        query = retriever.queries(some)
        for rows in moments(some):
            moment = Moment(retriever.observed, int(some.visible[rows[0]]), int(some.horizon[rows[0]]))
            view = before = retriever.at(moment, before)
            here, b = some.of(rows), len(rows)
            vector = query.of(torch.from_numpy(rows)).vector().float()
            scores = vector @ view.vectors.T  # (B, F)
            hidden = Pairs.of(here).beside(torch.arange(b), torch.from_numpy(here.user))
            place = torch.cat([moment.row, torch.tensor([-1])])[hidden.user]
            scores[hidden.row[place >= 0], place[place >= 0]] = -torch.inf
            wanted = moment.row[target[rows]]
            own = scores.gather(1, wanted.clamp(min=0)[:, None]).masked_fill(wanted[:, None] < 0, -torch.inf)
            found = (own > -torch.inf).squeeze(1)
            at, better = ((scores > own) & found[:, None]).nonzero(as_tuple=True)
            last = active_last(retriever, moment)
            newest = last.topk(min(fresh, len(last))).indices
            for name, partition in partitions.items():
                of, count = partition(view)
                for beside in (False, True):
                    on = of.clone()
                    if beside:
                        on[newest] = -1
                    lists = Lists.of(on, count, view.vectors, last)
                    first = (lists.place - lists.starts[on.clamp(min=0)]).masked_fill(on < 0, 0)  # place on the list
                    always = torch.zeros(len(on), dtype=torch.bool)
                    always[newest] = beside
                    for number, share in enumerate(SHARES):
                        looks = lists.looks(vector, math.ceil(share * len(last)))
                        seen = _seen(looks, on, first, always, at, better)
                        rank = torch.zeros(b).index_add_(0, at, seen.float())
                        there = _seen(looks, on, first, always, torch.arange(b), wanted.clamp(min=0)) & found
                        hits.setdefault((name, beside, number), []).append((there & (rank < HEAD)).numpy())
                        part = (looks.sum(1) + int(always.sum())) / len(last)
                        looked.setdefault((name, beside, number), []).append(part.numpy())
    table: list[dict[str, Any]] = []
    for (name, beside, number), parts in hits.items():
        recall, full = np.concatenate(parts).mean(), np.concatenate(hits[name, beside, len(SHARES) - 1]).mean()
        share = np.concatenate(looked[name, beside, number]).mean()
        figures = {"looked": share, "recall": recall, "kept": recall / max(full, 1e-9)}
        table.append(
            {"partition": name, "beside_fresh": beside, "share": SHARES[number]}
            | {key: round(float(value), 6) for key, value in figures.items()}
        )
    return pl.DataFrame(
        table, {"partition": pl.String, "beside_fresh": pl.Boolean} | dict.fromkeys(COLUMNS, pl.Float64)
    )


def _seen(looks: Tensor, on: Tensor, first: Tensor, always: Tensor, row: Tensor, user: Tensor) -> Tensor:
    """bool[P]: whether a query looks at a user, pair by pair. on: int64[N], the list; first: int64[N], place there."""
    return always[user] | ((on[user] >= 0) & (first[user] < looks[row, on[user].clamp(min=0)]))
