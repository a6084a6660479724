"""Drift measures: how the distribution of new events differs from that of the events a model was trained on.

Two windows of equal length are compared: the events after the end of the old log, and those just before it. With too
few new events, the last tenth of each log is compared instead.

Counts by label are compared by the population stability index, sum (q - p) ln(q / p), with half an event added to each
label (Siddiqi, Credit Risk Scorecards, 2006); distributions of numbers by the Kolmogorov-Smirnov statistic; shares by
their absolute difference. A difference that is not significant at SIGNIFICANCE_LEVEL counts as no drift.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from befriend.data.event_log import DAY, EventLog
from befriend.monitoring.monitoring_settings import DriftSettings

TAIL_SHARE = 0.1  # share of the events that is compared if there are too few new ones
SIGNIFICANCE_LEVEL = 0.01
Verdict = Literal["ok", "warning", "severe"]


@dataclass(frozen=True)
class LogWindow:
    """A period of a log."""

    log: EventLog
    events: np.ndarray
    """int64, positions in the log of the events of the period, ascending"""
    tokens: np.ndarray | None
    """int64[N], the first token of each user's STU (social tokenized user id); None if unknown"""

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
    """summary of the old window, to be read: shares by label, or quantiles"""
    now: dict[str, float]
    """the same of the new window"""
    p_value: float | None
    """None where the test cannot be computed; then the value alone decides"""

    def verdict(self, settings: DriftSettings) -> Verdict:
        if self.p_value is not None and self.p_value >= SIGNIFICANCE_LEVEL:
            return "ok"
        warning, severe = settings.limits(self.kind)
        return "severe" if self.value > severe else "warning" if self.value > warning else "ok"


def comparison_windows(before: EventLog, now: EventLog, min_events: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Events to compare: positions in log `before`, positions in log `now`, and a description in words.

    before: the old log; now: the new one. min_events: with fewer new events than this, the last tenth of each log is
    compared.
    """
    end = int(before.timestamp[-1])
    new_events = np.arange(now.count_before(end + 1), now.num_events)
    if len(new_events) >= min_events:
        seconds = int(now.timestamp[-1]) - end
        start = before.count_before(end - seconds + 1)
        return (
            np.arange(start, before.num_events),
            new_events,
            f"{len(new_events):,} events since, and the same length of time before",
        )
    before_tail, now_tail = (np.arange(int(log.num_events * (1 - TAIL_SHARE)), log.num_events) for log in (before, now))
    description = f"the last {TAIL_SHARE:.0%} of both logs: only {len(new_events):,} events came since"
    return before_tail, now_tail, description


def drift_measures(before: LogWindow, now: LogWindow) -> list[DriftMeasure]:
    """All measures of two windows. A measure is left out if either window has no data for it."""
    measures = [_compare_label_counts("actions", *(_action_counts(window) for window in (before, now)))]
    if before.tokens is not None and now.tokens is not None:
        measures.append(_compare_label_counts("first tokens", *(_token_counts(window) for window in (before, now))))
    distributions = {"contacts a user": _degrees, "seconds between events": _event_gaps}
    for name, compute_values in distributions.items():
        old_values, new_values = compute_values(before), compute_values(now)
        if len(old_values) and len(new_values):
            measures.append(_compare_distributions(name, old_values, new_values))
    shares = {
        "answered pairs": _is_pair_answered,
        "acts of newcomers": _is_by_newcomer,
        "repeated contacts": _is_repeated,
    }
    for name, compute_flags in shares.items():
        old_flags, new_flags = compute_flags(before), compute_flags(now)
        if len(old_flags) and len(new_flags):
            measures.append(_compare_shares(name, old_flags, new_flags))
    return measures


def _compare_label_counts(name: str, before: dict[str, int], now: dict[str, int]) -> DriftMeasure:
    """Measure of kind `psi`. before, now: label -> count."""
    labels = sorted(before.keys() | now.keys())
    p, q = (np.array([counts.get(label, 0) for label in labels], float) + 0.5 for counts in (before, now))
    p, q = p / p.sum(), q / q.sum()
    old_shares, new_shares = (
        {label: round(float(x), 4) for label, x in zip(labels, shares, strict=True)} for shares in (p, q)
    )
    p_value = _chi_squared_p_value(before, now, labels)
    return DriftMeasure(name, "psi", _round(psi(p, q)), old_shares, new_shares, p_value)


def psi(p: np.ndarray, q: np.ndarray) -> float:
    """Population stability index of two discrete distributions. p, q: float64[n], without zeros."""
    return float(((q - p) * np.log(q / p)).sum())


def _chi_squared_p_value(before: dict[str, int], now: dict[str, int], labels: list[str]) -> float | None:
    """p-value of the chi-squared test that both windows have the same distribution of labels.

    before, now: label -> count. None where the test cannot be computed: with fewer than two labels, or an empty window.
    """
    from scipy.stats import chi2_contingency  # type: ignore[import-untyped]

    table = np.array([[counts.get(label, 0) for label in labels] for counts in (before, now)])
    table = table[:, table.any(0)]
    if table.shape[1] < 2 or not table.sum(1).all():
        return None
    return float(chi2_contingency(table).pvalue)


def _compare_distributions(name: str, before: np.ndarray, now: np.ndarray) -> DriftMeasure:
    """Measure of kind `ks`. before, now: the values of each window."""
    from scipy.stats import ks_2samp

    test = ks_2samp(before, now)
    old_quantiles, new_quantiles = (
        {f"q{q}": float(np.percentile(values, q)) for q in (10, 50, 90)} for values in (before, now)
    )
    return DriftMeasure(name, "ks", _round(test.statistic), old_quantiles, new_quantiles, float(test.pvalue))


def _compare_shares(name: str, before: np.ndarray, now: np.ndarray) -> DriftMeasure:
    """Measure of kind `share`, of the shares of True. before, now: bool[n]."""
    from scipy.stats import fisher_exact

    table = [[int(flags.sum()), int((~flags).sum())] for flags in (before, now)]
    old_share, new_share = ({"share": round(float(flags.mean()), 4)} for flags in (before, now))
    return DriftMeasure(
        name, "share", _round(abs(now.mean() - before.mean())), old_share, new_share, float(fisher_exact(table)[1])
    )


def _round(value: Any) -> float:
    return round(float(value), 6)


def _action_counts(window: LogWindow) -> dict[str, int]:
    """Action -> number of events."""
    counts = np.bincount(window.log.action[window.events], minlength=len(window.log.actions))
    return dict(zip(window.log.actions, counts.tolist(), strict=True))


def _token_counts(window: LogWindow) -> dict[str, int]:
    """First token -> how often a user with this token is the actor or the target of a contact event."""
    assert window.tokens is not None
    events = window.events[window.log.is_contact[window.events]]
    users = np.concatenate([window.log.actor[events], window.log.target[events]])
    counts = np.bincount(window.tokens[users])
    return {str(token): int(count) for token, count in enumerate(counts)}


def _contact_pairs(window: LogWindow) -> tuple[np.ndarray, np.ndarray]:
    """int64[n], int64[n]: actors and targets of the distinct (actor, target) pairs of the window's contact events."""
    events = window.events[window.log.is_contact[window.events]]
    pairs = np.unique(window.log.actor[events].astype(np.int64) * window.log.num_users + window.log.target[events])
    return pairs // window.log.num_users, pairs % window.log.num_users


def _degrees(window: LogWindow) -> np.ndarray:
    """int64: for each user with a contact event in the window, the number of distinct contacts in the window."""
    actor, target = _contact_pairs(window)
    low, high = np.minimum(actor, target), np.maximum(actor, target)
    pairs = np.unique(low * window.log.num_users + high)
    users = np.concatenate([pairs // window.log.num_users, pairs % window.log.num_users])
    return np.unique(users, return_counts=True)[1]


def _event_gaps(window: LogWindow) -> np.ndarray:
    """int64: seconds between consecutive events of the same actor in the window."""
    actor, timestamp = window.log.actor[window.events], window.log.timestamp[window.events]
    order = np.argsort(actor, kind="stable")
    return np.diff(timestamp[order])[np.diff(actor[order]) == 0]


def _is_pair_answered(window: LogWindow) -> np.ndarray:
    """bool: for each distinct (actor, target) pair, whether the target contacted the actor as well."""
    actor, target = _contact_pairs(window)
    num_users = window.log.num_users
    return np.isin(target * num_users + actor, actor * num_users + target)


def _is_by_newcomer(window: LogWindow) -> np.ndarray:
    """bool: for each contact event, whether the first event of its actor is in the window."""
    events = window.events[window.log.is_contact[window.events]]
    if not len(events):
        return np.empty(0, bool)
    return window.log.first_seen[window.log.actor[events]] >= window.log.timestamp[window.events[0]]


def _is_repeated(window: LogWindow) -> np.ndarray:
    """bool: for each contact event, whether its actor contacted its target earlier in the window."""
    events = window.events[window.log.is_contact[window.events]]
    pairs = window.log.actor[events].astype(np.int64) * window.log.num_users + window.log.target[events]
    is_first = np.zeros(len(pairs), bool)
    is_first[np.unique(pairs, return_index=True)[1]] = True
    return ~is_first
