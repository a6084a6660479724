"""The figures that describe an ingested log: rows read and refused, growth over time, activity and reciprocation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from befriend.data.columns import ACTION, DEGREE, DONE, FIRST_SEEN, RECEIVED, TIMESTAMP
from befriend.data.event_log import DAY, EventLog
from befriend.data.split import SEGMENTS, Split, segments, time_of
from befriend.validation.ingest import IngestedEvents
from befriend.validation.ingest_attributes import IngestedAttributes
from befriend.validation.ingest_texts import IngestedTexts

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.99)


@dataclass(frozen=True)
class LogProfile:
    """`figures` go to validation.json; the table and the arrays are plotted in the report."""

    figures: dict[str, Any]
    by_month: pl.DataFrame
    """month, action, events"""
    degrees: np.ndarray
    """int64[N], distinct contacts of each user"""
    gaps: np.ndarray
    """int64, seconds between consecutive events done by the same user"""
    answers: np.ndarray
    """int64, for each pair of users with contacts in both directions: seconds from the first contact to the reply"""


def profile_log(
    raw: IngestedEvents, attributes: IngestedAttributes, texts: IngestedTexts, log: EventLog, split: Split | None
) -> LogProfile:
    """Computes the profile of an ingested log. split: None for an empty log.

    Figures of attributes, texts and statements are included only where there are any.
    """
    accepted = raw.read - sum(raw.rejected.values())
    gaps, reply_gaps, num_pairs = _gaps(log), *_reply_gaps(log)
    # Users of an earlier log who have no event in this one are left out.
    active_users = raw.users.filter(pl.col(FIRST_SEEN).is_not_null())
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
        "users": active_users.height,
        "actions": dict(sorted(raw.events[ACTION].cast(pl.String).value_counts().iter_rows())),
        "shares": {
            "rejected": _share(raw.read - accepted, raw.read),
            "self_loops": _share(raw.self_loops, accepted),
            "duplicates": _share(raw.duplicates, accepted - raw.self_loops),
            "one_actor": _share(int(active_users[DONE].max() or 0), log.num_events),  # type: ignore[arg-type]
            "reciprocated_pairs": _share(2 * len(reply_gaps), num_pairs),
        },
        "time": {
            "first": int(log.timestamp[0]) if log.num_events else None,
            "last": int(log.timestamp[-1]) if log.num_events else None,
            "days": round(float(log.timestamp[-1] - log.timestamp[0]) / DAY, 3) if log.num_events else 0.0,
        },
        "degree": _quantiles(active_users[DEGREE].to_numpy()),
        "events_done": _quantiles(active_users[DONE].to_numpy()),
        "events_received": _quantiles(active_users[RECEIVED].to_numpy()),
        "seconds_between_events": _quantiles(gaps),
        "seconds_to_reciprocate": _quantiles(reply_gaps),
        "split": _split_figures(log, split),
    }
    if attributes.file is not None:
        figures["attributes"] = attributes.figures()
    for name, table in (("texts", texts.texts), ("statements", texts.statements)):
        if table.read or table.table.height:
            figures[name] = table.figures(texts.users)
    return LogProfile(figures, _by_month(raw.events), active_users[DEGREE].to_numpy(), gaps, reply_gaps)


def _share(count: int, total: int) -> float:
    return round(count / total, 6) if total else 0.0


def _quantiles(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    quantiles = np.quantile(values, QUANTILES)
    return {f"q{round(q * 100)}": round(float(x), 3) for q, x in zip(QUANTILES, quantiles, strict=True)} | {
        "mean": round(float(values.mean()), 3),
        "max": round(float(values.max()), 3),
    }


def _gaps(log: EventLog) -> np.ndarray:
    """int64, seconds between consecutive events of the same actor."""
    order = np.argsort(log.actor, kind="stable")  # stable: each user's events stay in time order
    same_user = np.diff(log.actor[order]) == 0
    return np.diff(log.timestamp[order])[same_user]


def _reply_gaps(log: EventLog) -> tuple[np.ndarray, int]:
    """Seconds to the first contact back, for each unordered pair that has one; and the number of ordered pairs."""
    keys, first = log.first_contacts
    n = max(log.num_users, 1)
    u, v = keys // n, keys % n
    reply_time = time_of(log.first_contacts, v * n + u, missing=-1)
    has_reply = (reply_time >= 0) & (u < v)
    return np.abs(reply_time[has_reply] - first[has_reply]), len(keys)


def _split_figures(log: EventLog, split: Split | None) -> dict[str, Any]:
    """Number of events in each part, and shares of segments and of new users among the test contacts."""
    if split is None:
        return {"train": 0, "validation": 0, "test": 0}
    sizes = {name: int(np.subtract(*split.part(name)[::-1])) for name in ("train", "validation", "test")}
    validation, test = (np.arange(*split.part(name)) for name in ("validation", "test"))
    test = test[log.is_contact[test]]
    segment = segments(log, test, log.timestamp[test])
    is_new_user = log.first_seen >= split.t_validation
    return sizes | {
        "validation_contacts": int(log.is_contact[validation].sum()),
        "test_contacts": len(test),
        "test_shares": {name: _share(int((segment == k).sum()), len(test)) for k, name in enumerate(SEGMENTS)}
        | {
            "actor_unseen_in_training": _share(int(is_new_user[log.actor[test]].sum()), len(test)),
            "target_unseen_in_training": _share(int(is_new_user[log.target[test]].sum()), len(test)),
        },
    }


def _by_month(events: pl.DataFrame) -> pl.DataFrame:
    """Number of events per month (UTC) and action."""
    month = pl.from_epoch(TIMESTAMP).dt.strftime("%Y-%m").alias("month")
    return (
        events.lazy()
        .group_by(month, pl.col(ACTION).cast(pl.String))
        .agg(pl.len().cast(pl.Int64).alias("events"))
        .sort("month", ACTION)
        .collect()
    )
