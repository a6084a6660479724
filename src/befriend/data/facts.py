"""The figures that describe a log: how it was read, how it grows, how people in it answer each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from befriend.data.columns import ACTION, DEGREE, DONE, FIRST_SEEN, RECEIVED, TIMESTAMP
from befriend.data.ingest import Ingested
from befriend.data.ingest_attributes import IngestedAttributes
from befriend.data.ingest_texts import IngestedTexts
from befriend.data.log import EventLog
from befriend.data.split import SEGMENTS, Split, segments, time_of

DAY = 86_400
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.99)


@dataclass(frozen=True)
class Facts:
    """`figures` go to validation.json; the arrays are drawn."""

    figures: dict[str, Any]
    by_month: pl.DataFrame
    """month, action, events"""
    degrees: np.ndarray
    """int64[N], distinct contacts of each user"""
    gaps: np.ndarray
    """int64, seconds between consecutive events done by the same user"""
    answers: np.ndarray
    """int64, seconds from the first contact of a pair to the first one back"""


def describe(
    raw: Ingested, attributes: IngestedAttributes, texts: IngestedTexts, log: EventLog, split: Split | None
) -> Facts:
    """Facts of an ingested log; of an empty one only how it was read.

    Those of attributes, texts and statements only where there are any.
    """
    accepted = raw.read - sum(raw.rejected.values())
    gaps, answers, pairs = _gaps(log), *_answers(log)
    met = raw.users.filter(pl.col(FIRST_SEEN).is_not_null())  # not those of an earlier log who are not in this one
    figures: dict[str, Any] = {
        "rows": {
            "read": raw.read,
            "rejected": raw.read - accepted,
            "forgotten": raw.forgotten,
            "self_loops": raw.self_loops,
            "duplicates": raw.duplicates,
            "events": log.num_events,
        },
        "rejected_by_reason": raw.rejected,
        "users": met.height,
        "actions": dict(sorted(raw.events[ACTION].cast(pl.String).value_counts().iter_rows())),
        "shares": {
            "rejected": _share(raw.read - accepted, raw.read),
            "self_loops": _share(raw.self_loops, accepted),
            "duplicates": _share(raw.duplicates, accepted - raw.self_loops),
            "one_actor": _share(int(met[DONE].max() or 0), log.num_events),  # type: ignore[arg-type]
            "reciprocated_pairs": _share(2 * len(answers), pairs),
        },
        "time": {
            "first": int(log.timestamp[0]) if log.num_events else None,
            "last": int(log.timestamp[-1]) if log.num_events else None,
            "days": round(float(log.timestamp[-1] - log.timestamp[0]) / DAY, 3) if log.num_events else 0.0,
        },
        "degree": _quantiles(met[DEGREE].to_numpy()),
        "events_done": _quantiles(met[DONE].to_numpy()),
        "events_received": _quantiles(met[RECEIVED].to_numpy()),
        "seconds_between_events": _quantiles(gaps),
        "seconds_to_reciprocate": _quantiles(answers),
        "split": _split_figures(log, split),
    }
    if attributes.file is not None:
        figures["attributes"] = attributes.figures()
    for name, part in (("texts", texts.texts), ("statements", texts.statements)):
        if part.read or part.table.height:
            figures[name] = part.figures(texts.users)
    return Facts(figures, _by_month(raw.events), met[DEGREE].to_numpy(), gaps, answers)


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0


def _quantiles(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    found = np.quantile(values, QUANTILES)
    return {f"q{round(q * 100)}": round(float(x), 3) for q, x in zip(QUANTILES, found, strict=True)} | {
        "mean": round(float(values.mean()), 3),
        "max": round(float(values.max()), 3),
    }


def _gaps(log: EventLog) -> np.ndarray:
    order = np.argsort(log.actor, kind="stable")  # stable: each user's events stay in time order
    same = np.diff(log.actor[order]) == 0
    return np.diff(log.timestamp[order])[same]


def _answers(log: EventLog) -> tuple[np.ndarray, int]:
    """Seconds to the first contact back, of each unordered pair that has one; and the number of ordered pairs."""
    keys, first = log.first_contacts
    n = max(log.num_users, 1)
    u, v = keys // n, keys % n
    back = time_of(log.first_contacts, v * n + u, missing=-1)
    mutual = (back >= 0) & (u < v)
    return np.abs(back[mutual] - first[mutual]), len(keys)


def _split_figures(log: EventLog, split: Split | None) -> dict[str, Any]:
    """Sizes of the parts and, as shares of the test events, what is to be predicted."""
    if split is None:
        return {"train": 0, "validation": 0, "test": 0}
    sizes = {name: int(np.subtract(*split.part(name)[::-1])) for name in ("train", "validation", "test")}
    validation, test = (np.arange(*split.part(name)) for name in ("validation", "test"))
    test = test[log.is_contact[test]]
    kind = segments(log, test, log.timestamp[test])
    newcomer = log.first_seen >= split.t_validation
    return sizes | {
        "validation_contacts": int(log.is_contact[validation].sum()),
        "test_contacts": len(test),
        "test_shares": {name: _share(int((kind == k).sum()), len(test)) for k, name in enumerate(SEGMENTS)}
        | {
            "actor_unseen_in_training": _share(int(newcomer[log.actor[test]].sum()), len(test)),
            "target_unseen_in_training": _share(int(newcomer[log.target[test]].sum()), len(test)),
        },
    }


def _by_month(events: pl.DataFrame) -> pl.DataFrame:
    month = pl.from_epoch(TIMESTAMP).dt.strftime("%Y-%m").alias("month")
    return (
        events.lazy()
        .group_by(month, pl.col(ACTION).cast(pl.String))
        .agg(pl.len().cast(pl.Int64).alias("events"))
        .sort("month", ACTION)
        .collect()
    )
