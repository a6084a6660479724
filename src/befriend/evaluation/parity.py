"""Whether people get the lists that were measured: some requests of an evaluation, sent as applications send them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import polars as pl

from befriend.data.log import EventLog
from befriend.evaluation.protocol import Questions
from befriend.evaluation.ranked import Lists
from befriend.evaluation.regimes import Regime
from befriend.retrieval.request_table import ACTION, AT, FILTER_AT, LIST, LISTS, REGIME, USER_ID

Answer = Callable[[pl.DataFrame, str], pl.DataFrame]
"""Lists for a table of requests, by a model: request, rank, recommended and more, as of `Befriend.answer`."""


def request_rows(log: EventLog, questions: Mapping[Regime, Questions]) -> pl.DataFrame:
    """A request for each row of the questions, as an application asks; with `regime` and `row`, whose row it is."""
    parts = []
    for regime, q in questions.items():
        events = q.events[q.row_event]
        labels = np.array(log.actions, dtype=object)[log.action[events]]
        parts.append(
            pl.DataFrame(
                {
                    USER_ID: log.user_ids.gather(log.actor[events]),
                    AT: q.horizon[q.row_event],
                    FILTER_AT: log.timestamp[events],
                    REGIME: pl.Series([regime] * len(events), dtype=pl.String),
                    ACTION: pl.Series(labels if regime == "streaming" else [None] * len(events), dtype=pl.String),
                    LIST: pl.Series(np.array(LISTS, dtype=object)[q.row_is_new.astype(int)], dtype=pl.String),
                    "row": np.arange(len(events)),
                }
            )
        )
    return pl.concat(parts)


def differing(
    log: EventLog,
    questions: Mapping[Regime, Questions],
    served: Lists,
    ways: Sequence[Answer],
    models: Sequence[str],
    count: int,
    seed: int,
) -> dict[str, int]:
    """requests: how many lists were asked for, in each way and of each model; differ: how many were not as measured.

    served: the lists that were measured; ways: how lists are asked for; count: requests that are drawn.
    """
    rows = request_rows(log, questions)
    drawn = np.random.default_rng(seed).permutation(rows.height)[:count]
    table = rows[drawn.tolist()]
    asked = differ = 0
    for model in models:
        expected = [served[r][model][k] for r, k in table.select(REGIME, "row").iter_rows()]
        for answer in ways:
            lists = answer(table.drop("row"), model).sort("request", "rank")
            people = log.numbers(lists["recommended"])
            start = np.searchsorted(lists["request"].to_numpy(), np.arange(len(expected) + 1))
            for k, measured in enumerate(expected):
                asked += 1
                differ += not np.array_equal(people[start[k] : start[k + 1]], measured[measured >= 0])
    return {"requests": asked, "differ": differ}
