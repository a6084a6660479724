"""Computes the metrics that describe a log: counts of rows, growth over time, activity of users and reciprocity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from befriend.data.columns import ACTION, DEGREE, EVENTS_DONE, EVENTS_RECEIVED, FIRST_SEEN, TIMESTAMP
from befriend.data.event_log import DAY, EventLog
from befriend.data.split import SEGMENTS, Split, contact_times, segments
from befriend.validation.ingest import IngestedEvents
from befriend.validation.ingest_attributes import IngestedAttributes
from befriend.validation.ingest_texts import IngestedTexts

LONG_SILENCE = 5 * 365 * DAY  # seconds without an event, after which times look mistyped
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.99)


@dataclass(frozen=True)
class LogProfile:
    """Metrics of a log, for validation.json, and the values that the report plots."""

    metrics: dict[str, Any]
    by_month: pl.DataFrame
    """month, action, events"""
    degrees: np.ndarray
    """int64, number of distinct contacts of each user who has an event"""
    event_gaps: np.ndarray
    """int64, seconds between consecutive events done by the same user"""
    reply_gaps: np.ndarray
    """int64, for each pair of users with contacts in both directions: seconds from the first contact to the reply"""


def profile_log(
    raw: IngestedEvents, attributes: IngestedAttributes, texts: IngestedTexts, log: EventLog, split: Split | None
) -> LogProfile:
    """Computes the profile of an ingested log, with metrics of attributes, texts and statements if it has any.

    raw: the events, and counts of all other rows of the log; log: the same events in memory; split: None for an empty
    log.
    """
    num_accepted = raw.num_rows_read - sum(raw.rejected_by_reason.values())
    event_gaps, reply_gaps, num_pairs = _event_gaps(log), *_reply_gaps(log)
    # Users of an earlier log who have no event in this one are left out.
    active_users = raw.users.filter(pl.col(FIRST_SEEN).is_not_null())
    metrics: dict[str, Any] = {
        "rows": {
            "read": raw.num_rows_read,
            "rejected": raw.num_rows_read - num_accepted,
            "comments": raw.num_comments,
            "forgotten": raw.num_erased_rows,
            "self_loops": raw.num_self_loops,
            "duplicates": raw.num_duplicates,
            "events": log.num_events,
        },
        "rejected_by_reason": raw.rejected_by_reason,
        "users": active_users.height,
        "actions": dict(sorted(raw.events[ACTION].cast(pl.String).value_counts().iter_rows())),
        "shares": {
            "rejected": _share(raw.num_rows_read - num_accepted, raw.num_rows_read),
            "self_loops": _share(raw.num_self_loops, num_accepted),
            "duplicates": _share(raw.num_duplicates, num_accepted - raw.num_self_loops),
            "one_actor": _share(int(active_users[EVENTS_DONE].max() or 0), log.num_events),  # type: ignore[arg-type]
            "reciprocated_pairs": _share(2 * len(reply_gaps), num_pairs),
        },
        "time": {
            "first": int(log.timestamp[0]) if log.num_events else None,
            "last": int(log.timestamp[-1]) if log.num_events else None,
            "days": round(float(log.timestamp[-1] - log.timestamp[0]) / DAY, 3) if log.num_events else 0.0,
            "far_events": _num_far_events(log.timestamp),
        },
        "degree": _quantiles(active_users[DEGREE].to_numpy()),
        "events_done": _quantiles(active_users[EVENTS_DONE].to_numpy()),
        "events_received": _quantiles(active_users[EVENTS_RECEIVED].to_numpy()),
        "seconds_between_events": _quantiles(event_gaps),
        "seconds_to_reciprocate": _quantiles(reply_gaps),
        "split": _split_metrics(log, split),
    }
    if attributes.file is not None:
        metrics["attributes"] = attributes.metrics()
    for name, table in (("texts", texts.texts), ("statements", texts.statements)):
        if table.num_rows_read or table.table.height:
            metrics[name] = table.metrics(texts.users)
    return LogProfile(metrics, _by_month(raw.events), active_users[DEGREE].to_numpy(), event_gaps, reply_gaps)


def _num_far_events(timestamp: np.ndarray) -> int:
    """The events before or after the longest silence, the fewer of the two; 0 if it is shorter than LONG_SILENCE.

    timestamp: UTC seconds in ascending order.
    """
    silences = np.diff(timestamp)
    if not len(silences) or silences.max() < LONG_SILENCE:
        return 0
    num_before = int(silences.argmax()) + 1
    return min(num_before, len(timestamp) - num_before)


def _share(count: int, total: int) -> float:
    """count / total, rounded; 0 if total is 0."""
    return round(count / total, 6) if total else 0.0


def _quantiles(values: np.ndarray) -> dict[str, float]:
    """Quantiles, mean and maximum of values; empty without values."""
    if not len(values):
        return {}
    quantiles = np.quantile(values, QUANTILES)
    return {f"q{round(q * 100)}": round(float(value), 3) for q, value in zip(QUANTILES, quantiles, strict=True)} | {
        "mean": round(float(values.mean()), 3),
        "max": round(float(values.max()), 3),
    }


def _event_gaps(log: EventLog) -> np.ndarray:
    """int64, seconds between consecutive events done by the same user."""
    order = np.argsort(log.actor, kind="stable")  # stable: each user's events stay in time order
    is_same_user = np.diff(log.actor[order]) == 0
    return np.diff(log.timestamp[order])[is_same_user]


def _reply_gaps(log: EventLog) -> tuple[np.ndarray, int]:
    """Seconds from the first contact of two users to the reply, for each pair with one; and number of ordered pairs."""
    pairs, first_times = log.first_contacts
    num_users = max(log.num_users, 1)
    actor, target = pairs // num_users, pairs % num_users
    reverse_times = contact_times(log.first_contacts, target * num_users + actor, missing=-1)
    has_reply = (reverse_times >= 0) & (actor < target)
    return np.abs(reverse_times[has_reply] - first_times[has_reply]), len(pairs)


def _split_metrics(log: EventLog, split: Split | None) -> dict[str, Any]:
    """Numbers of events by part, and shares of segments and newcomers among the contact events of the test part.

    A segment is the kind of an event by its past (`befriend.data.split`); a newcomer has no event in the training part.
    """
    if split is None:
        return {"train": 0, "validation": 0, "test": 0}
    sizes = {name: int(np.subtract(*split.part(name)[::-1])) for name in ("train", "validation", "test")}
    validation_events, test_events = (np.arange(*split.part(name)) for name in ("validation", "test"))
    test_contacts = test_events[log.is_contact[test_events]]
    segment = segments(log, test_contacts, log.timestamp[test_contacts])
    is_newcomer = log.first_seen >= split.t_validation
    return sizes | {
        "validation_contacts": int(log.is_contact[validation_events].sum()),
        "test_contacts": len(test_contacts),
        "test_shares": {name: _share(int((segment == k).sum()), len(test_contacts)) for k, name in enumerate(SEGMENTS)}
        | {
            "actor_unseen_in_training": _share(int(is_newcomer[log.actor[test_contacts]].sum()), len(test_contacts)),
            "target_unseen_in_training": _share(int(is_newcomer[log.target[test_contacts]].sum()), len(test_contacts)),
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
