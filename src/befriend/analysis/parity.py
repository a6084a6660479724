"""Serving parity: whether an application gets the lists that the evaluation measured.

Sends requests of an evaluation once more, the way applications do, and compares the lists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import polars as pl

from befriend.data.event_log import EventLog
from befriend.data.regimes import LIST_KINDS, Regime
from befriend.evaluation.protocol import EvalQueries
from befriend.evaluation.run_rankers import RegimeLists
from befriend.recommendation.request_table import ACTION, AT, FILTER_AT, LIST, REGIME, USER_ID

ServingInterface = Callable[[pl.DataFrame, str], pl.DataFrame]
"""(requests, model) -> lists: tables as `Befriend.recommend_requests` takes and returns them; of the lists, only the
columns request, rank and recommended are used"""


def request_rows(log: EventLog, queries: Mapping[Regime, EvalQueries]) -> pl.DataFrame:
    """The request of each row of the queries, as an application sends it; `regime` and `row` identify the row."""
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
                        np.array(LIST_KINDS, dtype=object)[q.row_excludes_contacts.astype(int)], dtype=pl.String
                    ),
                    "row": np.arange(len(events)),
                }
            )
        )
    return pl.concat(tables)


def count_differing_lists(
    log: EventLog,
    queries: Mapping[Regime, EvalQueries],
    served_lists: RegimeLists,
    interfaces: Sequence[ServingInterface],
    models: Sequence[str],
    num_requests: int,
    seed: int,
) -> dict[str, int]:
    """Counts the lists whose users or order differ between evaluation and serving.

    served_lists: the lists of the evaluation, with all users that may be recommended; num_requests: how many requests
    to draw at random. Each is sent for every model through every interface. Returns `requests`, the number of lists
    compared, and `differ`, how many of them differ.
    """
    rows = request_rows(log, queries)
    sampled_rows = np.random.default_rng(seed).permutation(rows.height)[:num_requests]
    table = rows[sampled_rows.tolist()]
    num_compared = num_differing = 0
    for model in models:
        expected = [served_lists[regime][model][row] for regime, row in table.select(REGIME, "row").iter_rows()]
        for get_lists in interfaces:
            lists = get_lists(table.drop("row"), model).sort("request", "rank")
            ids = log.internal_ids(lists["recommended"])
            offsets = np.searchsorted(lists["request"].to_numpy(), np.arange(len(expected) + 1))
            for k, measured in enumerate(expected):
                num_compared += 1
                num_differing += not np.array_equal(ids[offsets[k] : offsets[k + 1]], measured[measured >= 0])
    return {"requests": num_compared, "differ": num_differing}
