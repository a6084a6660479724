"""Reads JSON Lines, one object per line, plain or compressed. Fields become text, as in a CSV; tags become lists."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from befriend.data.columns import RAW, REASON, ROW, TAGS
from befriend.errors import DataError
from befriend.readers.chunk import TAG, Chunk, ColumnMapping, name_in, require_columns
from befriend.readers.delimited import blocks, decode_lines


def read_jsonl_rows(mapping: ColumnMapping, file: Path, source: Path) -> Iterator[Chunk]:
    """Yields the rows of a JSON Lines file in order, without blank lines."""
    lines_read, is_first_block = 0, True
    for block in blocks(file):
        rows = decode_lines(block)
        rows = rows.with_columns(pl.int_range(lines_read + 1, lines_read + rows.height + 1, dtype=pl.Int64).alias(ROW))
        lines_read += rows.height
        rows = rows.filter(pl.col(RAW).str.strip_chars() != "")
        if not rows.height:
            continue
        objects = [_object(text) for text in rows[RAW]]
        if is_first_block:
            _check_layout(mapping, file, rows[RAW][0], objects)
            is_first_block = False
        fields = {field: [row.get(str(column)) for row in objects] for field, column in mapping.columns.items()}
        columns = {field: _column(field, values) for field, values in fields.items()}
        is_not_object = pl.Series([not row for row in objects])
        is_nested = pl.Series([any(_is_nested(field, value) for field, value in row) for row in _rows(fields)])
        reason = pl.when(is_not_object).then(pl.lit("not_json")).when(is_nested).then(pl.lit("field_type"))
        yield Chunk(
            name_in(file, source), rows.select(ROW, pl.coalesce(REASON, reason).alias(REASON), **columns), rows[RAW]
        )


def _object(text: str) -> dict[str, Any]:
    """The line as a JSON object; empty if it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _check_layout(mapping: ColumnMapping, file: Path, first_line: str, objects: list[dict[str, Any]]) -> None:
    """DataError unless the file looks like JSON Lines with the mapping's columns. A single object may lack some."""
    if not first_line.lstrip().startswith("{"):
        raise DataError(
            f"{file.name} is neither Parquet nor JSON Lines: its first line begins with {first_line.lstrip()[:20]!r}. "
            f"Convert it to one of them, with the columns of {mapping.section}."
        )
    names = list(dict.fromkeys(name for row in objects for name in row))
    if names:
        require_columns(mapping, names, file)


def _rows(fields: dict[str, list[Any]]) -> Iterator[list[tuple[str, Any]]]:
    """Yields each row as a list of (field, value)."""
    for values in zip(*fields.values(), strict=True):
        yield list(zip(fields, values, strict=True))


def _is_nested(field: str, value: Any) -> bool:
    """Whether the value is a list or an object, which is not allowed; tags may be a list."""
    if field == TAGS and isinstance(value, list):
        return any(isinstance(tag, dict | list) for tag in value)
    return isinstance(value, dict | list)


def _column(field: str, values: list[Any]) -> pl.Series:
    if field == TAGS:
        return pl.Series(field, [_tags(value) for value in values], dtype=pl.List(pl.String))
    return pl.Series(field, [_plain(value) for value in values], dtype=pl.String)


def _tags(value: Any) -> list[str | None] | None:
    if isinstance(value, list):
        return [_plain(tag) for tag in value]
    return None if value is None else re.findall(TAG, str(_plain(value)))


def _plain(value: Any) -> str | None:
    """The value as text; a whole number without a fraction, as in a column of numbers."""
    if value is None:
        return None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # JSON may hold half of a surrogate pair
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).lower() if isinstance(value, bool) else str(value)
