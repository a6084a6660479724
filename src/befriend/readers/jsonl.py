"""Reads JSON Lines files, one object per line, plain or compressed.

Values become text, as in a CSV; tags become lists of text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from befriend.data.columns import ID_FIELDS, RAW, REASON, ROW, TAGS
from befriend.errors import DataError
from befriend.readers.chunk import (
    NO_PART,
    TAG_PATTERN,
    Chunk,
    ColumnMapping,
    relative_name,
    require_columns,
    split_constants,
)
from befriend.readers.text_files import decode_lines, text_blocks

NUM_LISTED_OBJECTS = 100  # whose columns a message names
JSON_ARRAY_COMMAND = "jq -c '.[]'"
_MISSING = object()
_DECODER = json.JSONDecoder(parse_float=str, parse_constant=lambda name: None)


def read_jsonl_rows(mapping: ColumnMapping, file: Path, source: Path) -> Iterator[Chunk]:
    """Yields the rows of a JSON Lines file in order, without blank lines.

    A column is a key of the objects or, with dots, of objects in them: payload.user.id. It may also be the key of a
    partitioned folder (day=2024-01-01/part-0.jsonl).
    """
    constants: list[pl.Expr] = []
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
        objects = [parse_object(line) for line in rows[RAW]]
        if is_first_block:
            _require_json_lines(mapping, file, rows[RAW][0])
            if any(objects):  # not every object must have every column
                found = [column for column in map(str, mapping.columns.values()) if _has_column(objects, column)]
                mapping, constants = split_constants(mapping, found, file, source)
                missing = set(map(str, mapping.columns.values())) - set(found)
                require_columns(mapping, _column_names(objects) if missing else found, file)
            is_first_block = False
        fields = {field: [_get_value(row, str(column)) for row in objects] for field, column in mapping.columns.items()}
        typed = {field: _to_column(field, values) for field, values in fields.items()}
        is_not_object = pl.Series([not row for row in objects])
        is_nested = pl.Series([any(_is_nested(field, value) for field, value in row) for row in _iter_rows(fields)])
        reason = pl.when(is_not_object).then(pl.lit("not_json")).when(is_nested).then(pl.lit("field_type"))
        yield Chunk(
            relative_name(file, source),
            rows.select(ROW, pl.coalesce(REASON, reason).alias(REASON), **typed).with_columns(*constants),
            rows[RAW],
        )


def flatten(row: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Column -> value, with the keys of inner objects behind dots: {"actor": {"id": 1}} is {"actor.id": 1}."""
    columns: dict[str, Any] = {}
    for key, value in row.items():
        columns |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return columns


def _column_names(objects: list[dict[str, Any]]) -> list[str]:
    """The columns of some objects."""
    return list(dict.fromkeys(name for row in objects[:NUM_LISTED_OBJECTS] for name in flatten(row)))


def _has_column(objects: list[dict[str, Any]], column: str) -> bool:
    """Whether any of the objects has the column, even without a value."""
    return any(_get_value(row, column, default=_MISSING) is not _MISSING for row in objects)


def _get_value(row: dict[str, Any], column: str, default: Any = None) -> Any:
    """The value of a column, or the default. A key with dots in it comes before keys of inner objects."""
    if column in row or "." not in column:
        return row.get(column, default)
    value: Any = row
    for key in column.split("."):
        if not isinstance(value, dict) or key not in value:
            return default
        value = value[key]
    return value


def parse_object(line: str) -> dict[str, Any]:
    """The line as a JSON object; an empty one if the line is no JSON object.

    Numbers with a fraction or an exponent stay text, so that no digit is lost. NaN becomes None.
    """
    try:
        value = _DECODER.decode(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _require_json_lines(mapping: ColumnMapping, file: Path, first_line: str) -> None:
    """Raises a DataError unless the first line of a file is a JSON object."""
    if first_line.lstrip().startswith("["):
        raise DataError(f"{file.name} is a JSON array, not JSON Lines. Convert it: {JSON_ARRAY_COMMAND} {file.name}")
    if not first_line.lstrip().startswith("{"):
        raise DataError(
            f"{file.name} is neither Parquet nor JSON Lines: its first line begins with {first_line.lstrip()[:20]!r}. "
            + (NO_PART if mapping.section == "data.columns" else f"Convert it, with the columns of {mapping.section}.")
        )


def _iter_rows(fields: dict[str, list[Any]]) -> Iterator[list[tuple[str, Any]]]:
    """Yields each row as a list of (field, value). fields: field -> its value in each row."""
    for values in zip(*fields.values(), strict=True):
        yield list(zip(fields, values, strict=True))


def _is_nested(field: str, value: Any) -> bool:
    """Whether the value is a list, an object or, as an id, a boolean, which is not allowed; tags may be a list."""
    if field == TAGS and isinstance(value, list):
        return any(isinstance(tag, dict | list) for tag in value)
    return isinstance(value, dict | list) or (isinstance(value, bool) and field in ID_FIELDS)


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
    """The value as text, as in a CSV."""
    if value is None:
        return None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # JSON may hold half of a surrogate pair
    return str(value).lower() if isinstance(value, bool) else str(value)
