"""What a search loses by looking at a share of the users only: for any way to part users into lists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from befriend.data.log import EventLog
from befriend.evaluation.protocol import Questions, requests_and_events
from befriend.evaluation.regimes import Regime
from befriend.retrieval.serving import moments
from befriend.retrieval.two_tower import TwoTowerRetriever

SHARES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
HEAD = 10
COLUMNS = ("share", "looked", "recall", "kept")
Partition = Callable[[TwoTowerRetriever], tuple[Tensor, int]]
"""Of a retriever at a moment: int64[N], the list of each user, from 0, whatever for unseen ones; how many lists."""


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

    A query looks at the lists whose users score best on average, one after the other, until they hold the share; and,
    where beside_fresh, at the `fresh` users who were active last as well. Exact within what is looked at; a share of 1
    is the full search. Columns: partition, beside_fresh, share (asked for), looked (the mean share looked at), recall,
    kept (beside the full search).
    """
    hits: dict[tuple[str, bool], list[np.ndarray]] = {}
    looked: dict[tuple[str, bool], list[np.ndarray]] = {}
    row = 0
    for request, events in requests_and_events(log, retriever.activity.histories, questions, regime):
        new = np.flatnonzero(questions.row_is_new[row : row + len(request)])
        row += len(request)
        if not len(new):
            continue
        some, target = request.of(new), torch.from_numpy(log.target[events[new]].astype(np.int64))
        user, visible, horizon, action = (
            torch.from_numpy(x) for x in (some.user, some.visible, some.horizon, some.action)
        )
        query = retriever.queries(user, visible, horizon, action, some.refresh)
        for low, high in moments(some):
            retriever.refresh(int(some.visible[low]), int(some.horizon[low]))
            vector = query.of(slice(low, high)).vector()
            scores = vector @ retriever.vectors.T
            unseen = retriever.place < 0
            scores[:, unseen] = -torch.inf
            for b in range(low, high):
                scores[b - low, some.excluded(b)] = -torch.inf
                scores[b - low, some.user[b]] = -torch.inf
            own = scores.gather(1, target[low:high, None])
            at, better = ((scores > own) & (own > -torch.inf)).nonzero(as_tuple=True)
            found = (own > -torch.inf).squeeze(1)
            newest = _newest(retriever, fresh)
            for name, partition in partitions.items():
                of, count = partition(retriever)
                for beside in (False, True):
                    lists = torch.where(unseen, -1, of)
                    if beside:
                        lists[newest] = count
                    mask, share = _looked(retriever, vector, lists, count, beside)
                    above = torch.zeros(high - low, count + 1)
                    above.view(-1).index_add_(0, at * (count + 1) + lists[better], torch.ones(len(at)))
                    rank = (above[None] * mask).sum(2)  # (S, B): how many better ones are looked at
                    there = mask[:, torch.arange(high - low), lists[target[low:high]].clamp(min=0)] & found
                    hits.setdefault((name, beside), []).append((there & (rank < HEAD)).numpy())
                    looked.setdefault((name, beside), []).append(share.numpy())
    rows: list[dict[str, Any]] = []
    for (name, beside), parts in hits.items():
        recall = np.concatenate(parts, 1).mean(1)
        share = np.concatenate(looked[name, beside], 1).mean(1)
        for k, asked in enumerate(SHARES):
            kept = recall[k] / max(recall[-1], 1e-9)
            figures = {"looked": share[k], "recall": recall[k], "kept": kept}
            rows.append(
                {"partition": name, "beside_fresh": beside, "share": asked}
                | {key: round(float(value), 6) for key, value in figures.items()}
            )
    return pl.DataFrame(rows, {"partition": pl.String, "beside_fresh": pl.Boolean} | dict.fromkeys(COLUMNS, pl.Float64))


def _looked(
    retriever: TwoTowerRetriever, vector: Tensor, lists: Tensor, count: int, beside: bool
) -> tuple[Tensor, Tensor]:
    """bool[S, B, lists + 1], which lists are looked at, and float32[S, B], the share of the users on them."""
    on = lists >= 0
    size = torch.bincount(lists[on], minlength=count + 1)
    sums = torch.zeros(count + 1, vector.shape[1]).index_add_(0, lists[on], retriever.vectors[on])
    promise = vector @ (sums / size.clamp(min=1)[:, None]).T
    promise[:, size == 0] = -torch.inf
    promise[:, count] = torch.inf if beside else -torch.inf
    best = promise.argsort(1, descending=True)
    ordered = size[best]
    before = ordered.cumsum(1) - ordered
    if beside:
        before -= size[count]  # whom everybody looks at does not count
    few = before < torch.tensor(SHARES)[:, None, None] * int(on.sum())  # (S, B, lists + 1)
    mask = torch.zeros_like(few).scatter_(2, best.expand_as(few), few)
    return mask, (mask * size).sum(2) / max(int(on.sum()), 1)


def _newest(retriever: TwoTowerRetriever, count: int) -> Tensor:
    """int64[<= count]: the users who were active last."""
    seen = (retriever.place >= 0).nonzero().squeeze(1)
    event = retriever.activity.histories.event[retriever.place[seen]]
    return seen[event.argsort(descending=True, stable=True)[:count]]
