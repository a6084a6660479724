"""Exposure: how many users are on any list, how unequally lists are shared out, and the shares of user groups.

Measured on the top 10 of the `new` lists, as users see only these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl

from befriend.analysis.groups import ACTIVITY_GROUPS, TRAINING_GROUPS, activity_group, training_group
from befriend.data.event_log import EventLog
from befriend.data.split import Split
from befriend.evaluation.metrics import gini
from befriend.evaluation.protocol import EvalQueries
from befriend.features.histories import Histories

TOP_K = 10  # users of each list that are measured
SCHEMA: dict[str, Any] = dict.fromkeys(("by", "group", "model"), pl.String) | dict.fromkeys(
    ("candidates", "contacted", "shown"), pl.Float64
)


def measure_exposure(lists_by_model: dict[str, np.ndarray], is_candidate: np.ndarray) -> pl.DataFrame:
    """model; users_covered, the share of the candidates in the top 10 of any list; exposure_gini, their Gini index.

    lists_by_model: model -> int32[R, k], the `new` lists; is_candidate: bool[N].
    """
    rows = []
    for model, lists in lists_by_model.items():
        top_users = lists[:, :TOP_K]
        counts = np.bincount(top_users[top_users >= 0], minlength=len(is_candidate))[is_candidate]
        values = (float((counts > 0).mean()), gini(counts))
        rows.append((model, *(round(value, 6) for value in values)))
    return pl.DataFrame(rows, ["model", "users_covered", "exposure_gini"], orient="row")


def exposure_by_group(
    log: EventLog, histories: Histories, split: Split, queries: EvalQueries, lists_by_model: dict[str, np.ndarray]
) -> pl.DataFrame:
    """Shares of each user group among the candidates, among the users contacted, and in the top 10 of the lists.

    Columns: by, group, model, candidates, contacted, shown. Users are grouped by whether training has seen them
    (`joined`), and by how many of their events were visible when the list was made (`events`). Candidates are those of
    the last list. lists_by_model: model -> int32[R, k], a list for each row of the queries.
    """
    q = queries
    rows = np.flatnonzero(q.is_scored_new_list)
    cutoff = q.cutoff[q.row_event[rows]]
    num_visible, last_num_visible = log.count_before(cutoff), log.count_before(q.cutoff[-1:])
    target = log.target[q.events[q.row_event[rows]]]
    candidate_ids = np.flatnonzero(log.first_seen < q.cutoff[-1])
    groupings: dict[str, tuple[Sequence[str], Callable[[np.ndarray, np.ndarray], np.ndarray]]] = {
        "joined": (TRAINING_GROUPS, lambda users, _: training_group(log, split, users)),
        "events": (list(ACTIVITY_GROUPS), lambda users, num_visible: activity_group(histories, users, num_visible)),
    }
    table = []
    for by, (names, group_index) in groupings.items():
        candidates = _shares(group_index(candidate_ids, np.repeat(last_num_visible, len(candidate_ids))), len(names))
        contacted = _shares(group_index(target, num_visible), len(names))
        for model, lists in lists_by_model.items():
            row, column = np.nonzero(lists[rows, :TOP_K] >= 0)
            shown = _shares(group_index(lists[rows[row], column], num_visible[row]), len(names))
            table += [
                (by, name, model, *shares) for name, *shares in zip(names, candidates, contacted, shown, strict=True)
            ]
    return pl.DataFrame(table, SCHEMA, orient="row")


def _shares(group_index: np.ndarray, num_groups: int) -> list[float]:
    """The share of each group. group_index: int64[n]."""
    share = np.bincount(group_index, minlength=num_groups) / max(1, len(group_index))
    return share.round(6).tolist()
