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
from befriend.readers.chunk import partition_values
from befriend.readers.data_settings import ISO, DataSettings
from befriend.readers.delimited import COMMENT_PATTERN, FIELDS, FieldSplitter
from befriend.readers.parquet import first_rows, is_parquet
from befriend.readers.sources import SIDE_TABLES, find_files, require_tables
from befriend.readers.text_files import text_blocks
from befriend.readers.timestamps import read_timestamps
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
CALENDAR_DIGITS = {
    r"^(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])$": "%Y%m%d",
    r"^(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])([01]\d|2[0-3])[0-5]\d[0-5]\d$": "%Y%m%d%H%M%S",
}
"""numbers that are dates, and no time since 1970 that a log would have: 20240301 would be in August 1970"""
DOTNET_TICKS = (6.2e17, 6.6e17)  # from the year 1965 to 2092
TIME_FORMATS = (
    *(f"{day} {time}" for day in ("%m/%d/%Y", "%d/%m/%Y") for time in ("%H:%M", "%H:%M:%S", "%I:%M %p", "%I:%M:%S %p")),
    *("%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S"),
    *("%Y/%m/%d", "%Y/%m/%d %H:%M", "%Y/%m/%d %H:%M:%S"),
    "%a %b %d %H:%M:%S %z %Y",
    "%a, %d %b %Y %H:%M:%S %z",
    "%d/%b/%Y:%H:%M:%S %z",
)
"""usual ways of writing times that are not ISO 8601"""
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
    raw, table = _read_first_rows(event_files, source, separator, header)
    has_column_names = raw["format"] != "whitespace" and bool(raw.get("header", True))
    columns = _guess_columns(table, given_columns, has_column_names)
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


def _read_first_rows(
    files: list[Path], source: Path, separator: str | None, header: bool | None
) -> tuple[dict[str, Any], pl.DataFrame]:
    """The settings of the format, and the first rows of the first file that has some: a part of a log may be empty.

    Keys of partitioned folders are columns, if the columns have names. Raises the CallError of the first file if no
    file has rows.
    """
    errors = []
    for file in files:
        try:
            if is_parquet(file):
                raw: dict[str, Any] = {"format": "parquet"}
                table = first_rows(file, source, NUM_SAMPLED_ROWS)
                if not table.height:
                    raise CallError(f"{file} has columns but no events. Give a log with events.")
                return raw, table
            raw, table = _read_first_lines(file, separator, header)
            if raw.get("header"):
                partitions = {str(key): value for key, value in partition_values(file, source).items()}
                new = [name for name in partitions if name not in table.columns]
                table = table.with_columns(pl.lit(partitions[name], pl.String).alias(name) for name in new)
            return raw, table
        except CallError as error:
            errors.append(error)
    raise errors[0]  # a log has at least one file


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
    """Whether the first row has two usual names of columns, or no integer or date, while a later row has one.

    If there is no later row, the first one is a header.
    """
    known_names = {name for names in USUAL_COLUMN_NAMES.values() for name in names}
    if sum(field.lower() in known_names for field in rows[0]) >= 2:
        return True

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
    """The timestamp unit of a column: for numbers by the magnitude of the median, for text the format that fits.

    CallError if two formats fit, or none that is known.
    """
    if column.dtype.is_temporal():
        return ISO
    text = column.cast(pl.String).str.strip_chars().replace("", None).drop_nulls()
    for pattern, time_format in CALENDAR_DIGITS.items():
        if len(text) and text.str.contains(pattern).all():
            return time_format
    number = text.str.to_decimal(scale=9).drop_nulls() if len(text) else text
    if len(number) * 2 >= len(text):
        magnitude = abs(float(number.cast(pl.Float64).median() or 0))  # type: ignore[arg-type]
        if DOTNET_TICKS[0] <= magnitude <= DOTNET_TICKS[1]:
            raise CallError(
                f"timestamps such as {text[0]} look like ticks of .NET, 100 ns since the year 1. Write seconds since "
                "1970 instead, (ticks - 621355968000000000) / 10000000; or name their unit with --unit."
            )
        units = (("ns", 10**17), ("us", 10**14), ("ms", 10**11))
        return next((unit for unit, least in units if magnitude >= least), "s")
    num_unread = {unit: read_timestamps(text, unit)[0].null_count() for unit in (ISO, *TIME_FORMATS)}
    fitting = [unit for unit, count in num_unread.items() if 2 * count < len(text)]
    exact = [unit for unit in fitting if not num_unread[unit]] or fitting
    if not exact:
        raise CallError(
            f"timestamps such as {text[0]!r} cannot be read. Say how to read them, with a format of strptime: "
            '--unit "%d/%m/%Y %H:%M"; or write seconds since 1970 or ISO 8601.'
        )
    if len(exact) > 1 and ISO not in exact:
        commands = " or ".join(f'--unit "{unit}"' for unit in exact)
        raise CallError(f"timestamps such as {text[0]!r} can be read in two ways. Add {commands}.")
    return exact[0]
