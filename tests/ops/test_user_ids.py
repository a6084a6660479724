"""Mistyped ids: which ones were perhaps meant."""

from __future__ import annotations

import polars as pl
import pytest

from befriend.data.erasure import erasure_digest
from befriend.errors import CallError
from befriend.ops.user_ids import nearest_ids, require_id_type, require_user, suggestion, unknown_ids

NUMBERS = pl.Series([1, 2, 12, 374, 5000, 21959, 21990, 21995])
NAMES = pl.Series(["anna", "Bob", "carl", "x9f3"])


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("21996", ["21995", "21990"]),  # a wrong digit
        ("2199", ["21959", "21990", "21995"]),  # a missing digit
        ("213995", ["21995"]),  # one too many
        ("29195", ["21995"]),  # two exchanged
        ("5432", ["5000"]),  # none of these: a near number
        ("987654321", []),
    ],
)
def test_nearest_numbers(typed: str, meant: list[str]) -> None:
    assert nearest_ids(typed, NUMBERS) == meant


@pytest.mark.parametrize(("typed", "meant"), [("ann", "anna"), ("BOB", "Bob"), ("karl", "carl"), ("x93f", "x9f3")])
def test_nearest_names(typed: str, meant: str) -> None:
    assert nearest_ids(typed, NAMES)[0] == meant


def test_suggestions_show_what_ids_look_like_if_none_is_near() -> None:
    assert suggestion("anna", NUMBERS) == "Ids are whole numbers, such as 1, 2 or 12."
    assert suggestion("007", pl.Series([7, 8])) == "Did you mean 7?"
    assert suggestion("987654321", NUMBERS) == "Ids look like 1, 2 or 12."
    assert suggestion("zzz", NAMES) == "Ids look like anna, Bob or carl."
    assert suggestion("x" * 10_000, NAMES) == "Ids look like anna, Bob or carl."
    assert suggestion("1", pl.Series([], dtype=pl.Int64)) == ""


def test_an_erased_user_is_unknown_and_never_named() -> None:
    erased = frozenset({erasure_digest(21995)})
    assert unknown_ids(pl.Series(["21995", "374", "9", "9"]), NUMBERS, erased).to_list() == ["21995", "9"]
    assert nearest_ids("21996", NUMBERS, erased) == ["21990"]
    with pytest.raises(CallError, match=r"there is no user 21995 in prepared\. Did you mean 21990 or 21959"):
        require_user("21995", NUMBERS, erased, "prepared")


def test_ids_get_the_type_of_the_log() -> None:
    assert require_id_type(pl.Series(["374", "99"]), NUMBERS).to_list() == [374, 99]
    assert require_id_type(pl.Series([7, 8]), NAMES).to_list() == ["7", "8"]
    with pytest.raises(CallError, match=r"7\.5 can be no id of this log"):
        require_id_type(pl.Series(["374", "7.5"]), NUMBERS)
