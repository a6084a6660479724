"""External ids: one spelling for each, whatever an export or a person made of it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from befriend.data.external_ids import as_log_ids, read_ids

INTEGER, TEXT = pl.Int64(), pl.String()
NULL_WORDS = ["NULL", "\\N", "NaN", "None", "NA"]


@pytest.mark.parametrize(
    "text",
    ["13", " 13", "13\t", "13.0", "13.000", '"13"', "'13'", '" 13 "', '"13.0"', "\ufeff13", "\u200b13", "\u00a013"],
)
def test_spellings_of_one_id_are_one_id(text: str) -> None:
    for dtype, expected in ((INTEGER, 13), (TEXT, "13")):
        ids, is_empty = read_ids(pl.Series("actor_id", [text, "7"]), dtype)
        assert ids.to_list() == [expected, pl.Series([7]).cast(dtype)[0]]
        assert (ids.name, ids.dtype, is_empty.to_list()) == ("actor_id", dtype, [False, False])


def test_composed_and_decomposed_characters_are_the_same() -> None:
    assert read_ids(pl.Series(["Zo\u00e9", "Zoe\u0301"]), TEXT)[0].n_unique() == 1


@pytest.mark.parametrize(("text", "other"), [("007", "7"), ("Ann", "ann"), ("a b", "ab"), ("1.50", "1.5"), ("-1", "1")])
def test_different_ids_stay_different(text: str, other: str) -> None:
    assert read_ids(pl.Series([text, other]), TEXT)[0].to_list() == [text, other]


@pytest.mark.parametrize("text", ["", "  ", '""', None, *NULL_WORDS, " NULL ", '"NA"'])
def test_empty_texts_and_null_words_are_no_id(text: str | None) -> None:
    for dtype in (INTEGER, TEXT):
        ids, is_empty = read_ids(pl.Series([text], dtype=pl.String), dtype, NULL_WORDS)
        assert (ids[0], is_empty[0]) == (None, True)


def test_null_words_count_in_exact_case_and_only_where_they_are_given() -> None:
    assert read_ids(pl.Series(["na", "none", "Null"]), TEXT, NULL_WORDS)[0].null_count() == 0
    assert as_log_ids(pl.Series(["NA"]), TEXT).to_list() == ["NA"]


@pytest.mark.parametrize("text", ["007", "+7", "7.5", "x", "7 8", "9223372036854775808", "1.23457E+17", "1e3", "٣"])
def test_text_that_is_no_integer_is_no_id_of_a_log_of_integers(text: str) -> None:
    ids, is_empty = read_ids(pl.Series([text, "-5"]), INTEGER)
    assert (ids.to_list(), is_empty.to_list()) == ([None, -5], [False, False])


@pytest.mark.parametrize(
    ("values", "dtype", "expected", "is_empty"),
    [
        ([13.0, None, float("nan"), 7.5, 2.0**60], INTEGER, [13, None, None, None, None], [0, 1, 1, 0, 0]),
        ([13.0, None, float("nan"), 7.5, 2.0**60], TEXT, ["13", None, None, None, None], [0, 1, 1, 0, 0]),
        ([Decimal("13.00"), Decimal("12345678901234567890.00"), None], TEXT, ["13", "12345678901234567890", None], [0, 0, 1]),
        ([13, None], TEXT, ["13", None], [0, 1]),
    ],
)  # fmt: skip
def test_columns_of_numbers(values: list[Any], dtype: pl.DataType, expected: list[Any], is_empty: list[int]) -> None:
    ids, empty = read_ids(pl.Series(values), dtype)
    assert (ids.to_list(), empty.to_list()) == (expected, [bool(flag) for flag in is_empty])


def test_integers_beyond_64_bits_fit_into_text_only() -> None:
    large = pl.Series([2**63 + 14, 5], dtype=pl.UInt64)
    assert read_ids(large, INTEGER)[0].to_list() == [None, 5]
    assert read_ids(large, TEXT)[0].to_list() == ["9223372036854775822", "5"]
    assert read_ids(pl.Series(["9223372036854775822"]), TEXT)[0].to_list() == ["9223372036854775822"]


def test_long_number_that_a_spreadsheet_rounded_is_no_id() -> None:
    ids, is_empty = read_ids(pl.Series(["1.23457E+17", "12e45678"]), TEXT)
    assert (ids.to_list(), is_empty.to_list()) == ([None, "12e45678"], [False, False])
