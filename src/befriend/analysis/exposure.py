"""Exposure: how many users are on any list, how unequally places on lists are distributed, and shares of user groups.

It is measured on the first 10 users of the `new` lists, those without existing contacts: an application shows these.
Eligible users are those who may be recommended. The output files call them candidates.
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

TOP_K = 10  # number of users at the top of each list that count as shown
SCHEMA: dict[str, Any] = dict.fromkeys(("by", "group", "model"), pl.String) | dict.fromkeys(
    ("candidates", "contacted", "shown"), pl.Float64
)


def measure_exposure(lists_by_model: dict[str, np.ndarray], is_eligible: np.ndarray) -> pl.DataFrame:
    """Coverage and inequality of the lists of each model: a table with one row for each model.

    Columns: model; users_covered, the share of the eligible users who are in the top 10 of at least one list;
    exposure_gini, the Gini index over eligible users of the number of lists in whose top 10 a user is: 0 if it is the
    same for all, near 1 if one user is on all lists and the others on none.

    lists_by_model: model -> int32[R, k], the `new` lists, internal ids padded with -1; is_eligible: bool[N].
    """
    rows = []
    for model, lists in lists_by_model.items():
        top_users = lists[:, :TOP_K]
        counts = np.bincount(top_users[top_users >= 0], minlength=len(is_eligible))[is_eligible]
        values = (float((counts > 0).mean()), gini(counts))
        rows.append((model, *(round(value, 6) for value in values)))
    return pl.DataFrame(rows, ["model", "users_covered", "exposure_gini"], orient="row")


def exposure_by_group(
    log: EventLog, histories: Histories, split: Split, queries: EvalQueries, lists_by_model: dict[str, np.ndarray]
) -> pl.DataFrame:
    """Shares of each user group among the eligible users, among the users contacted, and in the top 10 of the lists.

    Only scored `new` lists count. Columns:

    by          the grouping: `joined`, by whether the user has an event in the training part; `events`, by the number
                of the user's events that are visible when the list is made
    group       name of the group, see `befriend.analysis.groups`
    model       whose lists they are
    candidates  share among the eligible users of the last list, those with an event before its cutoff
    contacted   share among the targets of the events for which the lists are made
    shown       share of the places in the top 10 of the lists

    lists_by_model: model -> int32[R, k], a list for each row of the queries; those that are not scored are ignored.
    """
    q = queries
    rows = np.flatnonzero(q.is_scored_new_list)
    cutoff = q.cutoff[q.row_event[rows]]
    num_visible, last_num_visible = log.count_before(cutoff), log.count_before(q.cutoff[-1:])
    target = log.target[q.events[q.row_event[rows]]]
    eligible_users = np.flatnonzero(log.first_seen < q.cutoff[-1])
    groupings: dict[str, tuple[Sequence[str], Callable[[np.ndarray, np.ndarray], np.ndarray]]] = {
        "joined": (TRAINING_GROUPS, lambda users, _: training_group(log, split, users)),
        "events": (list(ACTIVITY_GROUPS), lambda users, num_visible: activity_group(histories, users, num_visible)),
    }
    table = []
    for by, (names, group_index) in groupings.items():
        candidates = _shares(group_index(eligible_users, np.repeat(last_num_visible, len(eligible_users))), len(names))
        contacted = _shares(group_index(target, num_visible), len(names))
        for model, lists in lists_by_model.items():
            row, column = np.nonzero(lists[rows, :TOP_K] >= 0)
            shown = _shares(group_index(lists[rows[row], column], num_visible[row]), len(names))
            table += [
                (by, name, model, *shares) for name, *shares in zip(names, candidates, contacted, shown, strict=True)
            ]
    return pl.DataFrame(table, SCHEMA, orient="row")


def _shares(group_index: np.ndarray, num_groups: int) -> list[float]:
    """The share of each of `num_groups` groups. group_index: int64[n], the group of each of n users or places."""
    share = np.bincount(group_index, minlength=num_groups) / max(1, len(group_index))
    return share.round(6).tolist()
