"""Exposure: how many users are listed at all, how unequally, and how much newcomers and less active users are listed.

Measured on the top 10 of the `new` lists, which is what users see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl

from befriend.analysis.groups import ACTIVITY, JOINED, activity, joined
from befriend.data.event_log import EventLog
from befriend.data.split import Split
from befriend.evaluation.metrics import gini
from befriend.evaluation.protocol import EvalQueries
from befriend.features.histories import Histories

TOP_K = 10  # users of each list that are measured
SCHEMA: dict[str, Any] = dict.fromkeys(("by", "group", "model"), pl.String) | dict.fromkeys(
    ("candidates", "contacted", "shown"), pl.Float64
)


def exposure(lists_by_model: dict[str, np.ndarray], candidates: np.ndarray) -> pl.DataFrame:
    """model, users_covered (share of the candidates in the top 10 of any list) and exposure_gini.

    lists_by_model: model -> int32[R, k], the `new` lists; candidates: bool[N].
    """
    rows = []
    for model, lists in lists_by_model.items():
        head = lists[:, :TOP_K]
        counts = np.bincount(head[head >= 0], minlength=len(candidates))[candidates]
        shares = (float((counts > 0).mean()), gini(counts))
        rows.append((model, *(round(share, 6) for share in shares)))
    return pl.DataFrame(rows, ["model", "users_covered", "exposure_gini"], orient="row")


def shown_by_group(
    log: EventLog, histories: Histories, split: Split, queries: EvalQueries, lists_by_model: dict[str, np.ndarray]
) -> pl.DataFrame:
    """by, group, model, candidates, contacted, shown: the group's share of candidates, true targets and list slots.

    lists_by_model: model -> int32[R, k], a row for each row of the queries. Users are grouped by when they joined, and
    by how many of their events were visible when the list was made. Candidates are those of the last list.
    """
    q = queries
    rows = np.flatnonzero(q.is_scored_new_list)
    cutoff = q.cutoff[q.row_event[rows]]
    num_visible, last = log.count_before(cutoff), log.count_before(q.cutoff[-1:])
    target = log.target[q.events[q.row_event[rows]]]
    candidate_ids = np.flatnonzero(log.first_seen < q.cutoff[-1])
    kinds: dict[str, tuple[Sequence[str], Callable[[np.ndarray, np.ndarray], np.ndarray]]] = {
        "joined": (JOINED, lambda users, _: joined(log, split, users)),
        "events": (list(ACTIVITY), lambda users, num_visible: activity(histories, users, num_visible)),
    }
    table = []
    for by, (names, group) in kinds.items():
        candidates = _shares(group(candidate_ids, np.repeat(last, len(candidate_ids))), len(names))
        contacted = _shares(group(target, num_visible), len(names))
        for model, lists in lists_by_model.items():
            row, column = np.nonzero(lists[rows, :TOP_K] >= 0)
            shown = _shares(group(lists[rows[row], column], num_visible[row]), len(names))
            table += [
                (by, name, model, *shares) for name, *shares in zip(names, candidates, contacted, shown, strict=True)
            ]
    return pl.DataFrame(table, SCHEMA, orient="row")


def _shares(groups: np.ndarray, count: int) -> list[float]:
    """The share of each of `count` groups. groups: int64[n], indices."""
    share = np.bincount(groups, minlength=count) / max(1, len(groups))
    return share.round(6).tolist()
