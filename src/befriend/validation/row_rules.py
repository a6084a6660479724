"""Checks raw rows: converts their fields to the types of the prepared tables, and gives the reason to reject a row."""

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
from befriend.readers.chunk import INTEGER_PATTERN, TAG_PATTERN
from befriend.readers.data_settings import DataSettings

UNITS_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
FAR_FUTURE = 10**11  # UTC second in the year 5138: a larger number must be in a finer unit than seconds
USER_ID_CONDITIONS: list[tuple[pl.Expr, str]] = [
    (pl.col("_no_id"), "user_id_empty"),
    (pl.col(USER_ID).is_null(), "user_id_type"),
]
"""conditions on the user id, each with its reason to reject a row"""


def check_event_rows(rows: pl.DataFrame, settings: DataSettings, latest: int | None) -> pl.DataFrame:
    """Rows of events with typed fields and a `reason`, a key of REASONS, for each row to reject.

    Ids become Int64 or String, timestamps UTC seconds, actions their labels after renaming. A field that cannot be read
    becomes null. rows: those of a `befriend.readers.chunk.Chunk`. latest: UTC second after which an event is rejected;
    None accepts any.
    """
    dtypes = {field: rows[field].dtype for field in (ACTOR, ACTION, TARGET, TIMESTAMP)}
    read_id = _integer if settings.id_type == "integer" else _text
    label = _stripped(ACTION, dtypes[ACTION])
    if settings.rename_actions:
        label = label.replace(settings.rename_actions)
    typed = rows.with_columns(
        read_id(ACTOR, dtypes[ACTOR]).alias("_actor"),
        read_id(TARGET, dtypes[TARGET]).alias("_target"),
        label.alias("_action"),
        *_second(dtypes[TIMESTAMP], settings),
        *(_stripped(field, dtypes[field]).is_null().alias(f"_no_{field}") for field in (ACTOR, TARGET)),
    )
    conditions: list[tuple[pl.Expr, str]] = [
        (pl.col(f"_no_{ACTOR}"), "actor_id_empty"),
        (pl.col("_actor").is_null(), "actor_id_type"),
        (pl.col(f"_no_{TARGET}"), "target_id_empty"),
        (pl.col("_target").is_null(), "target_id_type"),
        (pl.col("_action").is_null(), "action_empty"),
        (pl.lit(False) if settings.actions is None else ~pl.col("_action").is_in(settings.actions), "action_unknown"),
        *_timestamp_conditions(latest),
    ]
    return typed.select(
        ROW,
        pl.col("_actor").alias(ACTOR),
        pl.col("_action").alias(ACTION),
        pl.col("_target").alias(TARGET),
        pl.col("_second").alias(TIMESTAMP),
        _first_reason(conditions),
    )


def check_attribute_rows(rows: pl.DataFrame, settings: DataSettings) -> pl.DataFrame:
    """Rows of a table of users with typed fields and a `reason`, a key of REASONS, for each row to reject.

    The user id becomes Int64 or String, labels String, numbers Float32, which may be infinite or NaN. An empty field
    becomes null. rows: those of a `befriend.readers.chunk.Chunk`.
    """
    attributes = [name for name in rows.columns if name not in (ROW, USER_ID, REASON)]
    categorical = [name for name in attributes if name.split(".")[0] == CATEGORICAL]
    numeric = [name for name in attributes if name not in categorical]
    typed = rows.with_columns(
        *_user_id(rows[USER_ID].dtype, settings),
        *(_label(name, rows[name].dtype).alias(name) for name in categorical),
        *(_float(name, rows[name].dtype).alias(name) for name in numeric),
        *(_stripped(name, rows[name].dtype).is_not_null().alias(f"_has_value_{name}") for name in numeric),
    )
    conditions = [
        *USER_ID_CONDITIONS,
        *((pl.col(name).is_null() & pl.col(f"_has_value_{name}"), "number_type") for name in numeric),
    ]
    return typed.select(ROW, USER_ID, *attributes, _first_reason(conditions))


def check_text_rows(rows: pl.DataFrame, settings: DataSettings, latest: int | None) -> pl.DataFrame:
    """Rows of a table of texts with typed fields and a `reason`, a key of REASONS, for each row to reject.

    The user id becomes Int64 or String, the timestamp UTC seconds, tags a list of strings, other fields text without
    leading and trailing blanks. An empty field becomes null. Fields that have no column in the settings are missing
    from the result. rows: those of a `befriend.readers.chunk.Chunk`. latest: UTC second after which a text is rejected;
    None accepts any.
    """
    fields = [name for name in (PLATFORM, TEXT, TITLE, TAGS) if name in rows.columns]
    typed = rows.with_columns(
        *_user_id(rows[USER_ID].dtype, settings),
        *_second(rows[TIMESTAMP].dtype, settings),
        *(_tags(rows[TAGS].dtype) if name == TAGS else _stripped(name, rows[name].dtype) for name in fields),
    )
    conditions = [*USER_ID_CONDITIONS, *_timestamp_conditions(latest), (pl.col(TEXT).is_null(), "text_empty")]
    return typed.select(ROW, USER_ID, pl.col("_second").alias(TIMESTAMP), *fields, _first_reason(conditions))


def check_statement_rows(rows: pl.DataFrame, settings: DataSettings) -> pl.DataFrame:
    """As `check_text_rows`, for a table of statements, which have no timestamp."""
    fields = [name for name in (STATEMENT, CONTEXT) if name in rows.columns]
    typed = rows.with_columns(
        *_user_id(rows[USER_ID].dtype, settings), *(_stripped(name, rows[name].dtype) for name in fields)
    )
    conditions = [*USER_ID_CONDITIONS, (pl.col(STATEMENT).is_null(), "statement_empty")]
    return typed.select(ROW, USER_ID, *fields, _first_reason(conditions))


def _first_reason(conditions: list[tuple[pl.Expr, str]]) -> pl.Expr:
    """The reason that the reader gave a row, else that of the first condition that is true, else null.

    conditions: (condition, reason).
    """
    return pl.coalesce(REASON, *(pl.when(condition).then(pl.lit(code)) for condition, code in conditions)).alias(REASON)


def _user_id(dtype: pl.DataType, settings: DataSettings) -> list[pl.Expr]:
    """The typed user id, and whether the field is empty (`_no_id`)."""
    read_id = _integer if settings.id_type == "integer" else _text
    return [read_id(USER_ID, dtype).alias(USER_ID), _stripped(USER_ID, dtype).is_null().alias("_no_id")]


def _second(dtype: pl.DataType, settings: DataSettings) -> list[pl.Expr]:
    """The timestamp in UTC seconds (`_second`), and whether the field is empty (`_no_timestamp`)."""
    if dtype.is_temporal() and settings.timestamp_unit != "iso":
        raise DataError(
            f"the timestamp column holds {dtype}, but data.timestamp_unit is {settings.timestamp_unit}. "
            "Set data.timestamp_unit: iso."
        )
    timestamp = _iso_seconds(dtype) if settings.timestamp_unit == "iso" else _integer_timestamp(dtype)
    return [
        (timestamp // UNITS_PER_SECOND.get(settings.timestamp_unit, 1)).alias("_second"),
        _stripped(TIMESTAMP, dtype).is_null().alias(f"_no_{TIMESTAMP}"),
    ]


def _timestamp_conditions(latest: int | None) -> list[tuple[pl.Expr, str]]:
    """Conditions on the timestamp, each with its reason to reject a row."""
    return [
        (pl.col(f"_no_{TIMESTAMP}"), "timestamp_empty"),
        (pl.col("_second").is_null(), "timestamp_type"),
        (pl.col("_second") < 0, "timestamp_negative"),
        (pl.col("_second") > FAR_FUTURE, "timestamp_unit"),
        (pl.lit(False) if latest is None else pl.col("_second") > latest, "timestamp_later"),
    ]


def _tags(dtype: pl.DataType) -> pl.Expr:
    """Tags as a list of strings, from a list or from text such as <a><b>; hyphens and underscores become blanks."""
    tags = pl.col(TAGS).cast(pl.List(pl.String))
    if not isinstance(dtype, pl.List):
        tags = pl.col(TAGS).cast(pl.String).str.extract_all(TAG_PATTERN)
    cleaned = tags.list.eval(pl.element().str.replace_all(r"[-_\s]+", " ").str.strip_chars())
    return cleaned.list.filter(pl.element() != "")


def _text(name: str, dtype: pl.DataType) -> pl.Expr:
    """The column as unchanged text; null where it is blank."""
    text = pl.col(name) if dtype == pl.String else pl.col(name).cast(pl.String, strict=False)
    return pl.when(text.str.strip_chars() != "").then(text)


def _stripped(name: str, dtype: pl.DataType) -> pl.Expr:
    """The column as text without leading and trailing blanks; null where it is blank."""
    return _text(name, dtype).str.strip_chars()


def _integer(name: str, dtype: pl.DataType) -> pl.Expr:
    """The column as Int64; null where it is not an integer in canonical form.

    007 and +7 become null, since they would silently be merged with user 7.
    """
    if dtype.is_integer():
        return pl.col(name).cast(pl.Int64, strict=False)
    if dtype.is_float():
        return pl.when(pl.col(name) == pl.col(name).floor()).then(pl.col(name)).cast(pl.Int64, strict=False)
    text = _stripped(name, dtype)
    return pl.when(text.str.contains(INTEGER_PATTERN)).then(text).cast(pl.Int64, strict=False)


def _label(name: str, dtype: pl.DataType) -> pl.Expr:
    """The column as text. Missing values may have turned integers into floats: these get no fraction (3, not 3.0)."""
    if not dtype.is_float():
        return _stripped(name, dtype)
    number = pl.col(name).fill_nan(None)
    integer = pl.when(number == number.floor()).then(number).cast(pl.Int64, strict=False).cast(pl.String)
    return pl.coalesce(integer, number.cast(pl.String))


def _float(name: str, dtype: pl.DataType) -> pl.Expr:
    """The column as Float32; null where it cannot be read."""
    number = pl.col(name) if dtype.is_numeric() or dtype == pl.Boolean else _stripped(name, dtype)
    return number.cast(pl.Float64, strict=False).cast(pl.Float32)


def _integer_timestamp(dtype: pl.DataType) -> pl.Expr:
    """Timestamps as Int64, from numbers or text. A fraction of zeros, which some exports write, is accepted."""
    if dtype.is_integer() or dtype.is_float():
        return _integer(TIMESTAMP, dtype)
    return _stripped(TIMESTAMP, dtype).str.replace(r"\.0*$", "").cast(pl.Int64, strict=False)


def _iso_seconds(dtype: pl.DataType) -> pl.Expr:
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
    """The coarsest unit, finer than that of the settings, in which a timestamp is not in the far future; else None.

    value: the timestamp as it is in the log.
    """
    units = list(UNITS_PER_SECOND)
    if settings.timestamp_unit not in units:
        return None
    finer_units = units[units.index(settings.timestamp_unit) + 1 :]
    return next((unit for unit in finer_units if value // UNITS_PER_SECOND[unit] < FAR_FUTURE), None)
