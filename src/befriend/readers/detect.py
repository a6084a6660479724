"""Guesses the layout of an event log (format, columns, types, time unit), so that a person only has to confirm it.

Only `befriend use` guesses. It writes the result to params.yaml, which every later command reads.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import polars as pl

from befriend.data.columns import ACTION, ACTOR, TARGET, TIMESTAMP
from befriend.errors import CallError
from befriend.readers.chunk import WHOLE
from befriend.readers.data_settings import DataSettings
from befriend.readers.delimited import blocks, is_not_a_row, split_fields
from befriend.readers.parquet import first_rows, is_parquet
from befriend.readers.sources import SIDE_TABLES, find_files, require_tables
from befriend.settings import parse

NAMES = {
    ACTOR: ("actor_id", "actor", "source", "src", "from", "from_id", "sender", "user", "user_id", "follower", "u"),
    TARGET: ("target_id", "target", "dst", "dest", "to", "to_id", "receiver", "recipient", "friend", "followee", "v"),
    ACTION: ("action", "event", "event_type", "type", "verb", "kind", "label"),
    TIMESTAMP: ("timestamp", "ts", "time", "datetime", "date", "created_at", "unixts", "unix_ts", "event_time"),
}
OPTIONS = {ACTOR: "--actor", TARGET: "--target", ACTION: "--action", TIMESTAMP: "--timestamp"}
SEPARATORS = (",", "\t", ";", "|")
LINES_SAMPLED = 200  # of a text file
BYTES_SAMPLED = 1 << 16  # of a text file
ROWS_SAMPLED = 1000  # of a Parquet file
ANY_COLUMNS = {
    "header": False,
    "columns": {ACTOR: 1, ACTION: None, TARGET: 2, TIMESTAMP: 3},
}  # placeholders: the settings need columns, splitting lines into fields does not
NO_SIDE_TABLES = DataSettings()
_INTEGER = re.compile(r"^[-+]?\d+$")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def detect(
    source: Path,
    given_columns: dict[str, str],
    unit: str | None,
    separator: str | None,
    header: bool | None,
    side_tables: DataSettings = NO_SIDE_TABLES,
) -> DataSettings:
    """Guesses the settings for the log at `source`; CallError if that is not possible.

    given_columns: field -> column, as far as the caller knows it. unit, separator, header: as in DataSettings, None to
    guess. side_tables: settings whose attributes, texts and statements are taken over. What is given is not guessed.
    """
    require_tables(side_tables, source)
    event_files = find_files(side_tables, source)
    if is_parquet(event_files[0]):
        raw: dict[str, Any] = {"format": "parquet"}
        table = first_rows(event_files[0], source, ROWS_SAMPLED)
    else:
        raw, table = _text_head(event_files[0], separator, header)
    columns = _columns(table, given_columns, named=raw["format"] != "whitespace" and bool(raw.get("header", True)))
    if ACTION not in columns and len(event_files) > 1:
        raw["action_from_file_name"] = True
    if not table.height:
        raise CallError(f"{event_files[0]} has columns but no events. Give a log with events.")
    ids = pl.concat(
        [table[str(columns[field])].cast(pl.String).str.strip_chars() for field in (ACTOR, TARGET)]
    ).drop_nulls()
    raw |= {
        "columns": {ACTION: None} | columns,
        "id_type": _id_type(ids),
        "timestamp_unit": unit or _unit(table[str(columns[TIMESTAMP])]),
        **{name: getattr(side_tables, name).model_dump() for name in SIDE_TABLES},
    }
    return parse(DataSettings, raw, "befriend use")


def _id_type(ids: pl.Series) -> str:
    """integer if most ids are integers and none would change by being read as one (such as 007); else string."""
    integers = ids.str.contains(_INTEGER.pattern)
    padded = integers & ~ids.str.contains(WHOLE)
    return "integer" if integers.sum() > len(ids) / 2 and not padded.any() else "string"


def _text_head(file: Path, separator: str | None, header: bool | None) -> tuple[dict[str, Any], pl.DataFrame]:
    """Format settings, and the first rows as a table of strings; without header, columns are named 1, 2, ..."""
    block = next(blocks(file, BYTES_SAMPLED), b"")
    lines = pl.Series([line.rstrip("\r") for line in block.decode(errors="replace").split("\n")[:LINES_SAMPLED]])
    body = lines.filter(~is_not_a_row("whitespace", True, lines)).to_list()
    if not body:
        raise CallError(f"{file} has no lines to look at. Give a log with events.")
    delimiter = {"\\t": "\t"}.get(separator or "", separator) or _separator(body)
    raw: dict[str, Any] = {"format": "whitespace"} if delimiter is None else {"format": "csv", "separator": delimiter}
    rows = split_fields(parse(DataSettings, raw | ANY_COLUMNS, "befriend use"), pl.Series(body)).to_list()
    rows = [[field.strip() for field in row] for row in rows]
    if delimiter is not None:
        raw["header"] = _has_header(rows) if header is None else header
    width = len(rows[0])
    names = rows.pop(0) if raw.get("header") else [str(k + 1) for k in range(width)]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise CallError(f"{file} has more than one column named {', '.join(repeated)}. Give each its own name.")
    rows = [row for row in rows if len(row) == width]
    if not rows:
        raise CallError(f"{file} has a header but no events. Give a log with events.")
    return raw, pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")


def _separator(lines: list[str]) -> str | None:
    """The separator that occurs equally often, at least twice, in nearly all lines; None for white space."""
    for delimiter in SEPARATORS:
        counts = [line.count(delimiter) for line in lines]
        usual = max(set(counts), key=counts.count)
        if usual >= 2 and counts.count(usual) >= 0.9 * len(counts):
            return delimiter
    return None


def _has_header(rows: list[list[str]]) -> bool:
    """Whether the first row holds no integer or date, while a later one does (or there is no later one)."""

    def numeric(row: list[str]) -> bool:
        return any(_INTEGER.match(field) or _DATE.match(field) for field in row)

    return not numeric(rows[0]) and (len(rows) == 1 or any(numeric(row) for row in rows[1:]))


def _columns(table: pl.DataFrame, given_columns: dict[str, str], named: bool) -> dict[str, str | int]:
    """Field -> column, for all fields that are given or can be guessed; CallError names those that cannot.

    named: whether the columns have names; else they are numbered from 1, as text.
    """
    names = table.columns
    given_columns = {
        field: names[int(name) - 1] if _is_column_number(name, names) else name for field, name in given_columns.items()
    }
    unknown = [f"{OPTIONS[field]} {name}" for field, name in given_columns.items() if name not in names]
    if unknown:
        raise CallError(f"the log has no column {', '.join(unknown)}. It has: {', '.join(names)}.")
    columns = dict(given_columns)
    by_lower_case = {name.lower(): name for name in reversed(names)}
    for field, usual_names in NAMES.items():
        matches = [
            by_lower_case[name]
            for name in usual_names
            if name in by_lower_case and by_lower_case[name] not in columns.values()
        ]
        if named and field not in columns and matches:
            columns[field] = matches[0]
    if not named:
        columns = _by_content(table, columns)
    missing = [field for field in (ACTOR, TARGET, TIMESTAMP) if field not in columns]
    if missing:
        raise CallError(
            f"which column is {', '.join(missing)}? The log has: {', '.join(names)}. "
            f"Name it with {' '.join(f'{OPTIONS[field]} COLUMN' for field in missing)}."
        )
    return {field: name if named else int(name) for field, name in columns.items()}


def _is_column_number(name: str, names: list[str]) -> bool:
    """Whether `name` is not the name but the number of a column, from 1."""
    return name not in names and name.isdecimal() and 1 <= int(name) <= len(names)


def _by_content(table: pl.DataFrame, given_columns: dict[str, str]) -> dict[str, str]:
    """Guesses columns without names: the time is the last with dates or large numbers, the action the first with words.

    Large: a median of at least 10**8. Words: no integers and at most 20 distinct values.
    """
    columns = dict(given_columns)
    remaining = [name for name in table.columns if name not in columns.values()]
    if TIMESTAMP not in columns:
        dates = [
            name
            for name in remaining
            if (_number(table[name]) >= 10**8) or table[name].str.contains(_DATE.pattern).all()
        ]
        if dates:
            columns[TIMESTAMP] = dates[-1]
            remaining.remove(dates[-1])
    words = [
        name
        for name in remaining
        if not table[name].str.contains(_INTEGER.pattern).any() and table[name].n_unique() <= 20
    ]
    if ACTION not in columns and len(remaining) > 2 and words:
        columns[ACTION] = words[0]
        remaining.remove(words[0])
    for field in (ACTOR, TARGET):
        if field not in columns and remaining:
            columns[field] = remaining.pop(0)
    return columns


def _number(column: pl.Series) -> float:
    """Median of a column's numbers; 0 if it has none."""
    value = column.cast(pl.Float64, strict=False).median()
    return float(value) if value is not None else 0.0  # type: ignore[arg-type]


def _unit(column: pl.Series) -> str:
    """Time unit of a column: iso for dates or text, else by the magnitude of its median."""
    if column.dtype.is_temporal() or (
        column.dtype == pl.String and not column.str.contains(r"^\s*-?\d+(\.0*)?\s*$").any()
    ):
        return "iso"
    magnitude = abs(_number(column))
    return next(
        (unit for unit, minimum in (("ns", 10**17), ("us", 10**14), ("ms", 10**11)) if magnitude >= minimum), "s"
    )
