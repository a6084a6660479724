"""The opening of the page: what a run achieves in plain words, for readers who decide whether to use it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from befriend.analysis.metric_tables import FEW_LISTS
from befriend.data.regimes import Regime
from befriend.report.list_hits import GroupHits, HitRate, RegimeHits
from befriend.report.plain_words import (
    GROUP_MEANINGS,
    GROUP_NAMES,
    LIST_ADJECTIVES,
    LIST_MOMENTS,
    RULE_MEANINGS,
    conjoined,
    per_hundred,
    utc_date,
)
from befriend.report.run_results import RunResults
from befriend.report.verdict import Verdict, judge

MAX_KINDS = 2  # kinds of lists in the opening


@dataclass(frozen=True)
class RateBar:
    """A share of lists as a bar. All lengths are percentages of the width of the chart."""

    kind: str
    """served, rule or chance"""
    label: str
    number: str
    """the share as a number of 100"""
    range: str
    """its bounds as numbers of 100; empty without"""
    length: float
    low: float
    high: float
    num_lists: int

    @classmethod
    def of(cls, kind: str, label: str, rate: HitRate, scale: float, num_lists: int) -> RateBar:
        """scale: the share that is as wide as the chart."""
        length, low, high = (round(100 * share / scale, 1) for share in (rate.share, rate.low, rate.high))
        bounds = f"{per_hundred(rate.low)} to {per_hundred(rate.high)}" if rate.low < rate.high else ""
        return cls(kind, label, per_hundred(rate.share), bounds, length, low, high, num_lists)

    @property
    def has_few_lists(self) -> bool:
        """Whether there are too few lists for a judgement."""
        return self.num_lists < FEW_LISTS


@dataclass(frozen=True)
class ListKind:
    """The lists of one regime in the opening."""

    adjective: str
    moment: str
    """when such a list is made"""
    num_lists: int
    bars: tuple[RateBar, ...]
    """served lists, best rule, chance"""
    rule: str
    """whom the best rule shows"""
    source: str
    """what makes these lists in place of the ranker, in plain words; empty for the ranker"""
    groups: dict[str, RateBar | None]
    """name of a group of users -> its bar; None without lists"""


@dataclass(frozen=True)
class Overview:
    """The opening of the page."""

    headline: str
    """one sentence"""
    verdict: Verdict
    kinds: tuple[ListKind, ...]
    groups: dict[str, tuple[str, str]]
    """name of a group of users -> its name and meaning in plain words"""
    first_day: str
    last_day: str
    """UTC dates of the measured events; empty without any"""
    not_counted: dict[str, int]
    """adjective of a kind of lists -> contacts with users who could not be on them"""


def make_overview(run: RunResults, hits: Sequence[RegimeHits]) -> Overview:
    """hits: of all regimes that have lists."""
    shown = opening_regimes(hits)
    verdict = judge(shown, run.validation, run.serving_parity, run.params.validate_.max_rejected)
    return Overview(
        headline=headline_sentence(shown),
        verdict=verdict,
        kinds=tuple(_list_kind(regime_hits, run.served_source("new", regime_hits.regime)) for regime_hits in shown),
        groups={name: (GROUP_NAMES[name], GROUP_MEANINGS[name]) for name in GROUP_NAMES},
        first_day=utc_date(min(h.first_second for h in shown)) if shown else "",
        last_day=utc_date(max(h.last_second for h in shown)) if shown else "",
        not_counted={LIST_ADJECTIVES[h.regime]: _num_not_counted(run, h.regime) for h in shown},
    )


def opening_regimes(hits: Sequence[RegimeHits]) -> list[RegimeHits]:
    """The at most MAX_KINDS kinds of lists that applications use most, in the order of LIST_ADJECTIVES."""
    order = list(LIST_ADJECTIVES)
    return sorted(hits, key=lambda regime_hits: order.index(regime_hits.regime))[:MAX_KINDS]


def headline_sentence(hits: Sequence[RegimeHits]) -> str:
    """One sentence about how often lists have the right person."""
    if not hits:
        return "No list could be measured: in the last part of the log, no user contacts someone new."
    if min(h.num_lists for h in hits) < FEW_LISTS:
        counts = conjoined([f"{h.num_lists:,} {LIST_ADJECTIVES[h.regime]}" for h in hits])
        return f"Only {counts} lists were measured: too few to say how often they have the right person."
    lists = [(f"on the {LIST_ADJECTIVES[h.regime]} list", f"{per_hundred(h.served.share)} times in 100") for h in hits]
    first, *others = lists
    shares = [" of ten ".join(first), *(" ".join(other) for other in others)]
    return f"When a user contacts someone new who was active before, that person is {', and '.join(shares)}."


def _list_kind(hits: RegimeHits, source: str | None) -> ListKind:
    """source: the model or rule that makes the lists in place of the ranker."""
    groups = {name: hits.groups[name] for name in GROUP_NAMES}
    rates = [hits.served, hits.rule, *(group.served for group in groups.values() if group.served)]
    scale = 1.02 * max([hits.chance, *(rate.high for rate in rates)])
    chance = HitRate(hits.chance, hits.chance, hits.chance)
    n = hits.num_lists
    return ListKind(
        adjective=LIST_ADJECTIVES[hits.regime],
        moment=LIST_MOMENTS[hits.regime],
        num_lists=n,
        bars=(
            RateBar.of("served", "These lists", hits.served, scale, n),
            RateBar.of("rule", "Best simple rule", hits.rule, scale, n),
            RateBar.of("chance", "Ten at random", chance, scale, n),
        ),
        rule=RULE_MEANINGS[hits.rule_name],
        source="" if source is None else RULE_MEANINGS.get(source, f"the {source} model"),
        groups={name: _group_bar(group, scale) for name, group in groups.items()},
    )


def _group_bar(group: GroupHits, scale: float) -> RateBar | None:
    return RateBar.of("served", "", group.served, scale, group.num_lists) if group.served else None


def _num_not_counted(run: RunResults, regime: Regime) -> int:
    """Contacts of the measured part with users of whom nothing was known yet, or only a text."""
    segments = run.metrics_by_model("any", regime, "cold"), run.metrics_by_model("new", regime, "first ever")
    return sum(int(next(iter(models.values()))["n"]) for models in segments if models)
