"""The gain in NDCG@10 from listing cold-start users: lists as served, against the same lists without these users.

A cold-start user has no event before the cutoff, and is eligible (allowed on lists) only because of a text. Measured on
all first contacts with eligible users, including those whose target is a cold-start user.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from befriend.analysis.evaluate_settings import EvaluateSettings
from befriend.data.event_log import EventLog
from befriend.data.split import FIRST_EVER
from befriend.evaluation.metrics import UserBootstrap, metrics_per_list
from befriend.evaluation.protocol import EvalQueries, target_ranks

TOP_K = 10  # users of each list that are measured
SCHEMA: dict[str, Any] = (
    {"model": pl.String, "n": pl.Int64, "first_ever": pl.Int64}
    | dict.fromkeys(("shown", "hidden", "difference", "low", "high", "share"), pl.Float64)
)  # fmt: skip


def measure_cold_start_gain(
    log: EventLog,
    queries: EvalQueries,
    protocol_lists_by_model: dict[str, np.ndarray],
    served_lists_by_model: dict[str, np.ndarray],
    settings: EvaluateSettings,
) -> pl.DataFrame:
    """A table with one row for each model that ranks cold-start users.

    | column | meaning |
    |---|---|
    | n | number of first contacts |
    | first_ever | number of first contacts whose target is a cold-start user |
    | shown, hidden | NDCG@10 with and without cold-start users on the lists |
    | difference, low, high | mean of shown minus hidden, and its bootstrap interval over users |
    | share | share of cold-start users in the top 10 of the lists with them |

    protocol_lists_by_model (without cold-start users), served_lists_by_model (with them): model -> int32[R, k].
    """
    q = queries
    rows = np.flatnonzero(q.row_excludes_contacts)
    if not len(rows):
        return pl.DataFrame(schema=SCHEMA)
    events = q.events[q.row_event[rows]]
    target, cutoff = log.target[events], q.cutoff[q.row_event[rows]]
    bootstrap = UserBootstrap(log.actor[events], settings.bootstrap, settings.confidence, settings.seed)
    all_lists = np.ones(len(rows), bool)
    table = []
    for model, lists in served_lists_by_model.items():
        shown, hidden = (
            metrics_per_list(target_ranks(ids[rows], target))[0] for ids in (lists, protocol_lists_by_model[model])
        )
        low, high = bootstrap.intervals((shown - hidden)[None], all_lists)[0]
        top_users = lists[rows, :TOP_K]
        is_cold_start = (top_users >= 0) & (log.first_seen[top_users.clip(min=0)] >= cutoff[:, None])
        share = is_cold_start.sum() / max(1, (top_users >= 0).sum())
        values = (shown.mean(), hidden.mean(), (shown - hidden).mean(), low, high, share)
        num_first_ever = int((q.row_segment[rows] == FIRST_EVER).sum())
        table.append((model, len(rows), num_first_ever, *(round(float(value), 6) for value in values)))
    return pl.DataFrame(table, SCHEMA, orient="row")
