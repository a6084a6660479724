"""Timestamps: every way of writing 2023-11-14 22:13:20 UTC, second 1,700,000,000, is that time."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl
import pytest

from befriend.errors import DataError
from befriend.readers.timestamps import LAST_SECOND, finer_unit, read_timestamps

SECOND = 1_700_000_000
EVENING = datetime(2023, 11, 14, 22, 13, 20)


def read(value: Any, unit: str, dtype: Any = None) -> tuple[int | None, int | None]:
    second, nanosecond = read_timestamps(pl.Series([value], dtype=dtype), unit)
    assert second.dtype == nanosecond.dtype == pl.Int64
    return second[0], nanosecond[0]


@pytest.mark.parametrize(
    ("value", "unit"),
    [
        (SECOND, "s"),
        (np.uint32(SECOND), "s"),
        (float(SECOND), "s"),
        (Decimal(f"{SECOND}.00"), "s"),
        (f" {SECOND} ", "s"),
        (f"{SECOND}.000000", "s"),
        ("1.7E9", "s"),
        ("1.700000000e+09", "s"),
        (f"{SECOND}000", "ms"),
        (f"{SECOND}000.0", "ms"),
        (SECOND * 10**6, "us"),
        (SECOND * 10**9, "ns"),
        (EVENING, "iso"),
        (EVENING.replace(tzinfo=timezone(timedelta(hours=2))) + timedelta(hours=2), "iso"),
        ("2023-11-14T22:13:20Z", "iso"),
        ("2023-11-14 22:13:20", "iso"),
        ("2023-11-14 22:13:20 UTC", "iso"),
        ("2023-11-15T00:13:20+02:00", "iso"),
        (20231114221320, "%Y%m%d%H%M%S"),
        ("14.11.2023 22:13:20", "%d.%m.%Y %H:%M:%S"),
        ("11/14/2023 10:13:20 PM", "%m/%d/%Y %I:%M:%S %p"),
        ("Tue Nov 14 22:13:20 +0000 2023", "%a %b %d %H:%M:%S %z %Y"),
        ("14/Nov/2023:23:13:20 +0100", "%d/%b/%Y:%H:%M:%S %z"),
    ],
)
def test_all_ways_of_writing_a_time_are_that_time(value: Any, unit: str) -> None:
    assert read(value, unit) == (SECOND, SECOND * 10**9)


@pytest.mark.parametrize(
    ("value", "unit", "nanoseconds"),
    [
        ("1700000000.123456789", "s", 123_456_789),
        (1700000000.25, "s", 250_000_000),
        ("1700000000123", "ms", 123_000_000),
        ("1700000000123.5", "ms", 123_500_000),
        (1700000000123, "ms", 123_000_000),
        ("2023-11-14T22:13:20.000007Z", "iso", 7_000),
        (EVENING.replace(microsecond=7), "iso", 7_000),
    ],
)
def test_fractions_of_a_second_are_kept(value: Any, unit: str, nanoseconds: int) -> None:
    assert read(value, unit) == (SECOND, SECOND * 10**9 + nanoseconds)


def test_a_day_begins_at_midnight_utc() -> None:
    midnight = int(datetime(2023, 11, 14, tzinfo=UTC).timestamp())
    assert {read(*day)[0] for day in ((date(2023, 11, 14), "iso"), ("2023-11-14", "iso"), (20231114, "%Y%m%d"))} == {midnight}


@pytest.mark.parametrize("value", ["", "x", "1,700,000,000", "2023-11-14", None, "nan", "inf", "--5"])
def test_what_is_no_number_cannot_be_read_as_seconds(value: str | None) -> None:
    assert read(value, "s", pl.String) == (None, None)


@pytest.mark.parametrize("value", ["", "x", "1700000000", "2023-13-01", "14.11.2023", None])
def test_what_is_no_iso_date_cannot_be_read_as_one(value: str | None) -> None:
    assert read(value, "iso", pl.String) == (None, None)


@pytest.mark.parametrize("value", [-5, "-5", -5.0, "-5.5", LAST_SECOND + 1, str(LAST_SECOND + 1), 1e18, "1e18", 2**62])
def test_times_before_1970_and_after_2262_have_seconds_but_no_nanoseconds(value: Any) -> None:
    second, nanosecond = read(value, "s")
    assert second is not None and not 0 <= second <= LAST_SECOND and nanosecond is None


def test_unit_that_fits_a_number_is_the_coarsest_of_the_finer_ones() -> None:
    assert [finer_unit(*pair) for pair in (("s", 1.7e12), ("s", 1.7e15), ("ms", 1.7e18), ("iso", 1.7e12))] == ["ms", "us", "ns", None]
    assert finer_unit("ns", 1.7e30) is None


def test_datetimes_need_the_unit_iso() -> None:
    with pytest.raises(DataError, match=r"holds Datetime.*Set data.timestamp_unit: iso"):
        read(EVENING, "ms")
