"""What makes a raw row valid: converts the fields of raw rows, and gives the first reason to refuse a row."""

from __future__ import annotations

import polars as pl

from befriend.data.columns import (
    ACTION,
    ACTOR,
    CATEGORICAL,
    CONTEXT,
    PLATFORM,
    REASON,
    ROW,
    STATEMENT,
    TAGS,
    TARGET,
    TEXT,
    TIMESTAMP,
    TITLE,
    USER_ID,
)
from befriend.errors import DataError
from befriend.readers.chunk import TAG, WHOLE
from befriend.readers.data_settings import DataSettings

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
FAR_FUTURE = 10**11  # UTC second in the year 5138: a larger number must be in a finer unit than seconds
WRONG_IDS: list[tuple[pl.Expr, str]] = [
    (pl.col("_no_id"), "user_id_empty"),
    (pl.col(USER_ID).is_null(), "user_id_type"),
]


def check_rows(rows: pl.DataFrame, settings: DataSettings, latest: int | None) -> pl.DataFrame:
    """The event rows with typed fields and, for each row that must be refused, a `reason` (a key of REASONS).

    rows: of a Chunk. Ids become Int64 or String, timestamps UTC seconds, actions their renamed labels. A field that
    cannot be read becomes null. latest: UTC second after which an event is refused; None accepts any.
    """
    types = {field: rows[field].dtype for field in (ACTOR, ACTION, TARGET, TIMESTAMP)}
    read_id = _integer if settings.id_type == "integer" else _text
    label = _stripped(ACTION, types[ACTION])
    if settings.rename_actions:
        label = label.replace(settings.rename_actions)
    typed = rows.with_columns(
        read_id(ACTOR, types[ACTOR]).alias("_actor"),
        read_id(TARGET, types[TARGET]).alias("_target"),
        label.alias("_action"),
        *_second(types[TIMESTAMP], settings),
        *(_stripped(field, types[field]).is_null().alias(f"_no_{field}") for field in (ACTOR, TARGET)),
    )
    refusals: list[tuple[pl.Expr, str]] = [
        (pl.col(f"_no_{ACTOR}"), "actor_id_empty"),
        (pl.col("_actor").is_null(), "actor_id_type"),
        (pl.col(f"_no_{TARGET}"), "target_id_empty"),
        (pl.col("_target").is_null(), "target_id_type"),
        (pl.col("_action").is_null(), "action_empty"),
        (pl.lit(False) if settings.actions is None else ~pl.col("_action").is_in(settings.actions), "action_unknown"),
        *_wrong_times(latest),
    ]
    return typed.select(
        ROW,
        pl.col("_actor").alias(ACTOR),
        pl.col("_action").alias(ACTION),
        pl.col("_target").alias(TARGET),
        pl.col("_second").alias(TIMESTAMP),
        _first_reason(refusals),
    )


def check_attribute_rows(rows: pl.DataFrame, settings: DataSettings) -> pl.DataFrame:
    """The rows of a table of users with typed fields and, for each row that must be refused, a `reason`.

    rows: of a Chunk. The user id becomes Int64 or String, labels String, numbers Float32, which may be infinite or NaN;
    an empty field becomes null.
    """
    attributes = [name for name in rows.columns if name not in (ROW, USER_ID, REASON)]
    labels = [name for name in attributes if name.split(".")[0] == CATEGORICAL]
    numbers = [name for name in attributes if name not in labels]
    typed = rows.with_columns(
        *_user_id(rows[USER_ID].dtype, settings),
        *(_label(name, rows[name].dtype).alias(name) for name in labels),
        *(_float(name, rows[name].dtype).alias(name) for name in numbers),
        *(_stripped(name, rows[name].dtype).is_not_null().alias(f"_given_{name}") for name in numbers),
    )
    refusals = [
        *WRONG_IDS,
        *((pl.col(name).is_null() & pl.col(f"_given_{name}"), "number_type") for name in numbers),
    ]
    return typed.select(ROW, USER_ID, *attributes, _first_reason(refusals))


def check_text_rows(rows: pl.DataFrame, settings: DataSettings, latest: int | None) -> pl.DataFrame:
    """The rows of a table of texts with typed fields and, for each row that must be refused, a `reason`.

    rows: of a Chunk. The user id becomes Int64 or String, the timestamp UTC seconds, tags a list of strings, all other
    fields text without the blanks around it; an empty field becomes null. Fields that the settings do not name are
    missing from the result. latest: UTC second after which a text is refused; None accepts any.
    """
    named = [name for name in (PLATFORM, TEXT, TITLE, TAGS) if name in rows.columns]
    typed = rows.with_columns(
        *_user_id(rows[USER_ID].dtype, settings),
        *_second(rows[TIMESTAMP].dtype, settings),
        *(_tags(rows[TAGS].dtype) if name == TAGS else _stripped(name, rows[name].dtype) for name in named),
    )
    refusals = [*WRONG_IDS, *_wrong_times(latest), (pl.col(TEXT).is_null(), "text_empty")]
    return typed.select(ROW, USER_ID, pl.col("_second").alias(TIMESTAMP), *named, _first_reason(refusals))


def check_statement_rows(rows: pl.DataFrame, settings: DataSettings) -> pl.DataFrame:
    """The same for a table of statements, which have no time."""
    named = [name for name in (STATEMENT, CONTEXT) if name in rows.columns]
    typed = rows.with_columns(
        *_user_id(rows[USER_ID].dtype, settings), *(_stripped(name, rows[name].dtype) for name in named)
    )
    refusals = [*WRONG_IDS, (pl.col(STATEMENT).is_null(), "statement_empty")]
    return typed.select(ROW, USER_ID, *named, _first_reason(refusals))


def _first_reason(refusals: list[tuple[pl.Expr, str]]) -> pl.Expr:
    """The reason that the reader gave a row, else the reason of the first condition that it meets, else null."""
    return pl.coalesce(REASON, *(pl.when(condition).then(pl.lit(code)) for condition, code in refusals)).alias(REASON)


def _user_id(dtype: pl.DataType, settings: DataSettings) -> list[pl.Expr]:
    """The typed user id, and whether the field is empty (`_no_id`)."""
    read_id = _integer if settings.id_type == "integer" else _text
    return [read_id(USER_ID, dtype).alias(USER_ID), _stripped(USER_ID, dtype).is_null().alias("_no_id")]


def _second(dtype: pl.DataType, settings: DataSettings) -> list[pl.Expr]:
    """The timestamp in UTC seconds (`_second`), and whether the field is empty."""
    if dtype.is_temporal() and settings.timestamp_unit != "iso":
        raise DataError(
            f"the timestamp column holds {dtype}, but data.timestamp_unit is {settings.timestamp_unit}. "
            "Set data.timestamp_unit: iso."
        )
    second = _iso(dtype) if settings.timestamp_unit == "iso" else _number(dtype)
    return [
        (second // PER_SECOND.get(settings.timestamp_unit, 1)).alias("_second"),
        _stripped(TIMESTAMP, dtype).is_null().alias(f"_no_{TIMESTAMP}"),
    ]


def _wrong_times(latest: int | None) -> list[tuple[pl.Expr, str]]:
    """Conditions on the timestamp, each with its reason to refuse a row."""
    return [
        (pl.col(f"_no_{TIMESTAMP}"), "timestamp_empty"),
        (pl.col("_second").is_null(), "timestamp_type"),
        (pl.col("_second") < 0, "timestamp_negative"),
        (pl.col("_second") > FAR_FUTURE, "timestamp_unit"),
        (pl.lit(False) if latest is None else pl.col("_second") > latest, "timestamp_later"),
    ]


def _tags(dtype: pl.DataType) -> pl.Expr:
    """Tags as a list of strings, from a list or from text such as <a><b>; - and _ become spaces."""
    tags = pl.col(TAGS).cast(pl.List(pl.String))
    if not isinstance(dtype, pl.List):
        tags = pl.col(TAGS).cast(pl.String).str.extract_all(TAG)
    cleaned = tags.list.eval(pl.element().str.replace_all(r"[-_\s]+", " ").str.strip_chars())
    return cleaned.list.filter(pl.element() != "")


def _text(name: str, dtype: pl.DataType) -> pl.Expr:
    """The column as unchanged text; null where it is blank."""
    text = pl.col(name) if dtype == pl.String else pl.col(name).cast(pl.String, strict=False)
    return pl.when(text.str.strip_chars() != "").then(text)


def _stripped(name: str, dtype: pl.DataType) -> pl.Expr:
    """The column as text without the blanks around it; null where it is blank."""
    return _text(name, dtype).str.strip_chars()


def _integer(name: str, dtype: pl.DataType) -> pl.Expr:
    """The column as Int64; null where it is not a whole number in its usual form.

    007 and +7 are refused: they would silently be merged with user 7.
    """
    if dtype.is_integer():
        return pl.col(name).cast(pl.Int64, strict=False)
    if dtype.is_float():
        return pl.when(pl.col(name) == pl.col(name).floor()).then(pl.col(name)).cast(pl.Int64, strict=False)
    text = _stripped(name, dtype)
    return pl.when(text.str.contains(WHOLE)).then(text).cast(pl.Int64, strict=False)


def _label(name: str, dtype: pl.DataType) -> pl.Expr:
    """The column as text; whole numbers without a fraction, even if missing values made the column one of floats."""
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
    """Timestamps as Int64: whole numbers, also as text with a fraction of zeros, which some exports write."""
    if dtype.is_integer() or dtype.is_float():
        return _integer(TIMESTAMP, dtype)
    return _stripped(TIMESTAMP, dtype).str.replace(r"\.0*$", "").cast(pl.Int64, strict=False)


def _iso(dtype: pl.DataType) -> pl.Expr:
    """UTC seconds of a datetime column or of ISO 8601 text; a time without zone is UTC."""
    if isinstance(dtype, pl.Datetime):
        return pl.col(TIMESTAMP).dt.epoch("s")
    if dtype == pl.Date:
        return pl.col(TIMESTAMP).cast(pl.Datetime("us")).dt.epoch("s")
    text = _stripped(TIMESTAMP, dtype).str.replace(r"^(\d{4}-\d{2}-\d{2})$", "${1}T00:00:00").str.replace(r"[ t]", "T")
    text = text.str.replace(r"\s*([Zz]|UTC)$", "+00:00").str.replace(r"(T[^+-]*)$", "${1}+00:00").str.replace(",", ".")
    text = text.str.replace(r"T(\d{2}:\d{2})([+-])", "T${1}:00${2}")
    return text.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%#z", strict=False, time_unit="us").dt.epoch("s")


def finer_unit(settings: DataSettings, value: float) -> str | None:
    """The coarsest unit below the declared one in which a timestamp is a plausible date; None if there is none."""
    units = list(PER_SECOND)
    if settings.timestamp_unit not in units:
        return None
    finer = units[units.index(settings.timestamp_unit) + 1 :]
    return next((unit for unit in finer if value // PER_SECOND[unit] < FAR_FUTURE), None)
