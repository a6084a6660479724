"""Checks that users get the lists that were measured: sends some requests of an evaluation as applications do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import polars as pl

from befriend.data.event_log import EventLog
from befriend.data.regimes import Regime
from befriend.evaluation.protocol import EvalQueries
from befriend.evaluation.run_rankers import RegimeLists
from befriend.recommendation.request_table import ACTION, AT, FILTER_AT, LIST, LISTS, REGIME, USER_ID

Answer = Callable[[pl.DataFrame, str], pl.DataFrame]
"""(requests, model) -> lists: columns request, rank, recommended and more, as returned by `Befriend.answer`."""


def request_rows(log: EventLog, queries: Mapping[Regime, EvalQueries]) -> pl.DataFrame:
    """A request, as an application sends it, for each row of the queries; `regime` and `row` identify the row."""
    tables = []
    for regime, q in queries.items():
        events = q.events[q.row_event]
        labels = np.array(log.actions, dtype=object)[log.action[events]]
        tables.append(
            pl.DataFrame(
                {
                    USER_ID: log.user_ids.gather(log.actor[events]),
                    AT: q.cutoff[q.row_event],
                    FILTER_AT: log.timestamp[events],
                    REGIME: pl.Series([regime] * len(events), dtype=pl.String),
                    ACTION: pl.Series(labels if regime == "streaming" else [None] * len(events), dtype=pl.String),
                    LIST: pl.Series(
                        np.array(LISTS, dtype=object)[q.row_excludes_contacts.astype(int)], dtype=pl.String
                    ),
                    "row": np.arange(len(events)),
                }
            )
        )
    return pl.concat(tables)


def count_differing(
    log: EventLog,
    queries: Mapping[Regime, EvalQueries],
    served_lists: RegimeLists,
    interfaces: Sequence[Answer],
    models: Sequence[str],
    count: int,
    seed: int,
) -> dict[str, int]:
    """requests: number of lists requested, over all interfaces and models; differ: how many were not as measured.

    served_lists: the measured lists; interfaces: functions that return lists for requests; count: requests to draw.
    """
    rows = request_rows(log, queries)
    drawn = np.random.default_rng(seed).permutation(rows.height)[:count]
    table = rows[drawn.tolist()]
    requests = differ = 0
    for model in models:
        expected = [served_lists[r][model][k] for r, k in table.select(REGIME, "row").iter_rows()]
        for get_lists in interfaces:
            lists = get_lists(table.drop("row"), model).sort("request", "rank")
            ids = log.internal_ids(lists["recommended"])
            start = np.searchsorted(lists["request"].to_numpy(), np.arange(len(expected) + 1))
            for k, measured in enumerate(expected):
                requests += 1
                differ += not np.array_equal(ids[start[k] : start[k + 1]], measured[measured >= 0])
    return {"requests": requests, "differ": differ}
