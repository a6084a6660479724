"""Whether a run is good enough follows from its figures by rules: each at its limits, with figures made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from befriend.report.list_hits import NEWCOMERS, NO_EVENT, HitRate, RegimeHits
from befriend.report.verdict import Verdict, VerdictRule, judge
from tests.report.results import PARITY, VALIDATION, regime_hits, with_group


def verdict(*hits: RegimeHits, validation: dict[str, Any] = VALIDATION, parity: dict[str, int] = PARITY) -> Verdict:
    return judge(hits or (regime_hits(),), validation, parity, max_rejected=0.01)


def rule(name: str, result: Verdict) -> VerdictRule:
    (found,) = (rule for rule in result.rules if rule.name == name)
    return found


def test_a_run_that_meets_every_rule_is_good_enough() -> None:
    result = verdict(regime_hits(), regime_hits("live", share=0.5))
    assert [rule.level for rule in result.rules] == ["met"] * 6
    assert (result.level, result.answer, result.reason) == ("met", "Good enough", "6 of 6 rules are met.")


@pytest.mark.parametrize(
    ("gain", "level", "figure"),
    [
        (HitRate(0.038, 0.016, 0.061), "met", "+3.8 of 100 lists (+1.6 to +6.1)"),
        (HitRate(0.038, 0.0, 0.061), "unclear", "+3.8 of 100 lists (+0.0 to +6.1)"),
        (HitRate(-0.01, -0.03, 0.01), "unclear", "-1.0 of 100 lists (-3.0 to +1.0)"),
        (HitRate(-0.02, -0.03, -0.01), "not met", "-2.0 of 100 lists (-3.0 to -1.0)"),
    ],
)
def test_lists_beat_the_best_rule_if_the_range_of_the_difference_excludes_0(
    gain: HitRate, level: str, figure: str
) -> None:
    found = rule("Nightly lists beat the best simple rule", verdict(regime_hits(gain=gain)))
    assert (found.level, found.figure) == (level, figure)


@pytest.mark.parametrize(("fewest", "level"), [(400, "met"), (399, "unclear"), (100, "unclear"), (99, "not met")])
def test_the_kind_with_the_fewest_lists_decides_whether_there_are_enough(fewest: int, level: str) -> None:
    found = rule("Enough lists were measured", verdict(regime_hits(num_lists=2000), regime_hits("live", fewest)))
    assert (found.level, found.figure) == (level, f"2,000 nightly and {fewest} live")


@pytest.mark.parametrize(
    ("rate", "level"),
    [
        (HitRate(0.10, 0.06, 0.14), "met"),  # half of .20
        (HitRate(0.09, 0.05, 0.13), "unclear"),  # below, but the range reaches half
        (HitRate(0.06, 0.03, 0.09), "not met"),  # the whole range is below
    ],
)
@pytest.mark.parametrize("group", [NEWCOMERS, NO_EVENT])
def test_newcomers_need_half_the_hits_of_all_users(group: str, rate: HitRate, level: str) -> None:
    hits = regime_hits(share=0.20)
    found = rule("Newcomers get good lists too", verdict(replace(hits, groups=with_group(hits, group, 100, rate))))
    assert found.level == level


def test_the_group_that_is_served_worst_is_named() -> None:
    nightly, live = regime_hits(share=0.20), regime_hits("live", share=0.50)
    nightly = replace(nightly, groups=with_group(nightly, NO_EVENT, 158, HitRate(0.08, 0.04, 0.12)))
    live = replace(live, groups=with_group(live, NEWCOMERS, 300, HitRate(0.30, 0.25, 0.35)))
    found = rule("Newcomers get good lists too", verdict(nightly, live))
    assert (found.level, found.figure) == ("unclear", "no event yet: 8 (4 to 12) of 100 nightly lists; all users: 20")


def test_a_group_with_few_lists_is_not_judged() -> None:
    hits = regime_hits()
    hits = replace(hits, groups=with_group(hits, NO_EVENT, 99, HitRate(0, 0, 0)))
    assert rule("Newcomers get good lists too", verdict(hits)).level == "met"
    hits = replace(hits, groups=with_group(hits, NEWCOMERS, 0, None))
    found = rule("Newcomers get good lists too", verdict(hits))
    assert (found.level, found.figure) == ("unclear", "too few lists: no group of newcomers has 100")


@pytest.mark.parametrize(
    ("requests", "differ", "level", "figure"),
    [
        (60, 0, "met", "0 of 60 lists differ"),
        (60, 1, "not met", "1 of 60 lists differ"),
        (0, 0, "unclear", "no list was compared"),
    ],
)
def test_one_served_list_that_differs_breaks_the_rule(requests: int, differ: int, level: str, figure: str) -> None:
    found = rule("What is served is what was measured", verdict(parity={"requests": requests, "differ": differ}))
    assert (found.level, found.figure) == (level, figure)


@pytest.mark.parametrize(
    ("rejected", "passed", "checks", "level", "figure"),
    [
        (10, True, (True, True), "met", "10 of 1,000 rows refused (at most 1 %), 2 of 2 checks passed"),
        (
            0,
            True,
            (True, False),
            "unclear",
            "0 of 1,000 rows refused (at most 1 %), 1 of 2 checks passed; failed: rule 1",
        ),
        (11, True, (True, True), "not met", "11 of 1,000 rows refused (at most 1 %), 2 of 2 checks passed"),
        (
            0,
            False,
            (True, False),
            "not met",
            "0 of 1,000 rows refused (at most 1 %), 1 of 2 checks passed; failed: rule 1",
        ),
    ],
)
def test_the_data_is_sound_if_few_rows_were_refused_and_all_checks_passed(
    rejected: int, passed: bool, checks: tuple[bool, bool], level: str, figure: str
) -> None:
    validation = {
        "passed": passed,
        "rows": {"read": 1000, "rejected": rejected},
        "rules": {f"rule {k}": {"passed": check} for k, check in enumerate(checks)},
    }
    found = rule("The data is sound", verdict(validation=validation))
    assert (found.level, found.figure) == (level, figure)


def test_the_worst_rule_decides_and_is_named() -> None:
    unclear = regime_hits(gain=HitRate(0.01, -0.01, 0.03))
    result = verdict(unclear)
    assert (result.level, result.answer) == ("unclear", "Good enough, with reservations")
    assert result.reason == "4 of 5 rules are met. Unclear: “Nightly lists beat the best simple rule”."
    result = verdict(unclear, parity={"requests": 60, "differ": 2})
    assert (result.level, result.answer) == ("not met", "Not good enough")
    assert result.reason == (
        "3 of 5 rules are met. Not met: “What is served is what was measured”. "
        "Unclear: “Nightly lists beat the best simple rule”."
    )


def test_a_run_with_too_few_lists_is_neither_good_nor_bad() -> None:
    assert verdict(regime_hits(num_lists=40)).answer == "Too early to tell"
    assert judge((), VALIDATION, PARITY, 0.01).answer == "Too early to tell"
    result = verdict(regime_hits(num_lists=40), parity={"requests": 60, "differ": 2})
    assert result.answer == "Not good enough"
