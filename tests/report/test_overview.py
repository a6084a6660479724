"""The opening of the page says what a run achieves in plain words."""

from __future__ import annotations

import pytest

from befriend.data.regimes import REGIMES
from befriend.report.list_hits import USER_GROUPS
from befriend.report.overview import headline_sentence, opening_regimes
from befriend.report.plain_words import (
    GROUP_MEANINGS,
    GROUP_NAMES,
    LIST_ADJECTIVES,
    LIST_MOMENTS,
    RULE_MEANINGS,
    conjoined,
)
from befriend.retrieval.heuristics import HEURISTICS
from tests.report.results import regime_hits


def test_the_headline_counts_lists_with_the_right_person() -> None:
    nightly, live = regime_hits(share=0.1822), regime_hits("live", share=0.5605)
    assert headline_sentence([nightly, live]) == (
        "When a user contacts someone new who was active before, that person is on the nightly list of ten 18 times in 100, "
        "and on the live list 56 times in 100."
    )
    assert headline_sentence([live]) == (
        "When a user contacts someone new who was active before, that person is on the live list of ten 56 times in 100."
    )


def test_without_enough_lists_the_headline_has_no_rate() -> None:
    assert headline_sentence([]).startswith("No list could be measured")
    assert headline_sentence([regime_hits(num_lists=1200), regime_hits("live", num_lists=99)]) == (
        "Only 1,200 nightly and 99 live lists were measured: too few to say how often they have the right person."
    )


@pytest.mark.parametrize(
    ("evaluated", "shown"),
    [
        (("streaming", "live", "daily", "frozen"), ["daily", "live"]),
        (("streaming", "frozen"), ["streaming", "frozen"]),
        (("frozen",), ["frozen"]),
        ((), []),
    ],
)
def test_the_lists_that_applications_use_most_are_shown(evaluated: tuple[str, ...], shown: list[str]) -> None:
    assert [hits.regime for hits in opening_regimes([regime_hits(regime) for regime in evaluated])] == shown


def test_every_regime_group_and_rule_has_plain_words() -> None:
    assert LIST_ADJECTIVES.keys() == LIST_MOMENTS.keys() == set(REGIMES)
    assert GROUP_NAMES.keys() == GROUP_MEANINGS.keys() == set(USER_GROUPS)
    assert RULE_MEANINGS.keys() == set(HEURISTICS)
    assert len(set(RULE_MEANINGS.values())) == len(HEURISTICS)


def test_items_are_conjoined() -> None:
    cases = {"": [], "a": ["a"], "a and b": ["a", "b"], "a, b and c": ["a", "b", "c"]}
    assert {conjoined(items): items for items in cases.values()} == cases
