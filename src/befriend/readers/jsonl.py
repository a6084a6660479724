"""Reads JSON Lines files, one object per line, uncompressed, gzip or zstd.

Values become text, as in a CSV; tags become lists of text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from befriend.data.columns import RAW, REASON, ROW, TAGS
from befriend.errors import DataError
from befriend.readers.chunk import TAG_PATTERN, Chunk, ColumnMapping, relative_name, require_columns
from befriend.readers.text_files import decode_lines, text_blocks


def read_jsonl_rows(mapping: ColumnMapping, file: Path, source: Path) -> Iterator[Chunk]:
    """Yields the rows of a JSON Lines file in order, without blank lines."""
    num_lines_read, is_first_block = 0, True
    for block in text_blocks(file):
        rows = decode_lines(block)
        rows = rows.with_columns(
            pl.int_range(num_lines_read + 1, num_lines_read + rows.height + 1, dtype=pl.Int64).alias(ROW)
        )
        num_lines_read += rows.height
        rows = rows.filter(pl.col(RAW).str.strip_chars() != "")
        if not rows.height:
            continue
        objects = [_parse_object(line) for line in rows[RAW]]
        if is_first_block:
            _require_json_lines(mapping, file, rows[RAW][0], objects)
            is_first_block = False
        fields = {field: [row.get(str(column)) for row in objects] for field, column in mapping.columns.items()}
        columns = {field: _to_column(field, values) for field, values in fields.items()}
        is_not_object = pl.Series([not row for row in objects])
        is_nested = pl.Series([any(_is_nested(field, value) for field, value in row) for row in _iter_rows(fields)])
        reason = pl.when(is_not_object).then(pl.lit("not_json")).when(is_nested).then(pl.lit("field_type"))
        yield Chunk(
            relative_name(file, source),
            rows.select(ROW, pl.coalesce(REASON, reason).alias(REASON), **columns),
            rows[RAW],
        )


def _parse_object(line: str) -> dict[str, Any]:
    """The line as a JSON object; an empty one if the line is no JSON object."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _require_json_lines(mapping: ColumnMapping, file: Path, first_line: str, objects: list[dict[str, Any]]) -> None:
    """Raises a DataError unless the file looks like JSON Lines and its first block has each column of the mapping.

    first_line, objects: the first line and the objects of the first block. Not every object must have every column.
    """
    if not first_line.lstrip().startswith("{"):
        raise DataError(
            f"{file.name} is neither Parquet nor JSON Lines: its first line begins with {first_line.lstrip()[:20]!r}. "
            f"Convert it to one of them, with the columns of {mapping.section}."
        )
    names = list(dict.fromkeys(name for row in objects for name in row))
    if names:
        require_columns(mapping, names, file)


def _iter_rows(fields: dict[str, list[Any]]) -> Iterator[list[tuple[str, Any]]]:
    """Yields each row as a list of (field, value). fields: field -> its value in each row."""
    for values in zip(*fields.values(), strict=True):
        yield list(zip(fields, values, strict=True))


def _is_nested(field: str, value: Any) -> bool:
    """Whether the value is a list or an object, which is not allowed; tags may be a list."""
    if field == TAGS and isinstance(value, list):
        return any(isinstance(tag, dict | list) for tag in value)
    return isinstance(value, dict | list)


def _to_column(field: str, values: list[Any]) -> pl.Series:
    """The values of a field as a column of text; tags as lists of text."""
    if field == TAGS:
        return pl.Series(field, [_to_tags(value) for value in values], dtype=pl.List(pl.String))
    return pl.Series(field, [_to_text(value) for value in values], dtype=pl.String)


def _to_tags(value: Any) -> list[str | None] | None:
    """The tags of one row, from a list or a string of several such as "a,b"; None if there is no value."""
    if isinstance(value, list):
        return [_to_text(tag) for tag in value]
    return None if value is None else re.findall(TAG_PATTERN, str(_to_text(value)))


def _to_text(value: Any) -> str | None:
    """The value as text; a float without a fraction as an integer, since other tools turn integer ids into floats."""
    if value is None:
        return None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # JSON may hold half of a surrogate pair
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).lower() if isinstance(value, bool) else str(value)
