"""Guesses how timestamps are written: their unit or format, and whether the time of day has a column of its own."""

from __future__ import annotations

import polars as pl

from befriend.errors import CallError
from befriend.readers.data_settings import ISO
from befriend.readers.timestamps import read_timestamps

CALENDAR_DIGITS = {
    r"^(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])$": "%Y%m%d",
    r"^(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])([01]\d|2[0-3])[0-5]\d$": "%Y%m%d%H%M",
    r"^(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])([01]\d|2[0-3])[0-5]\d[0-5]\d$": "%Y%m%d%H%M%S",
}
"""numbers that are dates, and no time since 1970 that a log would have: 20240301 would be in August 1970"""
DOTNET_TICKS = (6.2e17, 6.6e17)  # from the year 1965 to 2092
UNITS = (("ns", 10**17), ("us", 10**14), ("ms", 10**11))  # and the least median of times in it, in the year 1973
DATE_FORMATS = (
    *("%m/%d/%Y", "%d/%m/%Y", "%m-%d-%Y", "%d-%m-%Y", "%d.%m.%Y", "%Y/%m/%d", "%Y.%m.%d"),
    *("%m/%d/%y", "%d/%m/%y", "%d.%m.%y", "%Y%m%d"),
)
CLOCK_FORMATS = ("%H:%M", "%H:%M:%S", "%H:%M:%S%.f", "%I:%M %p", "%I:%M:%S %p")
TIME_FORMATS = (
    *DATE_FORMATS,
    *(f"{date} {clock}" for date in DATE_FORMATS for clock in CLOCK_FORMATS),
    *(f"%Y-%m-%d {clock}" for clock in ("%I:%M %p", "%I:%M:%S %p", "%H:%M:%S GMT", "%H:%M:%S +0000 UTC")),
    *("%Y%m%dT%H%M%SZ", "%Y%m%dT%H%M%S", "%d/%b/%Y:%H:%M:%S %z", "%d-%b-%Y %H:%M:%S", "%d %b %Y %H:%M:%S"),
    *("%a %b %d %H:%M:%S %Y", "%a %b %d %H:%M:%S UTC %Y", "%a %b %d %H:%M:%S %z %Y", "%a, %d %b %Y %H:%M:%S %z"),
    *("%a, %d %b %Y %H:%M:%S GMT", "%a, %d %b %Y %H:%M:%S %z (UTC)"),
)
"""usual ways of writing times that are not ISO 8601"""
TIME_OF_DAY_PATTERN = r"^\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?(\s*[AaPp][Mm])?$"
NUM_TRIED = 50  # times on which all formats are tried, before those that fit are tried on all
LEAST_SECOND = 10**8  # in the year 1973: smaller numbers without a name may be anything
_NUMBER_PATTERN = r"^[-+]?\d+(\.\d+)?([eE][-+]?\d+)?$"


def guess_units(column: pl.Series) -> list[str]:
    """The timestamp units in which a column may be written, mostly one; several where day and month cannot be told.

    CallError if there is none. Numbers are told by the magnitude of their median, text by the format that fits.
    """
    if column.dtype.is_temporal():
        return [ISO]
    text = _filled(column)
    for pattern, time_format in CALENDAR_DIGITS.items():
        if len(text) and text.str.contains(pattern).all():
            return [time_format]
    number = text.str.to_decimal(scale=9).drop_nulls() if len(text) else text
    if len(number) * 2 >= len(text):
        magnitude = abs(float(number.cast(pl.Float64).median() or 0))  # type: ignore[arg-type]
        if DOTNET_TICKS[0] <= magnitude <= DOTNET_TICKS[1]:
            raise CallError(
                f"timestamps such as {text[0]} look like ticks of .NET, 100 ns since the year 1. Write seconds since "
                "1970 instead, (ticks - 621355968000000000) / 10000000; or name their unit with --unit."
            )
        return [next((unit for unit, least in UNITS if magnitude >= least), "s")]
    head = text[:NUM_TRIED]
    units = (
        [unit for unit in (ISO, *TIME_FORMATS) if 2 * _num_unread(head, unit) < len(head)] if _has_dates(head) else []
    )
    num_unread = {unit: _num_unread(text, unit) for unit in units}
    fitting = [unit for unit, count in num_unread.items() if 2 * count < len(text)]
    exact = [unit for unit in fitting if num_unread[unit] == min(num_unread.values())]
    if not exact:
        raise CallError(
            f"timestamps such as {text[0]!r} cannot be read. Say how to read them, with a format of strptime: "
            '--unit "%d/%m/%Y %H:%M"; or write seconds since 1970 or ISO 8601.'
        )
    return [ISO] if ISO in exact else exact


def is_time_column(column: pl.Series) -> bool:
    """Whether a column without a name may hold timestamps: dates, or numbers that are large enough."""
    if column.dtype.is_temporal():
        return not isinstance(column.dtype, pl.Time | pl.Duration)
    text = _filled(column)
    if not len(text):
        return False
    numbers = text.filter(text.str.contains(_NUMBER_PATTERN)).cast(pl.Float64, strict=False)
    if 2 * len(numbers) >= len(text):
        is_calendar = any(text.str.contains(pattern).all() for pattern in CALENDAR_DIGITS)
        return is_calendar or float(numbers.median() or 0) >= LEAST_SECOND  # type: ignore[arg-type]
    try:
        return bool(guess_units(column))
    except CallError:
        return False


def is_time_of_day(column: pl.Series) -> bool:
    """Whether a column holds times of day without a date, such as 22:13:20."""
    if isinstance(column.dtype, pl.Time):
        return True
    text = _filled(column)
    return bool(len(text)) and bool(text.str.contains(TIME_OF_DAY_PATTERN).all())


def is_date(column: pl.Series) -> bool:
    """Whether a column holds dates without a time of day, such as 2023-11-14."""
    if column.dtype.is_temporal():
        return isinstance(column.dtype, pl.Date)
    text = _filled(column)
    if not len(text):
        return False
    is_iso_date = bool(text.str.contains(r"^\d{4}-\d{2}-\d{2}$").all())
    return is_iso_date or any(_num_unread(text, unit) == 0 for unit in DATE_FORMATS)


def joined(date: pl.Series, time_of_day: pl.Series) -> pl.Series:
    """Dates and times of day as one text each, as the row rules join them."""
    table = pl.DataFrame({"date": date.cast(pl.String), "time": time_of_day.cast(pl.String)})
    return table.select(pl.concat_str(pl.all().str.strip_chars(), separator=" ")).to_series()


def _has_dates(text: pl.Series) -> bool:
    """Whether most texts have digits enough for a date, and something between them."""
    return bool(((text.str.count_matches(r"\d") >= 4) & text.str.contains(r"[-/.:\sT]")).mean() >= 0.5)  # type: ignore[operator]


def _num_unread(text: pl.Series, unit: str) -> int:
    """The number of times that cannot be read, or are before 1970, as 11/14/23 is in the format %m/%d/%Y."""
    second = read_timestamps(text, unit)[0]
    return len(text) - int((second >= 0).sum())


def _filled(column: pl.Series) -> pl.Series:
    """The values as text without blanks around them, and without empty ones."""
    return column.cast(pl.String).str.strip_chars().replace("", None).drop_nulls()
