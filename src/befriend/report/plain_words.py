"""Figures and technical names in the words of a reader who knows neither the models nor the field."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from befriend.data.regimes import Regime
from befriend.report.list_hits import FEW_EVENTS, MANY, MANY_EVENTS, NEWCOMERS, NO_EVENT, HitRate

LIST_ADJECTIVES: dict[Regime, str] = {
    "daily": "nightly",
    "live": "live",
    "streaming": "in-action",
    "frozen": "one-time",
}
"""kinds of lists, by regime; those in front are the ones that applications use most"""
LIST_MOMENTS: dict[Regime, str] = {
    "daily": "made before the day begins",
    "live": "made when the user opens the page",
    "streaming": "made while the user acts, and for this action",
    "frozen": "made once, before the measured weeks",
}
GROUP_NAMES = {
    NEWCOMERS: "Newcomers",
    NO_EVENT: "No event yet",
    FEW_EVENTS: "Few events",
    MANY_EVENTS: "Many events",
}
GROUP_MEANINGS = {
    NEWCOMERS: "joined after training",
    NO_EVENT: "nothing done or received so far",
    FEW_EVENTS: f"1 to {MANY - 1} so far",
    MANY_EVENTS: f"{MANY} or more so far",
}
RULE_MEANINGS = {
    "popularity": "whoever was contacted most",
    "last-active": "whoever was active last",
    "last-received": "whoever was contacted last",
    "last-active-or-received": "whoever was active or contacted last",
    "popularity-x-fresh": "whoever was contacted most, the recently active first",
    "attention": "whoever was contacted most of late",
    "decayed-in-degree-6h": "whoever was contacted most in the last hours",
    "decayed-in-degree-week": "whoever was contacted most in the last weeks",
    "decayed-in-degree-quarter": "whoever was contacted most in the last months",
    "frequency": "own contacts, the most frequent first, then whoever was active last",
    "recency": "own contacts, the latest first, then whoever was active last",
    "recency-then-last-received": "own contacts, the latest first, then whoever was contacted last",
    "local-global": "own contacts, the last written to first, then whoever was contacted last",
    "base-level-then-attention": "the closest own contacts, then whoever was contacted most of late",
    "base-level-then-decayed-quarter": "the closest own contacts, then whoever was contacted most",
    "adamic-adar": "people with common contacts",
    "adamic-adar-x-fresh": "people with common contacts, the recently active first",
    "adamic-adar-x-attention": "people with common contacts, the recently contacted first",
    "ppr": "people a few contacts away",
    "ppr-x-fresh": "people a few contacts away, the recently active first",
    "ppr-x-attention": "people a few contacts away, the recently contacted first",
    "decayed-adamic-adar-day": "people with common contacts of the last days",
    "decayed-adamic-adar-week": "people with common contacts of the last weeks",
    "decayed-adamic-adar-month": "people with common contacts of the last months",
    "decayed-adamic-adar-x-fresh": "people with common contacts of late, the recently active first",
    "decayed-ppr-week": "people a few contacts of the last weeks away",
    "base3": "own contacts, who is contacted most of late, and common contacts, mixed",
    "ease": "people whom others with the same contacts know",
}
"""what each heuristic shows"""


def per_hundred(share: float) -> str:
    """A share as a number of 100: whole, or with one decimal below 1.

    >>> per_hundred(0.4149), per_hundred(0.0042), per_hundred(0)
    ('41', '0.4', '0')
    """
    number = 100 * share
    return f"{number:.1f}" if 0 < number < 0.95 else f"{number:.0f}"


def per_hundred_range(rate: HitRate) -> str:
    """A share of 100 with its range.

    >>> per_hundred_range(HitRate(0.41, 0.38, 0.44))
    '41 (38 to 44)'
    """
    return f"{per_hundred(rate.share)} ({per_hundred(rate.low)} to {per_hundred(rate.high)})"


def signed_per_hundred(difference: float) -> str:
    """A difference of two shares as a number of 100, with sign and one decimal.

    >>> signed_per_hundred(0.0384), signed_per_hundred(-0.0041)
    ('+3.8', '-0.4')
    """
    return f"{100 * difference:+.1f}"


def conjoined(items: Sequence[str]) -> str:
    """Items as a list of words: 'a', 'a and b', or 'a, b and c'; empty without items."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else list(items))


def utc_date(second: int) -> str:
    """second: since 1970, UTC.

    >>> utc_date(86_400)
    '1970-01-02'
    """
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%d}"
