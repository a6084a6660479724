"""What a valid row is, and what each table between two stages must hold.

`judge` types a raw row and gives the first reason to refuse it. The pandera schemas are the contracts of the
tables that stages hand to each other; `check` holds a table to its contract, chunk by chunk.
"""

from __future__ import annotations

from pathlib import Path

import pandera.polars as pa
import polars as pl
from pandera.errors import SchemaErrors

from befriend.config import DataSettings
from befriend.data.columns import (
    ACTION,
    ACTOR,
    CATEGORICAL,
    DEGREE,
    DONE,
    FILE,
    FIRST_SEEN,
    LAST_SEEN,
    OPTED_OUT,
    RAW,
    REASON,
    REASONS,
    RECEIVED,
    ROLE,
    ROLES,
    ROW,
    TARGET,
    TIMESTAMP,
    USER,
    USER_ID,
)
from befriend.errors import DataError

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
FAR_FUTURE = 10**11  # UTC second in the year 5138: beyond it a number is no count of seconds
WHOLE = r"^-?(0|[1-9][0-9]*)$"
CHECKED_AT_ONCE = 5_000_000  # rows


def judge(rows: pl.DataFrame, settings: DataSettings, latest: int | None) -> pl.DataFrame:
    """The rows with typed fields and, for each row that must be refused, a `reason` (a key of REASONS).

    rows: a Chunk's. A typed field is null where it could not be read. Ids become Int64 or String, timestamps UTC
    seconds, actions their renamed labels.
    """
    if rows[TIMESTAMP].dtype.is_temporal() and settings.timestamp_unit != "iso":
        raise DataError(
            f"the timestamp column holds {rows[TIMESTAMP].dtype}, but data.timestamp_unit is "
            f"{settings.timestamp_unit}. Set data.timestamp_unit: iso."
        )
    types = {field: rows[field].dtype for field in (ACTOR, ACTION, TARGET, TIMESTAMP)}
    read_id = _integer if settings.id_type == "integer" else _text
    label = _stripped(ACTION, types[ACTION])
    if settings.rename_actions:
        label = label.replace(settings.rename_actions)
    second = _iso(types[TIMESTAMP]) if settings.timestamp_unit == "iso" else _number(types[TIMESTAMP])
    typed = rows.with_columns(
        read_id(ACTOR, types[ACTOR]).alias("_actor"),
        read_id(TARGET, types[TARGET]).alias("_target"),
        label.alias("_action"),
        (second // PER_SECOND.get(settings.timestamp_unit, 1)).alias("_second"),
        *(_stripped(field, types[field]).is_null().alias(f"_no_{field}") for field in (ACTOR, TARGET, TIMESTAMP)),
    )
    refusals: list[tuple[pl.Expr, str]] = [
        (pl.col(f"_no_{ACTOR}"), "actor_id_empty"),
        (pl.col("_actor").is_null(), "actor_id_type"),
        (pl.col(f"_no_{TARGET}"), "target_id_empty"),
        (pl.col("_target").is_null(), "target_id_type"),
        (pl.col("_action").is_null(), "action_empty"),
        (pl.lit(False) if settings.actions is None else ~pl.col("_action").is_in(settings.actions), "action_unknown"),
        (pl.col(f"_no_{TIMESTAMP}"), "timestamp_empty"),
        (pl.col("_second").is_null(), "timestamp_type"),
        (pl.col("_second") < 0, "timestamp_negative"),
        (pl.col("_second") > FAR_FUTURE, "timestamp_unit"),
        (pl.lit(False) if latest is None else pl.col("_second") > latest, "timestamp_later"),
    ]
    reason = pl.coalesce(REASON, *(pl.when(condition).then(pl.lit(code)) for condition, code in refusals))
    return typed.select(
        ROW,
        pl.col("_actor").alias(ACTOR),
        pl.col("_action").alias(ACTION),
        pl.col("_target").alias(TARGET),
        pl.col("_second").alias(TIMESTAMP),
        reason.alias(REASON),
    )


def judge_attributes(rows: pl.DataFrame, settings: DataSettings) -> pl.DataFrame:
    """The rows of a table of users with typed fields and, for each row that must be refused, a `reason`.

    rows: a Chunk's. The user id becomes Int64 or String, labels String, numbers Float32, which may be infinite or
    NaN; null where there is nothing.
    """
    attributes = [name for name in rows.columns if name not in (ROW, USER_ID, REASON)]
    labels = [name for name in attributes if name.split(".")[0] == CATEGORICAL]
    numbers = [name for name in attributes if name not in labels]
    dtype = rows[USER_ID].dtype
    read_id = _integer if settings.id_type == "integer" else _text
    typed = rows.with_columns(
        read_id(USER_ID, dtype).alias(USER_ID),
        _stripped(USER_ID, dtype).is_null().alias("_no_id"),
        *(_label(name, rows[name].dtype).alias(name) for name in labels),
        *(_float(name, rows[name].dtype).alias(name) for name in numbers),
        *(_stripped(name, rows[name].dtype).is_not_null().alias(f"_given_{name}") for name in numbers),
    )
    refusals = [
        (pl.col("_no_id"), "user_id_empty"),
        (pl.col(USER_ID).is_null(), "user_id_type"),
        *((pl.col(name).is_null() & pl.col(f"_given_{name}"), "number_type") for name in numbers),
    ]
    reason = pl.coalesce(REASON, *(pl.when(condition).then(pl.lit(code)) for condition, code in refusals))
    return typed.select(ROW, USER_ID, *attributes, reason.alias(REASON))


def _text(name: str, dtype: pl.DataType) -> pl.Expr:
    """The column as text, exactly as it is; null where it is blank."""
    text = pl.col(name) if dtype == pl.String else pl.col(name).cast(pl.String, strict=False)
    return pl.when(text.str.strip_chars() != "").then(text)


def _stripped(name: str, dtype: pl.DataType) -> pl.Expr:
    return _text(name, dtype).str.strip_chars()


def _integer(name: str, dtype: pl.DataType) -> pl.Expr:
    """The column as Int64; null where it holds anything but a whole number in its usual form.

    007 and +7 are refused: they would silently become one user with 7.
    """
    if dtype.is_integer():
        return pl.col(name).cast(pl.Int64, strict=False)
    if dtype.is_float():
        return pl.when(pl.col(name) == pl.col(name).floor()).then(pl.col(name)).cast(pl.Int64, strict=False)
    text = _stripped(name, dtype)
    return pl.when(text.str.contains(WHOLE)).then(text).cast(pl.Int64, strict=False)


def _label(name: str, dtype: pl.DataType) -> pl.Expr:
    """The column as text; whole numbers without a fraction, though a column that lacks some holds them as floats."""
    if not dtype.is_float():
        return _stripped(name, dtype)
    number = pl.col(name).fill_nan(None)
    whole = pl.when(number == number.floor()).then(number).cast(pl.Int64, strict=False).cast(pl.String)
    return pl.coalesce(whole, number.cast(pl.String))


def _float(name: str, dtype: pl.DataType) -> pl.Expr:
    """The column as Float32; null where it cannot be read."""
    number = pl.col(name) if dtype.is_numeric() or dtype == pl.Boolean else _stripped(name, dtype)
    return number.cast(pl.Float64, strict=False).cast(pl.Float32)


def _number(dtype: pl.DataType) -> pl.Expr:
    """Timestamps as Int64: whole numbers, also as text with a fraction of zeros, as some exports write them."""
    if dtype.is_integer() or dtype.is_float():
        return _integer(TIMESTAMP, dtype)
    return _stripped(TIMESTAMP, dtype).str.replace(r"\.0*$", "").cast(pl.Int64, strict=False)


def _iso(dtype: pl.DataType) -> pl.Expr:
    """UTC seconds of a datetime column or of ISO 8601 text; without zone it is UTC."""
    if isinstance(dtype, pl.Datetime):
        return pl.col(TIMESTAMP).dt.epoch("s")
    if dtype == pl.Date:
        return pl.col(TIMESTAMP).cast(pl.Datetime("us")).dt.epoch("s")
    text = _stripped(TIMESTAMP, dtype).str.replace(r"^(\d{4}-\d{2}-\d{2})$", "${1}T00:00:00").str.replace(r"[ t]", "T")
    text = text.str.replace(r"\s*([Zz]|UTC)$", "+00:00").str.replace(r"(T[^+-]*)$", "${1}+00:00").str.replace(",", ".")
    text = text.str.replace(r"T(\d{2}:\d{2})([+-])", "T${1}:00${2}")
    return text.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%#z", strict=False, time_unit="us").dt.epoch("s")


def finer_unit(settings: DataSettings, value: float) -> str | None:
    """The unit in which a timestamp (in declared units) is a plausible date; None if there is none."""
    units = list(PER_SECOND)
    if settings.timestamp_unit not in units:
        return None
    later = units[units.index(settings.timestamp_unit) + 1 :]
    return next((unit for unit in later if value // PER_SECOND[unit] < FAR_FUTURE), None)


def _in_time_order(data: pa.PolarsData) -> pl.LazyFrame:
    return data.lazyframe.select(pl.col(TIMESTAMP).diff().fill_null(0) >= 0)


def _between_two_users(data: pa.PolarsData) -> pl.LazyFrame:
    return data.lazyframe.select(pl.col(ACTOR) != pl.col(TARGET))


def _action_is_a_label(data: pa.PolarsData) -> bool:
    return isinstance(data.lazyframe.collect_schema()[ACTION], pl.Enum)


def _numbered_in_order(data: pa.PolarsData) -> pl.LazyFrame:
    return data.lazyframe.select(pl.col(USER).diff().fill_null(1) == 1)


def _unique_ids(data: pa.PolarsData) -> pl.LazyFrame:
    return data.lazyframe.select(pl.col(USER_ID).is_unique() & pl.col(USER_ID).is_not_null())


def _labels_and_numbers(data: pa.PolarsData) -> bool:
    kinds = list(data.lazyframe.collect_schema().items())[1:]
    return all(isinstance(dtype, pl.Enum) or dtype == pl.Float32 for _, dtype in kinds)


def _finite_or_missing(data: pa.PolarsData) -> bool:
    finite = data.lazyframe.select(pl.col(pl.Float32).is_finite().all()).collect()
    return all(column.item() for column in finite.get_columns())


NOT_NEGATIVE = pa.Check.ge(0)

EVENTS = pa.DataFrameSchema(
    {
        TIMESTAMP: pa.Column(pl.Int64, NOT_NEGATIVE),
        ACTOR: pa.Column(pl.Int32, NOT_NEGATIVE),
        TARGET: pa.Column(pl.Int32, NOT_NEGATIVE),
        ACTION: pa.Column(None),
        ROLE: pa.Column(ROLES),
    },
    checks=[
        pa.Check(_in_time_order, name="in time order"),
        pa.Check(_between_two_users, name="between two users"),
        pa.Check(_action_is_a_label, name="action is an Enum of labels"),
    ],
    strict=True,
    ordered=True,
    name="events.parquet: accepted events in time order, users by their dense number",
)

USERS = pa.DataFrameSchema(
    {
        USER: pa.Column(pl.Int32, NOT_NEGATIVE),
        USER_ID: pa.Column(None),
        FIRST_SEEN: pa.Column(pl.Int64, NOT_NEGATIVE, nullable=True),
        LAST_SEEN: pa.Column(pl.Int64, NOT_NEGATIVE, nullable=True),
        DONE: pa.Column(pl.Int64, NOT_NEGATIVE),
        RECEIVED: pa.Column(pl.Int64, NOT_NEGATIVE),
        DEGREE: pa.Column(pl.Int64, NOT_NEGATIVE),
        OPTED_OUT: pa.Column(pl.Boolean),
    },
    checks=[pa.Check(_numbered_in_order, name="numbered in order"), pa.Check(_unique_ids, name="unique user ids")],
    strict=True,
    ordered=True,
    name="users.parquet: row k is the user with dense number k",
)

ATTRIBUTES = pa.DataFrameSchema(
    {USER: pa.Column(pl.Int32, NOT_NEGATIVE)},
    checks=[
        pa.Check(_numbered_in_order, name="numbered in order"),
        pa.Check(_labels_and_numbers, name="attributes are Enums of labels or Float32"),
        pa.Check(_finite_or_missing, name="numbers are finite or missing"),
    ],
    name="attributes.parquet: row k is the user with dense number k, with a column for each attribute",
)

REJECTED = pa.DataFrameSchema(
    {
        FILE: pa.Column(pl.String),
        ROW: pa.Column(pl.Int64, pa.Check.ge(1)),
        REASON: pa.Column(pl.String, pa.Check.isin(list(REASONS))),
        RAW: pa.Column(pl.String),
    },
    strict=True,
    ordered=True,
    name="rejected.parquet: every refused row as it was, where it stood, and why",
)


def read_table(path: Path, contract: pa.DataFrameSchema) -> pl.DataFrame:
    """A Parquet table that keeps its contract; else a DataError."""
    if not path.is_file():
        raise DataError(f"there is no {path}. Run `dvc repro validate` first.")
    try:
        table = pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path} is damaged: {error}. Run `dvc repro --force validate`.") from None
    return check(table, contract, path)


def check(table: pl.DataFrame, contract: pa.DataFrameSchema, path: Path) -> pl.DataFrame:
    """The table, if it keeps its contract; else a DataError that lists every breach.

    Events are checked in slices, which share a row with the one before, so that every pair of neighbours is seen.
    """
    at_once = CHECKED_AT_ONCE if contract is EVENTS else max(table.height, 1)
    for start in range(0, max(table.height, 1), at_once):
        try:
            contract.validate(table[max(start - 1, 0) : start + at_once], lazy=True)
        except SchemaErrors as error:
            cases = error.failure_cases.group_by("column", "check").len().sort("column", "check")
            breaches = "\n".join(f"  {column or 'table'}: {what} ({n}x)" for column, what, n in cases.iter_rows())
            raise DataError(
                f"{path} breaks its contract ({contract.name}):\n{breaches}\n"
                "It was changed or damaged after it was written: run `dvc repro --force validate`."
            ) from None
    return table
