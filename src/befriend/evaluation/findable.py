"""What it is worth to show people who have no event yet: lists as they are served, beside the same without such people.

Measured on all first contacts, those included whose target never had an event and can only be found by a text.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from befriend.config import EvaluateSettings
from befriend.data.log import EventLog
from befriend.evaluation.metrics import UserBootstrap, per_list
from befriend.evaluation.protocol import FIRST_EVER, Questions, ranks

HEAD = 10
SCHEMA: dict[str, Any] = (
    {"model": pl.String, "n": pl.Int64, "first_ever": pl.Int64}
    | dict.fromkeys(("shown", "hidden", "difference", "low", "high", "share"), pl.Float64)
)  # fmt: skip


def without_events(
    log: EventLog,
    questions: Questions,
    protocol: dict[str, np.ndarray],
    served: dict[str, np.ndarray],
    settings: EvaluateSettings,
) -> pl.DataFrame:
    """A row a model that knows such people.

    n, first contacts; first_ever, how many of them had a target without events; shown, hidden: NDCG@10 with and without
    people who have no event; difference, low, high: paired, over users drawn with replacement; share: of the first ten
    places, those of people without an event. protocol, served: model -> int32[R, k].
    """
    q = questions
    rows = np.flatnonzero(q.row_is_new)
    if not len(rows):
        return pl.DataFrame(schema=SCHEMA)
    events = q.events[q.row_event[rows]]
    target, horizon = log.target[events], q.horizon[q.row_event[rows]]
    bootstrap = UserBootstrap(log.actor[events], settings.bootstrap, settings.confidence, settings.seed)
    everybody = np.ones(len(rows), bool)
    found = []
    for model, lists in served.items():
        shown, hidden = (per_list(ranks(table[rows], target))[0] for table in (lists, protocol[model]))
        low, high = bootstrap.intervals((shown - hidden)[None], everybody)[0]
        head = lists[rows, :HEAD]
        silent = (head >= 0) & (log.first_seen[head.clip(min=0)] >= horizon[:, None])
        share = silent.sum() / max(1, (head >= 0).sum())
        figures = (shown.mean(), hidden.mean(), (shown - hidden).mean(), low, high, share)
        first_ever = int((q.row_segment[rows] == FIRST_EVER).sum())
        found.append((model, len(rows), first_ever, *(round(float(x), 6) for x in figures)))
    return pl.DataFrame(found, SCHEMA, orient="row")
