"""Reads timestamps in the ways logs write them: numbers since 1970 in some unit, ISO 8601, or a format of strptime."""

from __future__ import annotations

import polars as pl

from befriend.errors import DataError
from befriend.readers.data_settings import ISO, UNITS_PER_SECOND

LAST_SECOND = 2**63 // 10**9 - 1  # in the year 2262: later times do not fit into 64 bits of nanoseconds
_NANOSECONDS = 10**9


def read_timestamps(column: pl.Series, unit: str) -> tuple[pl.Series, pl.Series]:
    """UTC seconds, rounded down, and UTC nanoseconds, as Int64; null where a time cannot be read.

    The nanoseconds are null for times before 1970 and after LAST_SECOND as well.

    column: numbers, text, dates or datetimes. unit: a key of UNITS_PER_SECOND, ISO for ISO 8601 text and for columns of
    dates and datetimes, or a format of strptime, such as %d/%m/%Y %H:%M. A time without a zone is UTC. A number may
    have a fraction or an exponent; of a number with 64 bits of floating point, microseconds count.

    Raises a DataError for dates and datetimes with a unit that is not ISO.
    """
    if column.dtype.is_temporal() and unit != ISO:
        raise DataError(
            f"the timestamp column holds {column.dtype}, but data.timestamp_unit is {unit}. "
            "Set data.timestamp_unit: iso."
        )
    if unit in UNITS_PER_SECOND:
        return _from_number(column, UNITS_PER_SECOND[unit])
    microsecond = _iso_microseconds(column) if unit == ISO else _parse(column, unit)
    return _seconds_and_nanoseconds(microsecond // 10**6, microsecond, 10**3)


def finer_unit(unit: str, value: float) -> str | None:
    """The coarsest unit, finer than `unit`, in which a number is a time before LAST_SECOND; None if there is none."""
    units = list(UNITS_PER_SECOND)
    finer_units = units[units.index(unit) + 1 :] if unit in units else []
    return next((unit for unit in finer_units if value // UNITS_PER_SECOND[unit] <= LAST_SECOND), None)


def _from_number(column: pl.Series, per_second: int) -> tuple[pl.Series, pl.Series]:
    """As `read_timestamps`. per_second: units per second."""
    if column.dtype.is_float():
        microsecond = (column.fill_nan(None) * (10**6 / per_second)).round().cast(pl.Int64, strict=False)
        second = (column.fill_nan(None) / per_second).floor().cast(pl.Int64, strict=False)
        return _seconds_and_nanoseconds(second, microsecond, 10**3)
    text = column
    if not column.dtype.is_integer():
        text = column.cast(pl.String, strict=False).str.strip_chars()
    number = text.cast(pl.Int64, strict=False)
    second, nanosecond = _seconds_and_nanoseconds(number // per_second, number, _NANOSECONDS // per_second)
    others = (number.is_null() & text.is_not_null()).arg_true()  # with a fraction or an exponent, or no number at all
    if not len(others) or column.dtype.is_integer():
        return second, nanosecond
    decimal = text.gather(others).str.to_decimal(scale=9)
    other_second = (decimal / per_second).cast(pl.Float64).floor().cast(pl.Int64, strict=False)
    is_time = (other_second >= 0) & (other_second <= LAST_SECOND)
    other_nanosecond = pl.select(pl.when(is_time).then(decimal)).to_series() * (_NANOSECONDS // per_second)
    return (
        second.scatter(others, other_second),
        nanosecond.scatter(others, other_nanosecond.cast(pl.Int64, strict=False)),
    )


def _seconds_and_nanoseconds(second: pl.Series, number: pl.Series, factor: int) -> tuple[pl.Series, pl.Series]:
    """As `read_timestamps`. number: the time in a unit of `factor` nanoseconds."""
    is_time = (second >= 0) & (second <= LAST_SECOND)
    return second, pl.select(pl.when(is_time).then(number)).to_series() * factor


def _iso_microseconds(column: pl.Series) -> pl.Series:
    """UTC microseconds of a column of dates or datetimes, or of ISO 8601 text."""
    if column.dtype.is_temporal():
        return column.cast(pl.Datetime("us")).dt.epoch("us")
    text = column.cast(pl.String, strict=False).str.strip_chars()
    text = text.str.replace(r"^(\d{4}-\d{2}-\d{2})$", "${1}T00:00:00").str.replace(r"[ t]", "T")
    text = text.str.replace(r"\s*([Zz]|UTC)$", "+00:00").str.replace(r"(T[^+-]*)$", "${1}+00:00").str.replace(",", ".")
    text = text.str.replace(r"T(\d{2}:\d{2})([+-])", "T${1}:00${2}")
    return text.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%#z", strict=False, time_unit="us").dt.epoch("us")


def _parse(column: pl.Series, time_format: str) -> pl.Series:
    """UTC microseconds of numbers or text in a format of strptime."""
    text = column.cast(pl.String, strict=False).str.strip_chars()
    chrono_format = time_format.replace("%S.%f", "%S%.f")
    try:
        return text.str.to_datetime(chrono_format, strict=False, time_unit="us").dt.epoch("us")
    except pl.exceptions.ComputeError:
        raise DataError(f"timestamps cannot be read with the format {time_format!r}. Correct it.") from None
