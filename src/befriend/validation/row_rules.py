"""Checks raw rows: converts their fields to the types of the prepared tables, and gives the reason to reject a row."""

from __future__ import annotations

import polars as pl

from befriend.data.columns import (
    ACTION,
    ACTOR,
    CATEGORICAL,
    CONTEXT,
    NANOSECOND,
    PLATFORM,
    REASON,
    ROW,
    STATEMENT,
    TAGS,
    TARGET,
    TEXT,
    TIME_OF_DAY,
    TIMESTAMP,
    TITLE,
    USER_ID,
)
from befriend.data.external_ids import read_ids
from befriend.readers.chunk import TAG_PATTERN
from befriend.readers.data_settings import DataSettings
from befriend.readers.timestamps import LAST_SECOND, read_timestamps

USER_ID_CONDITIONS: list[tuple[pl.Expr, str]] = [
    (pl.col(f"_no_{USER_ID}"), "user_id_empty"),
    (pl.col(USER_ID).is_null(), "user_id_type"),
]
"""conditions on the user id, each with its reason to reject a row"""


def check_event_rows(rows: pl.DataFrame, settings: DataSettings, latest: int | None) -> pl.DataFrame:
    """Rows of events with typed fields and a `reason`, a key of REASONS, for each row to reject.

    Ids become Int64 or String, timestamps UTC seconds, actions their labels after renaming. A field that cannot be read
    becomes null. rows: those of a `befriend.readers.chunk.Chunk`. latest: UTC second after which an event is rejected;
    None accepts any.
    """
    label = _stripped(ACTION, rows[ACTION].dtype)
    if settings.rename_actions:
        label = label.replace(settings.rename_actions)
    ids = (*_ids(rows, ACTOR, settings), *_ids(rows, TARGET, settings))
    typed = rows.with_columns(*ids, *_times(rows, settings)).with_columns(label.alias(ACTION))
    conditions: list[tuple[pl.Expr, str]] = [
        (pl.col(f"_no_{ACTOR}"), "actor_id_empty"),
        (pl.col(ACTOR).is_null(), "actor_id_type"),
        (pl.col(f"_no_{TARGET}"), "target_id_empty"),
        (pl.col(TARGET).is_null(), "target_id_type"),
        (pl.col(ACTION).is_null(), "action_empty"),
        (pl.lit(False) if settings.actions is None else ~pl.col(ACTION).is_in(settings.actions), "action_unknown"),
        *_timestamp_conditions(latest),
    ]
    return typed.select(ROW, ACTOR, ACTION, TARGET, TIMESTAMP, NANOSECOND, _first_reason(conditions))


def check_attribute_rows(rows: pl.DataFrame, settings: DataSettings) -> pl.DataFrame:
    """Rows of a table of users with typed fields and a `reason`, a key of REASONS, for each row to reject.

    The user id becomes Int64 or String, labels String, numbers Float32, which may be infinite or NaN. An empty field
    becomes null. rows: those of a `befriend.readers.chunk.Chunk`.
    """
    attributes = [name for name in rows.columns if name not in (ROW, USER_ID, REASON)]
    categorical = [name for name in attributes if name.split(".")[0] == CATEGORICAL]
    numeric = [name for name in attributes if name not in categorical]
    typed = rows.with_columns(
        *_ids(rows, USER_ID, settings),
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
        *_ids(rows, USER_ID, settings),
        *_times(rows, settings),
        *(_tags(rows[TAGS].dtype) if name == TAGS else _stripped(name, rows[name].dtype) for name in fields),
    )
    conditions = [*USER_ID_CONDITIONS, *_timestamp_conditions(latest), (pl.col(TEXT).is_null(), "text_empty")]
    return typed.select(ROW, USER_ID, TIMESTAMP, *fields, _first_reason(conditions))


def check_statement_rows(rows: pl.DataFrame, settings: DataSettings) -> pl.DataFrame:
    """As `check_text_rows`, for a table of statements, which have no timestamp."""
    fields = [name for name in (STATEMENT, CONTEXT) if name in rows.columns]
    typed = rows.with_columns(*_ids(rows, USER_ID, settings), *(_stripped(name, rows[name].dtype) for name in fields))
    conditions = [*USER_ID_CONDITIONS, (pl.col(STATEMENT).is_null(), "statement_empty")]
    return typed.select(ROW, USER_ID, *fields, _first_reason(conditions))


def _first_reason(conditions: list[tuple[pl.Expr, str]]) -> pl.Expr:
    """The reason that the reader gave a row, else that of the first condition that is true, else null.

    conditions: (condition, reason).
    """
    return pl.coalesce(REASON, *(pl.when(condition).then(pl.lit(code)) for condition, code in conditions)).alias(REASON)


def _ids(rows: pl.DataFrame, name: str, settings: DataSettings) -> list[pl.Series]:
    """The typed ids of a column, and whether each is empty (`_no_...`)."""
    dtype = pl.Int64() if settings.id_type == "integer" else pl.String()
    ids, is_empty = read_ids(rows[name], dtype, settings.null_words)
    return [ids, is_empty.alias(f"_no_{name}")]


def _times(rows: pl.DataFrame, settings: DataSettings) -> list[pl.Series]:
    """The timestamp in UTC seconds and nanoseconds, and whether it is empty (`_no_timestamp`)."""
    column = rows[TIMESTAMP]
    if TIME_OF_DAY in rows.columns:
        date = column.cast(pl.Date) if column.dtype.is_temporal() else column
        parts = rows.with_columns(date).select(
            _stripped(TIMESTAMP, date.dtype), _stripped(TIME_OF_DAY, rows[TIME_OF_DAY].dtype)
        )
        column = parts.select(pl.concat_str(TIMESTAMP, TIME_OF_DAY, separator=" "))[TIMESTAMP]
    second, nanosecond = read_timestamps(column, settings.timestamp_unit)
    text_or_null = column.str.strip_chars().replace("", None) if column.dtype == pl.String else column
    is_empty = text_or_null.fill_nan(None).is_null() if column.dtype.is_float() else text_or_null.is_null()
    return [second.alias(TIMESTAMP), nanosecond.alias(NANOSECOND), is_empty.alias(f"_no_{TIMESTAMP}")]


def _timestamp_conditions(latest: int | None) -> list[tuple[pl.Expr, str]]:
    """Conditions on the timestamp, each with its reason to reject a row."""
    return [
        (pl.col(f"_no_{TIMESTAMP}"), "timestamp_empty"),
        (pl.col(TIMESTAMP).is_null(), "timestamp_type"),
        (pl.col(TIMESTAMP) < 0, "timestamp_negative"),
        (pl.col(TIMESTAMP) > LAST_SECOND, "timestamp_unit"),
        (pl.lit(False) if latest is None else pl.col(TIMESTAMP) > latest, "timestamp_later"),
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
