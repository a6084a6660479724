"""Whether a run is good enough to be served, by rules that a reader of the page can check, each with its figure.

| level | meaning |
|---|---|
| met | the figure satisfies the rule |
| unclear | the figure, or its range, is too close to the limit to tell |
| not met | the figure violates the rule |

The rules describe a run. They promote nothing: `befriend gate` decides that, by rules of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from befriend.analysis.metric_tables import FEW_LISTS
from befriend.report.list_hits import NEWCOMERS, NO_EVENT, RegimeHits
from befriend.report.plain_words import (
    GROUP_NAMES,
    LIST_ADJECTIVES,
    conjoined,
    per_hundred,
    per_hundred_range,
    signed_per_hundred,
)

Level = Literal["met", "unclear", "not met"]
LEVELS: tuple[Level, ...] = ("met", "unclear", "not met")
"""from the best to the worst"""
MANY_LISTS = 400
"""with so many lists of different users, a 95 % interval of the hit rate reaches 5 of 100 to either side, or less"""
NEWCOMER_SHARE = 0.5  # of the hit rate of all users that each group of newcomers has to reach


@dataclass(frozen=True)
class VerdictRule:
    """One rule and its outcome."""

    name: str
    """what is required, as a statement"""
    level: Level
    figure: str
    """what was measured"""
    limit: str
    """when the rule is met, unclear or not met"""


@dataclass(frozen=True)
class Verdict:
    """The outcome of all rules."""

    level: Level
    answer: str
    """the verdict in a few words"""
    reason: str
    """one sentence"""
    rules: tuple[VerdictRule, ...]


def judge(
    hits: Sequence[RegimeHits], validation: dict[str, Any], parity: dict[str, int], max_rejected: float
) -> Verdict:
    """Judges a run.

    hits: of the regimes that are judged; validation: content of validation.json; parity: `served` in metrics.json;
    max_rejected: setting `validate.max_rejected`, the largest share of rows that may be rejected.
    """
    enough = _enough_lists(hits)
    rules = (
        *(_beats_best_rule(regime_hits) for regime_hits in hits),
        enough,
        _works_for_newcomers(hits),
        _served_as_measured(parity),
        _data_is_sound(validation, max_rejected),
    )
    names = {level: [rule.name for rule in rules if rule.level == level] for level in LEVELS}
    reason = f"{len(names['met'])} of {len(rules)} rules are met."
    for level in ("not met", "unclear"):
        if names[level]:
            reason += f" {level.capitalize()}: {conjoined([f'“{name}”' for name in names[level]])}."
    if names["not met"] == [enough.name]:
        return Verdict("unclear", "Too early to tell", reason, rules)
    if names["not met"]:
        return Verdict("not met", "Not good enough", reason, rules)
    if names["unclear"]:
        return Verdict("unclear", "Good enough, with reservations", reason, rules)
    return Verdict("met", "Good enough", reason, rules)


def _beats_best_rule(hits: RegimeHits) -> VerdictRule:
    """Whether the interval of the difference from the best rule excludes 0."""
    gain = hits.gain
    level: Level = "met" if gain.low > 0 else "not met" if gain.high < 0 else "unclear"
    figure = (
        f"{signed_per_hundred(gain.share)} of 100 lists "
        f"({signed_per_hundred(gain.low)} to {signed_per_hundred(gain.high)})"
    )
    limit = "met if the whole range is above 0, not met if it is below 0"
    name = f"{LIST_ADJECTIVES[hits.regime].capitalize()} lists beat the best simple rule"
    return VerdictRule(name, level, figure, limit)


def _enough_lists(hits: Sequence[RegimeHits]) -> VerdictRule:
    """Whether chance moves the figures by little."""
    fewest = min((regime_hits.num_lists for regime_hits in hits), default=0)
    level: Level = "met" if fewest >= MANY_LISTS else "unclear" if fewest >= FEW_LISTS else "not met"
    figure = conjoined([f"{h.num_lists:,} {LIST_ADJECTIVES[h.regime]}" for h in hits]) or "none"
    limit = f"met from {MANY_LISTS} lists of each kind, not met below {FEW_LISTS}"
    return VerdictRule("Enough lists were measured", level, figure, limit)


def _works_for_newcomers(hits: Sequence[RegimeHits]) -> VerdictRule:
    """Whether lists of newcomers and of users without events are hits at least half as often as those of all users.

    Groups with fewer than FEW_LISTS lists are not judged.
    """
    outcomes = []
    for regime_hits in hits:
        minimum = NEWCOMER_SHARE * regime_hits.served.share
        for name in (NEWCOMERS, NO_EVENT):
            group = regime_hits.groups[name]
            if group.served is None or group.num_lists < FEW_LISTS:
                continue
            rate = group.served
            level: Level = "met" if rate.share >= minimum else "unclear" if rate.high >= minimum else "not met"
            ratio = rate.share / regime_hits.served.share if regime_hits.served.share else 1.0
            figure = (
                f"{GROUP_NAMES[name].lower()}: {per_hundred_range(rate)} of 100 {LIST_ADJECTIVES[regime_hits.regime]} "
                f"lists; all users: {per_hundred(regime_hits.served.share)}"
            )
            outcomes.append((-LEVELS.index(level), ratio, figure, level))
    limit = (
        f"met if each group of newcomers with {FEW_LISTS} lists or more is at least half as often right as all users, "
        "not met if its whole range is below that"
    )
    name = "Newcomers get good lists too"
    if not outcomes:
        return VerdictRule(name, "unclear", f"too few lists: no group of newcomers has {FEW_LISTS}", limit)
    _, _, figure, worst = min(outcomes)
    return VerdictRule(name, worst, figure, limit)


def _served_as_measured(parity: dict[str, int]) -> VerdictRule:
    """Whether an application gets the lists that were measured."""
    requests, differ = parity["requests"], parity["differ"]
    level: Level = "not met" if differ else "met" if requests else "unclear"
    figure = f"{differ:,} of {requests:,} lists differ" if requests else "no list was compared"
    limit = "met if no list that was requested a second time differs"
    return VerdictRule("What is served is what was measured", level, figure, limit)


def _data_is_sound(validation: dict[str, Any], max_rejected: float) -> VerdictRule:
    """Whether the log was accepted, and without warnings."""
    rows, rules = validation["rows"], validation["rules"]
    failed = [name for name, rule in rules.items() if not rule["passed"]]
    share = rows["rejected"] / max(1, rows["read"])
    is_accepted = validation["passed"] and share <= max_rejected
    level: Level = "not met" if not is_accepted else "unclear" if failed else "met"
    figure = (
        f"{rows['rejected']:,} of {rows['read']:,} rows refused (at most {100 * max_rejected:.3g} %), "
        f"{len(rules) - len(failed)} of {len(rules)} checks passed"
        + (f"; failed: {', '.join(failed)}" if failed else "")
    )
    limit = "met if the log was accepted and passed all checks, unclear if it was accepted with warnings"
    return VerdictRule("The data is sound", level, figure, limit)
