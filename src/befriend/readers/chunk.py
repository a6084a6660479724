"""A chunk of raw rows, as every reader yields them, and which columns of a file to read."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import polars as pl

from befriend.data.columns import CATEGORICAL, EVENT_FIELDS, NUMERIC, RAW, USER_ID
from befriend.errors import DataError, explain
from befriend.readers.data_settings import AttributeSettings, DataSettings, StatementSettings, TextSettings

WHOLE = r"^-?(0|[1-9][0-9]*)$"  # a whole number in its usual form: neither 007 nor +7
TAG = r"[^<>,|]+"  # one tag in a text of several: <a><b>, a,b or a|b
SHOWN_NAMES = 400  # most characters of a list of columns in a message


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of one file."""

    file: str
    """file name, relative to the source"""
    rows: pl.DataFrame
    """the fields to read, of any type; `row`, from 1: the line of a text file, header included, or the row of a table;
    `reason`: null unless the row cannot even be split into fields"""
    raw: Any
    """the same rows in their original form: a polars Series of lines, or a pyarrow RecordBatch"""

    def only(self, mask: pl.Series) -> Chunk:
        """The chunk with only the rows of a mask (bool, one value per row)."""
        raw = self.raw.filter(mask if isinstance(self.raw, pl.Series) else mask.to_arrow())
        return replace(self, rows=self.rows.filter(mask), raw=raw)

    def raw_text(self, mask: pl.Series) -> pl.Series:
        """The rows of a mask (bool, one value per row) as text: a line unchanged, a table's row as JSON."""
        if isinstance(self.raw, pl.Series):
            return self.raw.filter(mask).alias(RAW)
        rows = self.raw.take(np.flatnonzero(mask.to_numpy())).to_pylist()
        return pl.Series(RAW, [json.dumps(row, default=str, ensure_ascii=False) for row in rows], dtype=pl.String)


@dataclass(frozen=True)
class ColumnMapping:
    """Which columns of a file to read, and the field that each becomes."""

    columns: dict[str, str | int]
    """field -> its column: the name or, in a file without header, the number, from 1"""
    section: str
    """the section of params.yaml that defines the columns"""


def event_columns(settings: DataSettings) -> ColumnMapping:
    """The fields of an event, without the action where the log has no such column."""
    columns = {field: getattr(settings.columns, field) for field in EVENT_FIELDS}
    return ColumnMapping({field: column for field, column in columns.items() if column is not None}, "data.columns")


def attribute_columns(settings: AttributeSettings) -> ColumnMapping:
    """The user id and the attributes, whose fields are prefixed with their kind: `categorical.country`."""
    labels = [*settings.categorical, *([settings.opt_out] if settings.opt_out else [])]
    kinds = {CATEGORICAL: labels, NUMERIC: settings.numeric}
    attributes: dict[str, str | int] = {f"{kind}.{name}": name for kind, names in kinds.items() for name in names}
    return ColumnMapping({USER_ID: settings.user_id, **attributes}, "data.attributes")


def text_columns(settings: TextSettings) -> ColumnMapping:
    """The fields of a text that the settings name."""
    return ColumnMapping(_named_columns(settings), "data.texts")


def statement_columns(settings: StatementSettings) -> ColumnMapping:
    """The fields of a statement that the settings name."""
    return ColumnMapping(_named_columns(settings), "data.statements")


def _named_columns(settings: TextSettings | StatementSettings) -> dict[str, str | int]:
    """Field -> column, for all settings that name a column; a field has the name of its setting."""
    return {field: column for field, column in settings if field != "file" and column is not None}


def require_columns(mapping: ColumnMapping, names: list[str], file: Path) -> None:
    """DataError unless the file has each column of the mapping exactly once. names: the columns of the file."""
    columns = mapping.columns
    missing = [f"{column} ({mapping.section}.{field})" for field, column in columns.items() if column not in names]
    if missing:
        shown = ", ".join(names) or "no columns"
        raise DataError(
            f"{file.name} has no column {', '.join(missing)}. "
            f"It has: {shown[:SHOWN_NAMES]}{'...' * (len(shown) > SHOWN_NAMES)}. "
            f"Name the right columns under {mapping.section} in params.yaml."
        )
    repeated = sorted({str(column) for column in columns.values() if names.count(str(column)) > 1})
    if repeated:
        raise DataError(f"{file.name} has more than one column named {', '.join(repeated)}. Give each its own name.")


def name_in(file: Path, source: Path) -> str:
    """The file's name, relative to the source if that is a folder."""
    return file.name if source == file else str(file.relative_to(source))


def raise_damaged(error: Exception, problem: str) -> NoReturn:
    """Raises a reader's failure as a DataError about the file; a failure of the disk is raised as what it is."""
    explained = explain(error)
    if explained is not None:
        raise explained from None
    first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise DataError(f"{problem}: {first_line}. It may be truncated: fetch it again.") from None
