"""Tables of requests, one row for each list to make: for which user, as of when, for which use.

A table is made from arguments, or read from a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from befriend.data.regimes import LIST_KINDS, REGIMES, Regime
from befriend.errors import CallError, DataError
from befriend.recommendation.request_time import parse_time, to_utc_second

USER_ID, AT, FILTER_AT, REGIME, ACTION, LIST = "user_id", "at", "filter_at", "regime", "action", "list"
COLUMNS = (USER_ID, AT, FILTER_AT, REGIME, ACTION, LIST)
"""Columns of a table of requests:

- user_id: the user who gets the list, by the id in the log (external id);
- at: the cutoff, a UTC second: only events and texts before it count; null for the end of the log;
- filter_at: UTC second when the list is shown; contacts and blocks before it decide who may be listed; null for the
  cutoff;
- regime: how the list is used, one of `befriend.data.regimes.REGIMES`, an input of models;
- action: what the user is about to do, in regime streaming only; null for other regimes;
- list: "any", or "new" for a list without existing contacts."""

YEAR_10000 = 253_402_300_800  # first UTC second of the year 10000; larger values are probably milliseconds


def requests_table(
    users: pl.Series,
    at: datetime | None = None,
    filter_at: datetime | None = None,
    regime: Regime | None = None,
    action: str | None = None,
    new_only: bool = False,
) -> pl.DataFrame:
    """Makes a table with the columns `COLUMNS` and one request for each user, given by external ids.

    The other parameters are the same for all users: at, filter_at: times, in UTC if they have no time zone; regime: by
    default streaming with an action, live without; new_only: whether lists leave out existing contacts.
    """
    regime = regime or ("live" if action is None else "streaming")
    return pl.DataFrame({USER_ID: as_id_column(users)}).with_columns(
        pl.lit(None if at is None else to_utc_second(at), pl.Int64).alias(AT),
        pl.lit(None if filter_at is None else to_utc_second(filter_at), pl.Int64).alias(FILTER_AT),
        pl.lit(regime, pl.String).alias(REGIME),
        pl.lit(action, pl.String).alias(ACTION),
        pl.lit(LIST_KINDS[new_only]).alias(LIST),
    )


def check_requests(table: pl.DataFrame, actions: Sequence[str], begin: int, end: int | None = None) -> None:
    """Checks a table of requests, with the columns `COLUMNS`, against a log.

    actions: the action labels of the log; begin: UTC second of its first event; end: one second after its last event or
    text, which stands for a null in column `at`; None: if it is not known yet.

    Raises CallError for an invalid request, and DataError for a cutoff at or before the first event. If the table has
    more than one row, the message names the row, counted from 1.
    """
    at = table[AT] if end is None else table[AT].fill_null(end)
    row = _first_true(table[FILTER_AT] < at)
    if row is not None:
        raise CallError(
            "filter_at, the time at which a list is shown, lies before at, the time as of which it is made"
            f"{_in_row(table, row)}."
        )
    row = _first_true(table[USER_ID].is_null())
    if row is not None:
        raise CallError(f"no user is named{_in_row(table, row)}.")
    for name, labels in ((REGIME, REGIMES), (LIST, LIST_KINDS), (ACTION, actions)):
        row = _first_true(~table[name].is_in(labels))
        if row is not None:
            raise CallError(
                f"there is no {name} “{table[name][row]}”{_in_row(table, row)}. There are: {', '.join(labels)}."
            )
    row = _first_true(table[ACTION].is_not_null() != (table[REGIME] == "streaming"))
    if row is not None:
        action = table[ACTION][row]
        problem = "has no action" if action is None else f"has the action {action}"
        raise CallError(
            "the action, what the user is about to do, belongs to regime streaming and to no other: regime "
            f"{table[REGIME][row]} {problem}{_in_row(table, row)}."
        )
    row = _first_true(at <= begin)
    if row is not None:
        raise DataError(
            f"no event lies before this time{_in_row(table, row)}: the log begins on "
            f"{datetime.fromtimestamp(begin, UTC):%Y-%m-%d %H:%M:%S} UTC."
        )


def _first_true(mask: Iterable[bool | None]) -> int | None:
    """Index of the first True, None if there is none."""
    return next((row for row, is_true in enumerate(mask) if is_true), None)


def _in_row(table: pl.DataFrame, row: int) -> str:
    """The row of an invalid request, for an error message; empty if the table has only one row."""
    return f", in row {row + 1} of the requests" if table.height > 1 else ""


def read_requests(path: Path) -> pl.DataFrame:
    """Reads a table of requests, Parquet or JSON Lines, and adds the columns of `COLUMNS` that it lacks.

    Only user_id is required; missing columns and nulls get the default values of `requests_table`. Raises CallError for
    a file that is missing, cannot be read or has no requests, for columns with another name or type, and for invalid
    times.
    """
    if not path.is_file():
        raise CallError(f"there is no file {path}.")
    try:
        table = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_ndjson(path, infer_schema_length=None)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise CallError(f"{path} cannot be read: {error}. Requests are Parquet, or JSON Lines.") from None
    unknown = [name for name in table.columns if name not in COLUMNS]
    if unknown or USER_ID not in table.columns:
        problem = f"has the column {unknown[0]}" if unknown else f"has no column {USER_ID}"
        raise CallError(f"{path} {problem}. Columns of requests: {', '.join(COLUMNS)}; {USER_ID} is needed.")
    if not table.height:
        raise CallError(f"{path} holds no requests.")
    defaults = requests_table(table[USER_ID])
    columns = {name: table[name] for name in table.columns if name != USER_ID}
    for name, column in columns.items():
        where = f"{path}, column {name}"
        columns[name] = _seconds(column, where) if name in (AT, FILTER_AT) else _text(column, where)
    action = columns.get(ACTION, defaults[ACTION])
    regime = pl.select(pl.when(action.is_null()).then(pl.lit("live")).otherwise(pl.lit("streaming"))).to_series()
    columns[REGIME] = columns[REGIME].fill_null(regime) if REGIME in columns else regime
    if LIST in columns:
        columns[LIST] = columns[LIST].fill_null(LIST_KINDS[0])
    return defaults.with_columns(column.alias(name) for name, column in columns.items())


def as_id_column(users: pl.Series) -> pl.Series:
    """Returns external ids as numbers or text, the types that ids of a log have. CallError for any other type."""
    if isinstance(users.dtype, pl.Categorical | pl.Enum):
        return users.cast(pl.String)
    if not (users.dtype.is_integer() or users.dtype.is_float() or users.dtype in (pl.String, pl.Null)):
        raise CallError(f"ids of users are numbers or text, and {USER_ID} holds {users.dtype}.")
    return users


def _text(column: pl.Series, where: str) -> pl.Series:
    """The column as String. where: file and column, for error messages."""
    if column.dtype not in (pl.String, pl.Null) and not isinstance(column.dtype, pl.Categorical | pl.Enum):
        raise CallError(f"{where}, holds {column.dtype}, and should hold text.")
    return column.cast(pl.String)


def _seconds(column: pl.Series, where: str) -> pl.Series:
    """The column as UTC seconds, Int64, from integers, dates, datetimes or ISO 8601 text.

    where: file and column, for error messages.
    """
    if column.dtype == pl.Null:
        return column.cast(pl.Int64)
    if column.dtype.is_integer():
        too_late = (column > YEAR_10000).fill_null(False)
        if too_late.any():
            raise CallError(
                f"{where}, row {int(too_late.arg_max() or 0) + 1}: {column.filter(too_late)[0]} lies beyond the year "
                "9999; write times as UTC seconds, not as milliseconds."
            )
        return column.cast(pl.Int64)
    if isinstance(column.dtype, pl.Datetime):
        return _seconds(column.dt.epoch("s"), where)
    if column.dtype == pl.Date:
        return column.cast(pl.Datetime("us")).dt.epoch("s")
    if column.dtype == pl.String:
        seconds = [
            None if text is None
            else int(text) if text.lstrip("-").isdecimal()  # numbers mixed with text are read as text
            else to_utc_second(parse_time(f"{where}, row {row}:", text))
            for row, text in enumerate(column, 1)
        ]  # fmt: skip
        return _seconds(pl.Series(seconds, dtype=pl.Int64), where)
    raise CallError(f"{where}, holds {column.dtype}: write times as UTC seconds, or as 2024-05-31T18:00:00.")
