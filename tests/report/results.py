"""Hand-made results of an evaluation, for tests of the opening of the page."""

from __future__ import annotations

from typing import Any

from befriend.report.list_hits import USER_GROUPS, GroupHits, HitRate, RegimeHits

VALIDATION: dict[str, Any] = {
    "passed": True,
    "rows": {"read": 1000, "rejected": 4},
    "rules": {"events": {"passed": True}, "days": {"passed": True}},
}
PARITY = {"requests": 60, "differ": 0}


def regime_hits(regime: Any = "daily", num_lists: int = 500, share: float = 0.20, **fields: Any) -> RegimeHits:
    """Lists of which a share are hits, 5 of 100 more than by the rule, and as many for every group of users."""
    served = HitRate(share, share - 0.03, share + 0.03)
    values: dict[str, Any] = {
        "regime": regime,
        "num_lists": num_lists,
        "served": served,
        "rule_name": "adamic-adar",
        "rule": HitRate(share - 0.05, share - 0.08, share - 0.02),
        "gain": HitRate(0.05, 0.02, 0.08),
        "chance": 0.004,
        "groups": {name: GroupHits(200, served, served) for name in USER_GROUPS},
        "first_second": 86_400,
        "last_second": 2 * 86_400,
    }
    return RegimeHits(**values | fields)


def with_group(hits: RegimeHits, name: str, num_lists: int, rate: HitRate | None) -> dict[str, GroupHits]:
    """The groups of a regime, with another result for one of them."""
    return hits.groups | {name: GroupHits(num_lists, rate, rate)}
