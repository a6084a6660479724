"""Drift: how new events differ from those that a model was trained on.

Two windows are compared that span equal times: the events after the old log's end, and those just before it. If too few
events are new, the last tenth of each log is compared instead.

Counts by label are compared by the population stability index, sum (q - p) ln(q / p), with half an event added to
each label (Siddiqi, Credit Risk Scorecards, 2006); distributions of numbers by the Kolmogorov-Smirnov statistic;
shares by their difference. A difference that chance reaches in at least one case of a hundred counts as none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from befriend.data.event_log import DAY, EventLog
from befriend.monitoring.monitoring_settings import DriftSettings

LAST = 0.1  # of the events
CHANCE = 0.01
Verdict = Literal["ok", "warning", "severe"]


@dataclass(frozen=True)
class LogWindow:
    """A stretch of a log."""

    log: EventLog
    events: np.ndarray
    """int64, offsets of the events in the log, ascending"""
    tokens: np.ndarray | None
    """int64[N], the first token of each user; None: unknown"""

    @property
    def days(self) -> float:
        second = self.log.timestamp[self.events]
        return float(second[-1] - second[0]) / DAY if len(second) else 0.0


@dataclass(frozen=True)
class DriftMeasure:
    """One difference between two windows."""

    name: str
    kind: Literal["psi", "ks", "share"]
    value: float
    before: dict[str, float]
    """a few numbers for a person to compare: shares by label, or quantiles"""
    now: dict[str, float]
    chance: float | None
    """p-value: probability of a difference this large by chance; None where the index has none"""

    def verdict(self, settings: DriftSettings) -> Verdict:
        if self.chance is not None and self.chance >= CHANCE:
            return "ok"
        warning, severe = settings.limits(self.kind)
        return "severe" if self.value > severe else "warning" if self.value > warning else "ok"


def comparison_windows(before: EventLog, now: EventLog, min_events: int) -> tuple[np.ndarray, np.ndarray, str]:
    """(offsets in `before`, offsets in `now`, description) of the events to compare.

    min_events: new events that are needed for a window of their own.
    """
    end = int(before.timestamp[-1])
    new = np.arange(now.count_before(end + 1), now.num_events)
    if len(new) >= min_events:
        span = int(now.timestamp[-1]) - end
        start = before.count_before(end - span + 1)
        return (
            np.arange(start, before.num_events),
            new,
            f"{len(new):,} events since, and the same length of time before",
        )
    tails = (np.arange(int(log.num_events * (1 - LAST)), log.num_events) for log in (before, now))
    before_tail, now_tail = tails
    return before_tail, now_tail, f"the last {LAST:.0%} of both logs: only {len(new):,} events came since"


def drift_measures(before: LogWindow, now: LogWindow) -> list[DriftMeasure]:
    """All differences; a measure is left out where either window has no data for it."""
    measures = [_labels("actions", *(_actions(window) for window in (before, now)))]
    if before.tokens is not None and now.tokens is not None:
        measures.append(_labels("first tokens", *(_tokens(window) for window in (before, now))))
    numbers = {"contacts a user": _degrees, "seconds between events": _gaps}
    for name, values_of in numbers.items():
        old_values, new_values = values_of(before), values_of(now)
        if len(old_values) and len(new_values):
            measures.append(_distribution(name, old_values, new_values))
    shares = {"answered pairs": _answered, "acts of newcomers": _newcomers, "repeated contacts": _repeats}
    for name, flags_of in shares.items():
        old_flags, new_flags = flags_of(before), flags_of(now)
        if len(old_flags) and len(new_flags):
            measures.append(_share(name, old_flags, new_flags))
    return measures


def _labels(name: str, before: dict[str, int], now: dict[str, int]) -> DriftMeasure:
    """before, now: label -> count."""
    labels = sorted(before.keys() | now.keys())
    p, q = (np.array([counts.get(label, 0) for label in labels], float) + 0.5 for counts in (before, now))
    p, q = p / p.sum(), q / q.sum()
    old_shares, new_shares = (
        {label: round(float(x), 4) for label, x in zip(labels, shares, strict=True)} for shares in (p, q)
    )
    return DriftMeasure(name, "psi", _round(psi(p, q)), old_shares, new_shares, _label_chance(before, now, labels))


def psi(p: np.ndarray, q: np.ndarray) -> float:
    """Population stability index of two distributions without zeros."""
    return float(((q - p) * np.log(q / p)).sum())


def _label_chance(before: dict[str, int], now: dict[str, int], labels: list[str]) -> float | None:
    """p-value of the chi-squared test that both windows have the same labels; None where it cannot be computed."""
    from scipy.stats import chi2_contingency  # type: ignore[import-untyped]

    table = np.array([[counts.get(label, 0) for label in labels] for counts in (before, now)])
    table = table[:, table.any(0)]
    if table.shape[1] < 2 or not table.sum(1).all():
        return None
    return float(chi2_contingency(table).pvalue)


def _distribution(name: str, before: np.ndarray, now: np.ndarray) -> DriftMeasure:
    """before, now: the numbers of each window."""
    from scipy.stats import ks_2samp

    test = ks_2samp(before, now)
    old_quantiles, new_quantiles = (
        {f"q{q}": float(np.percentile(values, q)) for q in (10, 50, 90)} for values in (before, now)
    )
    return DriftMeasure(name, "ks", _round(test.statistic), old_quantiles, new_quantiles, float(test.pvalue))


def _share(name: str, before: np.ndarray, now: np.ndarray) -> DriftMeasure:
    """before, now: bool, the share of True is compared."""
    from scipy.stats import fisher_exact

    table = [[int(flags.sum()), int((~flags).sum())] for flags in (before, now)]
    old_share, new_share = ({"share": round(float(flags.mean()), 4)} for flags in (before, now))
    return DriftMeasure(
        name, "share", _round(abs(now.mean() - before.mean())), old_share, new_share, float(fisher_exact(table)[1])
    )


def _round(value: Any) -> float:
    return round(float(value), 6)


def _actions(window: LogWindow) -> dict[str, int]:
    counts = np.bincount(window.log.action[window.events], minlength=len(window.log.actions))
    return dict(zip(window.log.actions, counts.tolist(), strict=True))


def _tokens(window: LogWindow) -> dict[str, int]:
    """First token -> how often a user with this token is the actor or the target of a contact event."""
    assert window.tokens is not None
    events = window.events[window.log.is_contact[window.events]]
    users = np.concatenate([window.log.actor[events], window.log.target[events]])
    counts = np.bincount(window.tokens[users])
    return {str(token): int(count) for token, count in enumerate(counts)}


def _pairs(window: LogWindow) -> tuple[np.ndarray, np.ndarray]:
    """int64: actors and targets of the distinct ordered pairs among the window's contact events."""
    events = window.events[window.log.is_contact[window.events]]
    pairs = np.unique(window.log.actor[events].astype(np.int64) * window.log.num_users + window.log.target[events])
    return pairs // window.log.num_users, pairs % window.log.num_users


def _degrees(window: LogWindow) -> np.ndarray:
    """int64: number of distinct contacts within the window, of each user who has one."""
    actor, target = _pairs(window)
    low, high = np.minimum(actor, target), np.maximum(actor, target)
    pairs = np.unique(low * window.log.num_users + high)
    users = np.concatenate([pairs // window.log.num_users, pairs % window.log.num_users])
    return np.unique(users, return_counts=True)[1]


def _gaps(window: LogWindow) -> np.ndarray:
    """int64: seconds between consecutive events of an actor within the window."""
    actor, second = window.log.actor[window.events], window.log.timestamp[window.events]
    order = np.argsort(actor, kind="stable")
    return np.diff(second[order])[np.diff(actor[order]) == 0]


def _answered(window: LogWindow) -> np.ndarray:
    """bool: for each distinct ordered pair, whether the target acted on the actor as well."""
    actor, target = _pairs(window)
    num_users = window.log.num_users
    return np.isin(target * num_users + actor, actor * num_users + target)


def _newcomers(window: LogWindow) -> np.ndarray:
    """bool: for each contact event, whether its actor was first seen within the window."""
    events = window.events[window.log.is_contact[window.events]]
    if not len(events):
        return np.empty(0, bool)
    return window.log.first_seen[window.log.actor[events]] >= window.log.timestamp[window.events[0]]


def _repeats(window: LogWindow) -> np.ndarray:
    """bool: for each contact event, whether its ordered pair had one earlier within the window."""
    events = window.events[window.log.is_contact[window.events]]
    pairs = window.log.actor[events].astype(np.int64) * window.log.num_users + window.log.target[events]
    is_first = np.zeros(len(pairs), bool)
    is_first[np.unique(pairs, return_index=True)[1]] = True
    return ~is_first
