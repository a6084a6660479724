"""How new events differ from those that a model was trained on.

Two windows of the same length are compared: the events that came since, and those just before. Where nothing came
since, the log is another one, and the last tenth of each is compared.

Counts by label are compared by the population stability index, sum (q - p) ln(q / p), with half an event added to
each label (Siddiqi, Credit Risk Scorecards, 2006); distributions of numbers by the statistic of Kolmogorov and Smirnov;
shares by their difference. A difference that is as large by chance in one case of a hundred is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from befriend.config import DriftSettings
from befriend.data.activity import DAY
from befriend.data.log import EventLog

LAST = 0.1  # of the events
CHANCE = 0.01
Verdict = Literal["ok", "warning", "severe"]


@dataclass(frozen=True)
class Window:
    """A stretch of a log."""

    log: EventLog
    events: np.ndarray
    """int64, positions, ascending"""
    tokens: np.ndarray | None
    """int64[N], the first token of everybody's STU; None: not known"""

    @property
    def days(self) -> float:
        second = self.log.timestamp[self.events]
        return float(second[-1] - second[0]) / DAY if len(second) else 0.0


@dataclass(frozen=True)
class Measure:
    """One difference."""

    name: str
    kind: Literal["psi", "ks", "share"]
    value: float
    before: dict[str, float]
    """a few numbers that a person compares: shares by label, or quantiles"""
    now: dict[str, float]
    chance: float | None
    """probability of as large a difference by chance; None where the index has none"""

    def verdict(self, settings: DriftSettings) -> Verdict:
        if self.chance is not None and self.chance >= CHANCE:
            return "ok"
        warning, severe = settings.limits(self.kind)
        return "severe" if self.value > severe else "warning" if self.value > warning else "ok"


def windows(before: EventLog, now: EventLog, least: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Positions in `before` and in `now` to compare, and which ones these are, in words.

    least: events that must have come since for a window of their own.
    """
    end = int(before.timestamp[-1])
    came = np.arange(now.before(end + 1), now.num_events)
    if len(came) >= least:
        span = int(now.timestamp[-1]) - end
        start = before.before(end - span + 1)
        return np.arange(start, before.num_events), came, f"{len(came):,} events since, and as long before"
    ends = (np.arange(int(log.num_events * (1 - LAST)), log.num_events) for log in (before, now))
    one, two = ends
    return one, two, f"the last {LAST:.0%} of both logs: only {len(came):,} events came since"


def measures(before: Window, now: Window) -> list[Measure]:
    """All differences; those of what a window does not hold are left out."""
    found = [_labels("actions", *(_actions(window) for window in (before, now)))]
    if before.tokens is not None and now.tokens is not None:
        found.append(_labels("first tokens", *(_tokens(window) for window in (before, now))))
    numbers = {"contacts a user": _degrees, "seconds between events": _gaps}
    for name, of in numbers.items():
        one, two = of(before), of(now)
        if len(one) and len(two):
            found.append(_distribution(name, one, two))
    shares = {"answered pairs": _answered, "acts of newcomers": _newcomers, "repeated contacts": _repeats}
    for name, share in shares.items():
        one, two = share(before), share(now)
        if len(one) and len(two):
            found.append(_share(name, one, two))
    return found


def _labels(name: str, before: dict[str, int], now: dict[str, int]) -> Measure:
    labels = sorted(before.keys() | now.keys())
    p, q = (np.array([counts.get(label, 0) for label in labels], float) + 0.5 for counts in (before, now))
    p, q = p / p.sum(), q / q.sum()
    one, two = ({label: round(float(x), 4) for label, x in zip(labels, part, strict=True)} for part in (p, q))
    return Measure(name, "psi", _round(psi(p, q)), one, two, _same_labels(before, now, labels))


def psi(p: np.ndarray, q: np.ndarray) -> float:
    """Population stability index of two distributions without a 0."""
    return float(((q - p) * np.log(q / p)).sum())


def _same_labels(before: dict[str, int], now: dict[str, int], labels: list[str]) -> float | None:
    from scipy.stats import chi2_contingency  # type: ignore[import-untyped]

    table = np.array([[counts.get(label, 0) for label in labels] for counts in (before, now)])
    table = table[:, table.any(0)]
    if table.shape[1] < 2 or not table.sum(1).all():
        return None
    return float(chi2_contingency(table).pvalue)


def _distribution(name: str, before: np.ndarray, now: np.ndarray) -> Measure:
    from scipy.stats import ks_2samp

    tested = ks_2samp(before, now)
    one, two = ({f"q{q}": float(np.percentile(part, q)) for q in (10, 50, 90)} for part in (before, now))
    return Measure(name, "ks", _round(tested.statistic), one, two, float(tested.pvalue))


def _share(name: str, before: np.ndarray, now: np.ndarray) -> Measure:
    """before, now: bool, whom of it holds."""
    from scipy.stats import fisher_exact

    table = [[int(part.sum()), int((~part).sum())] for part in (before, now)]
    one, two = ({"share": round(float(part.mean()), 4)} for part in (before, now))
    return Measure(name, "share", _round(abs(now.mean() - before.mean())), one, two, float(fisher_exact(table)[1]))


def _round(value: Any) -> float:
    return round(float(value), 6)


def _actions(window: Window) -> dict[str, int]:
    counts = np.bincount(window.log.action[window.events], minlength=len(window.log.actions))
    return dict(zip(window.log.actions, counts.tolist(), strict=True))


def _tokens(window: Window) -> dict[str, int]:
    """How often somebody with a token takes part in a contact."""
    assert window.tokens is not None
    events = window.events[window.log.is_contact[window.events]]
    people = np.concatenate([window.log.actor[events], window.log.target[events]])
    counts = np.bincount(window.tokens[people])
    return {str(token): int(count) for token, count in enumerate(counts)}


def _pairs(window: Window) -> tuple[np.ndarray, np.ndarray]:
    """int64, the ordered pairs of the window's contacts, actor and target, each once."""
    events = window.events[window.log.is_contact[window.events]]
    pairs = np.unique(window.log.actor[events].astype(np.int64) * window.log.num_users + window.log.target[events])
    return pairs // window.log.num_users, pairs % window.log.num_users


def _degrees(window: Window) -> np.ndarray:
    """int64, distinct contacts within the window of everybody who has one."""
    actor, target = _pairs(window)
    low, high = np.minimum(actor, target), np.maximum(actor, target)
    pairs = np.unique(low * window.log.num_users + high)
    people = np.concatenate([pairs // window.log.num_users, pairs % window.log.num_users])
    return np.unique(people, return_counts=True)[1]


def _gaps(window: Window) -> np.ndarray:
    """int64, seconds between consecutive events of a user within the window."""
    actor, second = window.log.actor[window.events], window.log.timestamp[window.events]
    order = np.argsort(actor, kind="stable")
    return np.diff(second[order])[np.diff(actor[order]) == 0]


def _answered(window: Window) -> np.ndarray:
    """bool, of each ordered pair, whether the other acted as well."""
    actor, target = _pairs(window)
    users = window.log.num_users
    return np.isin(target * users + actor, actor * users + target)


def _newcomers(window: Window) -> np.ndarray:
    """bool, of each contact, whether its actor was there before the window."""
    events = window.events[window.log.is_contact[window.events]]
    if not len(events):
        return np.empty(0, bool)
    return window.log.first_seen[window.log.actor[events]] >= window.log.timestamp[window.events[0]]


def _repeats(window: Window) -> np.ndarray:
    """bool, of each contact, whether its pair had one before within the window."""
    events = window.events[window.log.is_contact[window.events]]
    pairs = window.log.actor[events].astype(np.int64) * window.log.num_users + window.log.target[events]
    first = np.zeros(len(pairs), bool)
    first[np.unique(pairs, return_index=True)[1]] = True
    return ~first
