"""Guesses how to read an event log: format, separator, header, columns, type of the ids and time unit.

Only `befriend use` guesses. It writes the result to params.yaml, which you can correct and all other commands read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import polars as pl

from befriend.data.columns import ACTION, ACTOR, RAW, REASON, TARGET, TIMESTAMP
from befriend.data.external_ids import INTEGER_PATTERN
from befriend.errors import CallError
from befriend.readers.data_settings import DataSettings
from befriend.readers.delimited import COMMENT_PATTERN, FIELDS, FieldSplitter
from befriend.readers.parquet import first_rows, is_parquet
from befriend.readers.sources import SIDE_TABLES, find_files, require_tables
from befriend.readers.text_files import text_blocks
from befriend.settings import parse

USUAL_COLUMN_NAMES = {
    ACTOR: ("actor_id", "actor", "source", "src", "from", "from_id", "sender", "user", "user_id", "follower", "u"),
    TARGET: ("target_id", "target", "dst", "dest", "to", "to_id", "receiver", "recipient", "friend", "followee", "v"),
    ACTION: ("action", "event", "event_type", "type", "verb", "kind", "label"),
    TIMESTAMP: ("timestamp", "ts", "time", "datetime", "date", "created_at", "unixts", "unix_ts", "event_time"),
}
COLUMN_OPTIONS = {ACTOR: "--actor", TARGET: "--target", ACTION: "--action", TIMESTAMP: "--timestamp"}
SEPARATORS = (",", "\t", ";", "|")
NUM_SAMPLED_LINES = 200  # of a text file
NUM_SAMPLED_BYTES = 1 << 16  # of a text file
NUM_SAMPLED_ROWS = 1000  # of a Parquet file
PLACEHOLDER_COLUMNS = {
    "header": False,
    "columns": {ACTOR: 1, ACTION: None, TARGET: 2, TIMESTAMP: 3},
}  # splitting lines into fields does not need columns, but DataSettings does
NO_SIDE_TABLES = DataSettings()
_NUMBER_PATTERN = re.compile(r"^[-+]?\d+$")
_DATE_PATTERN = re.compile(r"\d{4}-\d{2}-\d{2}")


def detect(
    source: Path,
    given_columns: dict[str, str],
    unit: str | None,
    separator: str | None,
    header: bool | None,
    side_tables: DataSettings = NO_SIDE_TABLES,
) -> DataSettings:
    """Guesses the settings for the log at `source`; CallError if that is not possible.

    given_columns: field -> column, for the fields whose column is not to be guessed. unit (the timestamp_unit),
    separator, header: as in DataSettings, or None to guess them; separator may be the two characters \\t. side_tables:
    settings from which the result takes the sections attributes, texts and statements.
    """
    require_tables(side_tables, source)
    event_files = find_files(side_tables, source)
    if is_parquet(event_files[0]):
        raw: dict[str, Any] = {"format": "parquet"}
        table = first_rows(event_files[0], source, NUM_SAMPLED_ROWS)
    else:
        raw, table = _read_first_lines(event_files[0], separator, header)
    has_column_names = raw["format"] != "whitespace" and bool(raw.get("header", True))
    columns = _guess_columns(table, given_columns, has_column_names)
    if ACTION not in columns and len(event_files) > 1:
        raw["action_from_file_name"] = True
    if not table.height:
        raise CallError(f"{event_files[0]} has columns but no events. Give a log with events.")
    ids = pl.concat(
        [table[str(columns[field])].cast(pl.String).str.strip_chars() for field in (ACTOR, TARGET)]
    ).drop_nulls()
    raw |= {
        "columns": {ACTION: None} | columns,
        "id_type": _guess_id_type(ids),
        "timestamp_unit": unit or _guess_timestamp_unit(table[str(columns[TIMESTAMP])]),
        **{name: getattr(side_tables, name).model_dump() for name in SIDE_TABLES},
    }
    return parse(DataSettings, raw, "befriend use")


def _guess_id_type(ids: pl.Series) -> str:
    """`integer` if most ids are integers, and all of those in canonical form (not 007, which would become 7)."""
    is_integer = ids.str.contains(_NUMBER_PATTERN.pattern)
    is_not_canonical = is_integer & ~ids.str.contains(INTEGER_PATTERN)
    return "integer" if is_integer.sum() > len(ids) / 2 and not is_not_canonical.any() else "string"


def _read_first_lines(file: Path, separator: str | None, header: bool | None) -> tuple[dict[str, Any], pl.DataFrame]:
    """The settings of the format, and the first rows as a table of strings; without header, columns are named 1, 2, ...

    separator, header: None to guess them.
    """
    block = next(text_blocks(file, NUM_SAMPLED_BYTES), b"")
    lines = pl.Series([line.rstrip("\r") for line in block.decode(errors="replace").split("\n")[:NUM_SAMPLED_LINES]])
    row_lines = lines.filter((lines.str.strip_chars() != "") & ~lines.str.contains(COMMENT_PATTERN)).to_list()
    if not row_lines:
        raise CallError(f"{file} has no lines except comments. Give a log with events.")
    delimiter = {"\\t": "\t"}.get(separator or "", separator) or _guess_separator(row_lines)
    raw: dict[str, Any] = {"format": "whitespace"} if delimiter is None else {"format": "csv", "separator": delimiter}
    split_settings = parse(DataSettings, raw | PLACEHOLDER_COLUMNS, "befriend use")
    split = FieldSplitter(split_settings)
    table = pl.DataFrame({RAW: row_lines, REASON: None}, {RAW: pl.String, REASON: pl.String})
    rows = split(table, True)[0][FIELDS].to_list()
    rows = [[field.strip() for field in row] for row in rows]
    if delimiter is not None:
        raw["header"] = _has_header(rows) if header is None else header
    num_columns = len(rows[0])
    names = rows.pop(0) if raw.get("header") else [str(k + 1) for k in range(num_columns)]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise CallError(f"{file} has more than one column named {', '.join(repeated)}. Give each its own name.")
    rows = [row for row in rows if len(row) == num_columns]
    if not rows:
        raise CallError(f"{file} has a header but no events. Give a log with events.")
    return raw, pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")


def _guess_separator(lines: list[str]) -> str | None:
    """The separator that occurs equally often, at least twice, in nearly all lines; None for white space."""
    for delimiter in SEPARATORS:
        counts = [line.count(delimiter) for line in lines]
        most_common = max(set(counts), key=counts.count)
        if most_common >= 2 and counts.count(most_common) >= 0.9 * len(counts):
            return delimiter
    return None


def _has_header(rows: list[list[str]]) -> bool:
    """Whether the first row holds no integer or date, while a later one does (or there is no later one)."""

    def has_number_or_date(row: list[str]) -> bool:
        return any(_NUMBER_PATTERN.match(field) or _DATE_PATTERN.match(field) for field in row)

    return not has_number_or_date(rows[0]) and (len(rows) == 1 or any(has_number_or_date(row) for row in rows[1:]))


def _guess_columns(table: pl.DataFrame, given_columns: dict[str, str], has_column_names: bool) -> dict[str, str | int]:
    """Field -> column, for all fields that are given or can be guessed; CallError if any but the action is missing.

    has_column_names: if False, the columns of the table are called "1", "2", ..., and the result has their numbers.
    """
    names = table.columns
    given_columns = {
        field: names[int(name) - 1] if _is_column_number(name, names) else name for field, name in given_columns.items()
    }
    unknown = [f"{COLUMN_OPTIONS[field]} {name}" for field, name in given_columns.items() if name not in names]
    if unknown:
        raise CallError(f"the log has no column {', '.join(unknown)}. It has: {', '.join(names)}.")
    columns = dict(given_columns)
    by_lower_case = {name.lower(): name for name in reversed(names)}
    for field, usual_names in USUAL_COLUMN_NAMES.items():
        matches = [
            by_lower_case[name]
            for name in usual_names
            if name in by_lower_case and by_lower_case[name] not in columns.values()
        ]
        if has_column_names and field not in columns and matches:
            columns[field] = matches[0]
    if not has_column_names:
        columns = _guess_columns_by_content(table, columns)
    missing = [field for field in (ACTOR, TARGET, TIMESTAMP) if field not in columns]
    if missing:
        raise CallError(
            f"which column is {', '.join(missing)}? The log has: {', '.join(names)}. "
            f"Name it with {' '.join(f'{COLUMN_OPTIONS[field]} COLUMN' for field in missing)}."
        )
    return {field: name if has_column_names else int(name) for field, name in columns.items()}


def _is_column_number(name: str, names: list[str]) -> bool:
    """Whether `name` is the number of a column, from 1, and not the name of one."""
    return name not in names and name.isdecimal() and 1 <= int(name) <= len(names)


def _guess_columns_by_content(table: pl.DataFrame, given_columns: dict[str, str]) -> dict[str, str]:
    """Field -> column, guessed from the values of columns without names.

    The timestamp is the last column with dates or with a median of at least 10**8. The action is the first column
    without integers that has at most 20 distinct values, if there are more than two columns left. Actor and target are
    the first two of the other columns.
    """
    columns = dict(given_columns)
    remaining = [name for name in table.columns if name not in columns.values()]
    if TIMESTAMP not in columns:
        time_columns = [
            name
            for name in remaining
            if (_median(table[name]) >= 10**8) or table[name].str.contains(_DATE_PATTERN.pattern).all()
        ]
        if time_columns:
            columns[TIMESTAMP] = time_columns[-1]
            remaining.remove(time_columns[-1])
    label_columns = [
        name
        for name in remaining
        if not table[name].str.contains(_NUMBER_PATTERN.pattern).any() and table[name].n_unique() <= 20
    ]
    if ACTION not in columns and len(remaining) > 2 and label_columns:
        columns[ACTION] = label_columns[0]
        remaining.remove(label_columns[0])
    for field in (ACTOR, TARGET):
        if field not in columns and remaining:
            columns[field] = remaining.pop(0)
    return columns


def _median(column: pl.Series) -> float:
    """The median of the numbers in a column; 0 if it has none."""
    value = column.cast(pl.Float64, strict=False).median()
    return float(value) if value is not None else 0.0  # type: ignore[arg-type]


def _guess_timestamp_unit(column: pl.Series) -> str:
    """The timestamp unit of a column: iso for dates and text, else from the magnitude of the median."""
    if column.dtype.is_temporal() or (
        column.dtype == pl.String and not column.str.contains(r"^\s*-?\d+(\.0*)?\s*$").any()
    ):
        return "iso"
    magnitude = abs(_median(column))
    return next(
        (unit for unit, minimum in (("ns", 10**17), ("us", 10**14), ("ms", 10**11)) if magnitude >= minimum), "s"
    )
