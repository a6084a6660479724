"""Reads JSON Lines, one object a line, plain or compressed: fields as text, as those of a CSV, tags as lists."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from befriend.data.chunk import Chunk, Wanted, name_in, require
from befriend.data.columns import RAW, REASON, ROW, TAGS
from befriend.data.judging import TAG
from befriend.data.lines import blocks, decode
from befriend.errors import DataError


def read_objects(wanted: Wanted, file: Path, source: Path) -> Iterator[Chunk]:
    """The rows of a file of JSON Lines in order. Blank lines are none."""
    line, first = 0, True
    for block in blocks(file):
        rows = decode(block)
        rows = rows.with_columns(pl.int_range(line + 1, line + rows.height + 1, dtype=pl.Int64).alias(ROW))
        line += rows.height
        rows = rows.filter(pl.col(RAW).str.strip_chars() != "")
        if not rows.height:
            continue
        objects = [_object(text) for text in rows[RAW]]
        if first:
            _look(wanted, file, rows[RAW][0], objects)
            first = False
        fields = {field: [one.get(str(place)) for one in objects] for field, place in wanted.places.items()}
        columns = {field: _column(field, values) for field, values in fields.items()}
        unread = pl.Series([not one for one in objects])
        odd = pl.Series([any(_odd(field, one) for field, one in row) for row in _rows(fields)])
        reason = pl.when(unread).then(pl.lit("not_json")).when(odd).then(pl.lit("field_type"))
        yield Chunk(
            name_in(file, source), rows.select(ROW, pl.coalesce(REASON, reason).alias(REASON), **columns), rows[RAW]
        )


def _object(text: str) -> dict[str, Any]:
    """Empty where the line is not a JSON object."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _look(wanted: Wanted, file: Path, line: str, objects: list[dict[str, Any]]) -> None:
    """DataError unless the file looks like JSON Lines with the wanted fields. An object may lack some."""
    if not line.lstrip().startswith("{"):
        raise DataError(
            f"{file.name} is neither Parquet nor JSON Lines: its first line begins with {line.lstrip()[:20]!r}. "
            f"Convert it to one of them, with the columns of {wanted.section}."
        )
    names = list(dict.fromkeys(name for one in objects for name in one))
    if names:
        require(wanted, names, file)


def _rows(fields: dict[str, list[Any]]) -> Iterator[list[tuple[str, Any]]]:
    for values in zip(*fields.values(), strict=True):
        yield list(zip(fields, values, strict=True))


def _odd(field: str, value: Any) -> bool:
    """Whether the value is nested where it may not be: tags may be a list."""
    if field == TAGS and isinstance(value, list):
        return any(isinstance(one, dict | list) for one in value)
    return isinstance(value, dict | list)


def _column(field: str, values: list[Any]) -> pl.Series:
    if field == TAGS:
        return pl.Series(field, [_tags(value) for value in values], dtype=pl.List(pl.String))
    return pl.Series(field, [_plain(value) for value in values], dtype=pl.String)


def _tags(value: Any) -> list[str | None] | None:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if value is None else re.findall(TAG, str(_plain(value)))


def _plain(value: Any) -> str | None:
    """As text; a whole number without a fraction, as it would be read in a column of numbers."""
    if value is None:
        return None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # JSON may name half of a pair of surrogates
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).lower() if isinstance(value, bool) else str(value)
