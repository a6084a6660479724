"""Chunks of raw rows, which every reader yields, and the mapping from the columns of a file to the fields of a row.

Fields have the names in `befriend.data.columns`, whatever the columns of the file are called.
"""

from __future__ import annotations

import json
from collections.abc import Container
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote

import numpy as np
import polars as pl

from befriend.data.columns import CATEGORICAL, EVENT_FIELDS, NUMERIC, RAW, TIME_OF_DAY, USER_ID
from befriend.errors import DataError, explain
from befriend.readers.data_settings import AttributeSettings, DataSettings, StatementSettings, TextSettings

TAG_PATTERN = r"[^<>,|]+"  # one tag in a string of several: <a><b>, a,b or a|b
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"  # the value of a partition for missing values
MAX_COLUMN_LIST_LENGTH = 400  # characters of a list of columns in a message
NO_PART = (
    "If it is no part of the log, take it out of the folder, begin its name with _, or, if it is a table of users, "
    "name it with --attributes; otherwise correct section data of params.yaml."
)


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of one file."""

    file: str
    """file name, relative to the source"""
    rows: pl.DataFrame
    """the fields of each row, not yet converted to their types, and two more columns:
    `row`: the line number in a text file (header included) or the row number in a Parquet file, from 1;
    `reason`: why the reader rejects the row, such as ragged_row, a key of REASONS; null if it does not"""
    raw: Any
    """the same rows in their original form: a polars Series of lines, or a pyarrow RecordBatch"""
    num_comments: int = 0
    """number of comment lines among the rows"""

    def filter(self, mask: pl.Series) -> Chunk:
        """The chunk with the rows where the mask is true. mask: bool, one value per row."""
        raw = self.raw.filter(mask if isinstance(self.raw, pl.Series) else mask.to_arrow())
        return replace(self, rows=self.rows.filter(mask), raw=raw)

    def raw_text(self, mask: pl.Series) -> pl.Series:
        """The rows where the mask is true, as text: a line unchanged, a row of a Parquet file as JSON.

        mask: bool, one value per row.
        """
        if isinstance(self.raw, pl.Series):
            return self.raw.filter(mask).alias(RAW)
        rows = self.raw.take(np.flatnonzero(mask.to_numpy())).to_pylist()
        return pl.Series(RAW, [json.dumps(row, default=str, ensure_ascii=False) for row in rows], dtype=pl.String)


@dataclass(frozen=True)
class ColumnMapping:
    """Which columns of a file to read, and the field that each one becomes."""

    columns: dict[str, str | int]
    """field -> its column: the column's name or, in a file without header, its number, from 1"""
    section: str
    """the section of params.yaml that names the columns, for error messages"""


def event_columns(settings: DataSettings) -> ColumnMapping:
    """The mapping for events; without the action and the time of day if the log has no column for them."""
    columns = {field: getattr(settings.columns, field) for field in (*EVENT_FIELDS, TIME_OF_DAY)}
    return ColumnMapping({field: column for field, column in columns.items() if column is not None}, "data.columns")


def attribute_columns(settings: AttributeSettings) -> ColumnMapping:
    """The mapping for the table of users: the user id, and a field such as `categorical.country` for each attribute.

    The column that marks users who opted out is a categorical one.
    """
    categorical = [*settings.categorical, *([settings.opt_out] if settings.opt_out else [])]
    columns_by_kind = {CATEGORICAL: categorical, NUMERIC: settings.numeric}
    attributes: dict[str, str | int] = {
        f"{kind}.{name}": name for kind, names in columns_by_kind.items() for name in names
    }
    return ColumnMapping({USER_ID: settings.user_id, **attributes}, "data.attributes")


def text_columns(settings: TextSettings) -> ColumnMapping:
    """The mapping for texts: the fields that have a column in the settings."""
    return ColumnMapping(_named_columns(settings), "data.texts")


def statement_columns(settings: StatementSettings) -> ColumnMapping:
    """The mapping for statements: the fields that have a column in the settings."""
    return ColumnMapping(_named_columns(settings), "data.statements")


def _named_columns(settings: TextSettings | StatementSettings) -> dict[str, str | int]:
    """Field -> column, for each setting that names a column; the field has the name of the setting."""
    return {field: column for field, column in settings if field != "file" and column is not None}


def require_columns(mapping: ColumnMapping, names: list[str], file: Path) -> None:
    """Raises a DataError unless a file has each column of the mapping exactly once. names: the columns of the file."""
    columns = mapping.columns
    missing = [f"{column} ({mapping.section}.{field})" for field, column in columns.items() if column not in names]
    if missing:
        column_list = ", ".join(names) or "no columns"
        shown = f"{column_list[:MAX_COLUMN_LIST_LENGTH]}{'...' * (len(column_list) > MAX_COLUMN_LIST_LENGTH)}"
        if len(missing) == len(columns) and mapping.section == "data.columns":
            raise DataError(f"{file.name} has none of the columns {', '.join(missing)}. It has: {shown}. {NO_PART}")
        raise DataError(
            f"{file.name} has no column {', '.join(missing)}. It has: {shown}. "
            f"Name the right columns under {mapping.section} in params.yaml."
        )
    repeated = sorted({str(column) for column in columns.values() if names.count(str(column)) > 1})
    if repeated:
        raise DataError(f"{file.name} has more than one column named {', '.join(repeated)}. Give each its own name.")


def relative_name(file: Path, source: Path) -> str:
    """The path of a file relative to the source; its name if the file is itself the source."""
    return file.name if source == file else str(file.relative_to(source))


def split_constants(
    mapping: ColumnMapping, names: Container[str], file: Path, source: Path
) -> tuple[ColumnMapping, list[pl.Expr]]:
    """The mapping of the columns that a file has, and constant fields, the keys of its partitioned folders.

    names: the columns of the file, which come before keys of the same name.
    """
    partitions = partition_values(file, source)
    constants = {field: c for field, c in mapping.columns.items() if c in partitions and c not in names}
    columns = {field: column for field, column in mapping.columns.items() if field not in constants}
    fields = [pl.lit(partitions[column], pl.String).alias(field) for field, column in constants.items()]
    return ColumnMapping(columns, mapping.section), fields


def partition_values(file: Path, source: Path) -> dict[str | int, str | None]:
    """Key -> value of the partitioned folders in which a file lies: {"action": "like"} for action=like/part-0.csv."""
    if source == file:
        return {}
    pairs = (folder.split("=", 1) for folder in file.relative_to(source).parts[:-1] if "=" in folder)
    return {key: None if value == HIVE_NULL else unquote(value) for key, value in pairs}


def raise_damaged(error: Exception, problem: str) -> NoReturn:
    """Raises a DataError with the text `problem`; another error, such as StorageError, if the content is not at fault.

    error: the exception of the library that read the file.
    """
    explained = explain(error)
    if explained is not None:
        raise explained from None
    first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise DataError(f"{problem}: {first_line}. It may be truncated: fetch it again.") from None
