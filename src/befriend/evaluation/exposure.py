"""Who is shown: how many people at all, how unequally, and whether newcomers and quiet people get their places.

Looked at are the heads of ten of the `new` lists: what people see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl

from befriend.data.histories import Histories
from befriend.data.log import EventLog
from befriend.data.split import Split
from befriend.evaluation.groups import ACTIVITY, JOINED, activity, joined
from befriend.evaluation.metrics import gini
from befriend.evaluation.protocol import Questions

HEAD = 10
SCHEMA: dict[str, Any] = dict.fromkeys(("by", "group", "model"), pl.String) | dict.fromkeys(
    ("candidates", "contacted", "shown"), pl.Float64
)


def exposure(lists: dict[str, np.ndarray], candidates: np.ndarray) -> pl.DataFrame:
    """model, users_covered (share of the candidates on some head) and exposure_gini.

    lists: model -> int32[R, k], the `new` lists; candidates: bool[N].
    """
    rows = []
    for model, table in lists.items():
        shown = table[:, :HEAD]
        counts = np.bincount(shown[shown >= 0], minlength=len(candidates))[candidates]
        shares = (float((counts > 0).mean()), gini(counts))
        rows.append((model, *(round(share, 6) for share in shares)))
    return pl.DataFrame(rows, ["model", "users_covered", "exposure_gini"], orient="row")


def shown_by_group(
    log: EventLog, histories: Histories, split: Split, questions: Questions, lists: dict[str, np.ndarray]
) -> pl.DataFrame:
    """by, group, model, candidates, contacted, shown: which share of people, of true contacts and of places it has.

    lists: model -> int32[R, k], a row for each row of the questions. Groups are those of the people who are shown:
    when they joined, and how many of their events were visible when the list was made. Candidates are those of the
    last list.
    """
    q = questions
    rows = np.flatnonzero(q.scored_new)
    horizon = q.horizon[q.row_event[rows]]
    visible, last = log.before(horizon), log.before(q.horizon[-1:])
    target = log.target[q.events[q.row_event[rows]]]
    everyone = np.flatnonzero(log.first_seen < q.horizon[-1])
    kinds: dict[str, tuple[Sequence[str], Callable[[np.ndarray, np.ndarray], np.ndarray]]] = {
        "joined": (JOINED, lambda users, _: joined(log, split, users)),
        "events": (list(ACTIVITY), lambda users, at: activity(histories, users, at)),
    }
    found = []
    for by, (names, group) in kinds.items():
        candidates = _shares(group(everyone, np.repeat(last, len(everyone))), len(names))
        contacted = _shares(group(target, visible), len(names))
        for model, table in lists.items():
            row, place = np.nonzero(table[rows, :HEAD] >= 0)
            shown = _shares(group(table[rows[row], place], visible[row]), len(names))
            found += [
                (by, name, model, *shares) for name, *shares in zip(names, candidates, contacted, shown, strict=True)
            ]
    return pl.DataFrame(found, SCHEMA, orient="row")


def _shares(groups: np.ndarray, count: int) -> list[float]:
    share = np.bincount(groups, minlength=count) / max(1, len(groups))
    return share.round(6).tolist()
