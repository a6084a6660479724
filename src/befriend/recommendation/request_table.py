"""Tables of requests: who gets a list, as of which cutoff, for which use. Made from arguments, or read from a file."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from befriend.data.regimes import Regime
from befriend.errors import CallError

LISTS = ("any", "new")
USER_ID, AT, FILTER_AT, REGIME, ACTION, LIST = "user_id", "at", "filter_at", "regime", "action", "list"
COLUMNS = (USER_ID, AT, FILTER_AT, REGIME, ACTION, LIST)
"""Columns of a table of requests: external id of the user who gets the list; cutoff, a UTC second, null for the end of
the log; UTC second before which contacts and blocks count for who may be listed, null for the cutoff; regime; the
user's next action (in regime streaming only); "any", or "new" for a list without contacts."""

END = 253_402_300_800  # UTC second at which the year 9999 ends; a larger value is in another unit


def requests_table(
    users: pl.Series,
    at: datetime | None = None,
    filter_at: datetime | None = None,
    regime: Regime | None = None,
    action: str | None = None,
    new_only: bool = False,
) -> pl.DataFrame:
    """One request for each user, given by external ids. regime None: live, or streaming with an action.

    Returns a table with the columns `COLUMNS`, and one row for each user.
    """
    regime = regime or ("live" if action is None else "streaming")
    return pl.DataFrame({USER_ID: ids_of(users)}).with_columns(
        pl.lit(None if at is None else second_of(at), pl.Int64).alias(AT),
        pl.lit(None if filter_at is None else second_of(filter_at), pl.Int64).alias(FILTER_AT),
        pl.lit(regime, pl.String).alias(REGIME),
        pl.lit(action, pl.String).alias(ACTION),
        pl.lit(LISTS[new_only]).alias(LIST),
    )


def second_of(time: datetime) -> int:
    """UTC second; a time without a time zone is in UTC. CallError for anything but a datetime."""
    if not isinstance(time, datetime):
        raise CallError(f"{time!r} is no datetime: times are datetimes, in UTC where they have no time zone.")
    return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp())


def read_requests(path: Path) -> pl.DataFrame:
    """Reads a table of requests, Parquet or JSON Lines, and gives it all columns of `COLUMNS`.

    Only user_id is required; missing columns and nulls get the values of `requests_table`. CallError for what cannot
    be read.
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
    given = {name: table[name] for name in table.columns if name != USER_ID}
    for name, column in given.items():
        where = f"{path}, column {name}"
        given[name] = _seconds(column, where) if name in (AT, FILTER_AT) else _text(column, where)
    action = given.get(ACTION, defaults[ACTION])
    regime = pl.select(pl.when(action.is_null()).then(pl.lit("live")).otherwise(pl.lit("streaming"))).to_series()
    given[REGIME] = given[REGIME].fill_null(regime) if REGIME in given else regime
    if LIST in given:
        given[LIST] = given[LIST].fill_null(LISTS[0])
    return defaults.with_columns(column.alias(name) for name, column in given.items())


def ids_of(users: pl.Series) -> pl.Series:
    """External ids in a type that a log may have: numbers or text. CallError for any other type."""
    if isinstance(users.dtype, pl.Categorical | pl.Enum):
        return users.cast(pl.String)
    if not (users.dtype.is_integer() or users.dtype.is_float() or users.dtype in (pl.String, pl.Null)):
        raise CallError(f"ids of users are numbers or text, and {USER_ID} holds {users.dtype}.")
    return users


def _text(column: pl.Series, where: str) -> pl.Series:
    """The column as String. where: what an error names."""
    if column.dtype not in (pl.String, pl.Null) and not isinstance(column.dtype, pl.Categorical | pl.Enum):
        raise CallError(f"{where}, holds {column.dtype}, and should hold text.")
    return column.cast(pl.String)


def _seconds(column: pl.Series, where: str) -> pl.Series:
    """The column as UTC seconds, Int64, from integers, dates, datetimes or ISO 8601. where: what an error names."""
    if column.dtype == pl.Null:
        return column.cast(pl.Int64)
    if column.dtype.is_integer():
        too_late = (column > END).fill_null(False)
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
            else second_of(moment_of(f"{where}, row {row}:", text))
            for row, text in enumerate(column, 1)
        ]  # fmt: skip
        return _seconds(pl.Series(seconds, dtype=pl.Int64), where)
    raise CallError(f"{where}, holds {column.dtype}: write times as UTC seconds, or as 2024-05-31T18:00:00.")


def moment_of(where: str, text: str) -> datetime:
    """A datetime from ISO 8601. where: what an error names."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise CallError(f"{where} {text or 'nothing'}: write it as 2024-05-31 or 2024-05-31T18:00:00.") from None
