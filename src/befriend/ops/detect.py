"""Guesses how to read an event log: format, separator, header, columns, type of the ids and time unit.

The few plausible readings are tried on a sample of the log, by the readers and the rules for rows that all commands
use. The one that rejects fewest rows and makes the most plausible social network is taken.

Only `befriend use` guesses. It writes the result to params.yaml, which you can correct and all other commands read.
"""

from __future__ import annotations

import re
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product, takewhile
from pathlib import Path
from typing import Any

import polars as pl

from befriend.data.columns import ACTION, ACTOR, RAW, REASON, TARGET, TIMESTAMP
from befriend.data.external_ids import read_ids
from befriend.errors import CallError, DataError
from befriend.ops.detect_columns import COLUMN_OPTIONS, Columns, graph_plausibility, guess_columns, num_usual_names
from befriend.ops.log_preview import LogPreview, preview_sample
from befriend.ops.log_sample import write_sample
from befriend.readers.chunk import partition_values
from befriend.readers.data_settings import DataSettings
from befriend.readers.delimited import COMMENT_PATTERN, FIELDS, read_records
from befriend.readers.jsonl import JSON_ARRAY_COMMAND, flatten, parse_object
from befriend.readers.parquet import binary_format, first_rows
from befriend.readers.sources import SIDE_TABLES, find_files, require_tables
from befriend.readers.text_files import decode_lines, text_blocks
from befriend.settings import parse

SEPARATORS = (",", "\t", ";", "|", "::", "\x01", " ")  # a blank: any white space; \x01: that of Hive
SEPARATORS_WITHOUT_QUOTES = ("\t", "\x01", "|")  # of databases, which write quotes like other characters
MIN_SAME_WIDTH = 0.5  # share of records with the most common number of fields
NUM_SAMPLED_ROWS = 1000  # of a Parquet file
MAX_FILES_GUESSED = 5  # files from which the columns are guessed, until all files can be read so
MAX_GUESSES = 3  # of the columns, for one way of splitting lines into fields
SAME_SHARE = 0.005  # two shares of rejected rows within it count as equal
SEPARATOR_BONUS = 0.2  # plausibility of a separator other than white space, which names may contain
MIN_USUAL_NAMES = 2  # in a row that names the columns
MIN_ALIGNED_COLUMNS = 3
ALIGNED_SHARE = 0.9  # of the lines
MIN_ADVANTAGE = 0.1  # in plausibility, of the best reading; if less, the user is asked
PLACEHOLDER_COLUMNS = {ACTOR: 1, ACTION: None, TARGET: 2, TIMESTAMP: 3}
"""splitting lines into fields does not need columns, but DataSettings does"""
NO_SIDE_TABLES = DataSettings()
_NUMBER_PATTERN = re.compile(r"^[-+]?\d+(\.\d+)?$")
_DATE_PATTERN = re.compile(r"\d{1,4}[-/.:]\d{1,2}")


@dataclass(frozen=True)
class Hints:
    """What the user said about the log; None or nothing where it is to be guessed."""

    columns: dict[str, str]
    """field -> column"""
    unit: str | None = None
    """the timestamp_unit"""
    separator: str | None = None
    r"""between fields; may be the two characters \t, and is a blank for any white space"""
    header: bool | None = None
    quotes: bool | None = None
    """whether quotes may be around the fields of a CSV"""


@dataclass(frozen=True)
class Reading:
    """One way to read the log, and what it made of the sample."""

    settings: DataSettings
    preview: LogPreview
    events: pl.DataFrame
    """the accepted rows, in the order of the sample"""
    plausibility: float
    """see `graph_plausibility`; more if columns have usual names, or come in the usual order"""

    @property
    def rejected_share(self) -> float:
        return self.preview.num_rejected / max(1, self.preview.num_rows)

    def reads_the_same(self, other: Reading) -> bool:
        """Whether both readings find the same events in the sample."""
        columns = [pl.col(ACTOR, TARGET).cast(pl.String), pl.col(TIMESTAMP)]
        return self.events.select(columns).equals(other.events.select(columns))

    def options(self) -> str:
        """The options of `befriend use` that ask for this reading."""
        options = {COLUMN_OPTIONS[field]: column for field, column in self.settings.columns if column is not None}
        options["--unit"] = self.settings.timestamp_unit
        if self.settings.format in ("csv", "whitespace"):
            separator = self.settings.separator if self.settings.format == "csv" else " "
            options["--separator"] = {"\t": "\\t"}.get(separator, separator)
            options["--header" if self.settings.has_column_names else "--no-header"] = ""
        if self.settings.quote is None:
            options["--no-quotes"] = ""
        return " ".join(f"{name} {shlex.quote(str(value))}" if value != "" else name for name, value in options.items())


class AmbiguousLogError(CallError):
    """A log has two readings that are about as plausible. `readings`: the two, the more plausible first."""

    def __init__(self, readings: tuple[Reading, Reading]):
        options = " or ".join(reading.options() for reading in readings)
        super().__init__(f"the log can be read in two ways. Choose one with the options {options}")
        self.readings = readings


def detect(source: Path, hints: Hints, side_tables: DataSettings = NO_SIDE_TABLES) -> DataSettings:
    """Guesses the settings for the log at `source`.

    side_tables: settings from which the result takes the sections attributes, texts and statements.

    Raises a CallError if nothing fits, an AmbiguousLogError if two readings fit, and a DataError for a file that is
    damaged, or none of the log's.
    """
    require_tables(side_tables, source)
    files = find_files(side_tables, source)
    with tempfile.TemporaryDirectory() as folder:
        sample = write_sample(files, source, Path(folder))
        readings = _readings(sample, hints, side_tables)
    best = readings[0]
    if not hints.columns:
        _require_header_above(best)
    min_advantage = max(MIN_ADVANTAGE, best.preview.num_rows**-0.5)  # a few rows show little
    for other in readings[1:]:
        is_as_complete = other.rejected_share <= best.rejected_share + SAME_SHARE
        is_as_plausible = other.plausibility > best.plausibility - min_advantage
        if is_as_complete and is_as_plausible and not other.reads_the_same(best):
            raise AmbiguousLogError((best, other))
    return best.settings


def _readings(sample: Path, hints: Hints, side_tables: DataSettings) -> list[Reading]:
    """The readings of a sample, the best one first; at least one.

    Guesses come from the largest file: a folder may hold empty parts, or other files than those of the log.
    """
    files = sorted(find_files(side_tables, sample), key=lambda file: -file.stat().st_size)
    call_errors: list[CallError] = []
    data_errors: list[DataError] = []
    for file in files[:MAX_FILES_GUESSED]:
        readings = []
        try:
            for raw, guess in _guesses(file, sample, hints):
                raw |= {name: getattr(side_tables, name).model_dump() for name in SIDE_TABLES}
                try:
                    readings.append(_try(parse(DataSettings, raw, "befriend use"), sample, guess.bonus))
                except DataError as error:
                    data_errors.append(error)
        except CallError as error:
            call_errors.append(error)
        if readings:
            most = max(1, *(reading.events.height for reading in readings))
            readings = [replace(r, plausibility=r.plausibility + r.events.height / most) for r in readings]
            return sorted(readings, key=lambda r: (round(r.rejected_share / SAME_SHARE), -r.plausibility))
    raise [*data_errors, *call_errors][0]  # a log has at least one file


def _require_header_above(reading: Reading) -> None:
    """Raises a CallError if a rejected row names the columns in another way than the reading has them."""
    settings = reading.settings
    separator = settings.separator if settings.format == "csv" else None
    columns = [str(column) for _, column in settings.columns if column is not None]
    for row in reading.preview.example_by_reason.values():
        fields = [field.strip(' "') for field in row.split(separator)]
        is_repeated_header = settings.has_column_names and [*filter(columns.__contains__, fields)] == columns
        if num_usual_names(fields) >= MIN_USUAL_NAMES and not is_repeated_header:
            raise CallError(
                f"the row {row!r} names columns, but is not the first row, or not that of every file. Remove the lines "
                "above it, put it into all files or none, or name the columns: --actor, --target, --timestamp."
            )


def _try(settings: DataSettings, sample: Path, bonus: float) -> Reading:
    """Reads a sample with some settings. bonus: added to the plausibility."""
    preview, events = preview_sample(settings, sample)
    if not preview.num_rows:
        raise DataError(f"{sample.name} has no events")
    names = [str(column) for _, column in settings.columns if column is not None]
    usual_names = num_usual_names(names) if settings.has_column_names else 0
    plausibility = graph_plausibility(events[ACTOR], events[TARGET], events[TIMESTAMP])
    bonus += SEPARATOR_BONUS * (settings.format == "csv")
    return Reading(settings, preview, events, plausibility + bonus + usual_names / 3)


def _guesses(file: Path, sample: Path, hints: Hints) -> Iterator[tuple[dict[str, Any], Columns]]:
    """Yields settings to try, as a dictionary, with the columns in them; CallError if nothing fits the file."""
    errors = []
    num_guesses = 0
    for raw, table, has_header in _tables(file, sample, hints):
        has_names = table.columns != [str(k + 1) for k in range(table.width)]
        try:
            guesses = guess_columns(table, hints.columns, hints.unit, has_names, MAX_GUESSES)
        except CallError as error:
            errors.append(error)
            continue
        for guess in guesses:
            num_guesses += 1
            columns = {f: name if has_header else table.columns.index(name) + 1 for f, name in guess.names.items()}
            ids = pl.concat([table[guess.names[field]].cast(pl.String) for field in (ACTOR, TARGET)])
            typed = {"id_type": _guess_id_type(ids), "timestamp_unit": guess.unit}
            yield raw | typed | {"columns": {ACTION: None} | columns}, guess
    if not num_guesses:
        raise errors[0] if errors else CallError(f"{file.name} has no lines except comments. Give a log with events.")


def _guess_id_type(ids: pl.Series) -> str:
    """`integer` if all ids are integers of 64 bits in canonical form: not 007, which would become 7."""
    integers, is_empty = read_ids(ids, pl.Int64(), NO_SIDE_TABLES.null_words)
    return "integer" if integers.filter(~is_empty).null_count() == 0 and not is_empty.all() else "string"


def _tables(file: Path, sample: Path, hints: Hints) -> Iterator[tuple[dict[str, Any], pl.DataFrame, bool]]:
    """Yields the settings of a format that the file may have, its rows, and whether its columns have names.

    Columns without names are called 1, 2, ...
    """
    file_format = binary_format(file)
    if file_format:
        table = first_rows(file, sample, NUM_SAMPLED_ROWS)
        if not table.height:
            raise CallError(f"{file.name} has columns but no events. Give a log with events.")
        yield {"format": file_format}, table, True
        return
    first_line = str(_first_lines(file).first() or "")
    if first_line.startswith(("{", "[")):
        yield {"format": "jsonl"}, _with_partitions(_json_table(file, first_line), file, sample), True
        return
    yield from _text_tables(file, sample, hints)


def _text_tables(file: Path, sample: Path, hints: Hints) -> Iterator[tuple[dict[str, Any], pl.DataFrame, bool]]:
    """As `_tables`, of a delimited text."""
    separators = SEPARATORS if hints.separator is None else (hints.separator.replace("\\t", "\t"),)
    content = file.read_bytes()
    dialects: list[dict[str, Any]] = []
    if hints.quotes is not False:
        dialects.append({"quote": '"'})
        dialects += [{"quote": '"', "escape": "\\"}] if b'\\"' in content else []
    if hints.quotes is False or (hints.quotes is None and b'"' in content):
        dialects.append({"quote": None})
    tables: list[tuple[dict[str, Any], pl.DataFrame, bool]] = []
    errors: list[CallError] = []
    for separator, dialect in product(separators, dialects):
        is_white_space = separator.strip(" ") == ""
        if is_white_space and dialect != {"quote": '"'}:
            continue
        if dialect["quote"] is None and hints.quotes is None and separator not in SEPARATORS_WITHOUT_QUOTES:
            continue
        raw = {"format": "whitespace"} if is_white_space else {"format": "csv", "separator": separator, **dialect}
        try:
            tables += _delimited_tables(file, raw, hints.header)
        except CallError as error:
            errors.append(error)
    if errors and not tables:
        raise errors[0]
    for raw, table, has_header in sorted(tables, key=lambda item: -item[1].height * item[1].width):
        yield raw, _with_partitions(table, file, sample) if has_header else table, has_header


def _first_lines(file: Path) -> pl.Series:
    """The lines of the first block of a text file that are not blank, without blanks around them."""
    lines = decode_lines(next(text_blocks(file), b""))[RAW].str.strip_chars()
    return lines.filter(lines != "")


def _json_table(file: Path, first_line: str) -> pl.DataFrame:
    """The rows of a JSON Lines file as text, with a column for each key; keys of inner objects are behind dots.

    CallError for JSON that is not an object in each line, with a command that makes it so.
    """
    first = parse_object(first_line)
    lists = [name for name, value in first.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    problem = ""
    if first_line.startswith("["):
        is_row = first_line.endswith("]") and "{" not in first_line
        problem = f"holds arrays of values. Convert it to CSV: jq -r '@csv' {file.name}" if is_row else ""
        problem = problem or f"is a JSON array. Convert it to JSON Lines: {JSON_ARRAY_COMMAND} {file.name}"
    elif not first:
        problem = f"is JSON with objects over several lines. Convert it to JSON Lines: jq -c . {file.name}"
    rows = [parse_object(line) for block in text_blocks(file) for line in decode_lines(block)[RAW]]
    if not problem and lists and len(rows) == 1:
        problem = f"is one object with a list. Convert it to JSON Lines: jq -c '.{lists[0]}[]' {file.name}"
    if problem:
        raise CallError(f"{file.name} {problem}")
    columns = [
        {name: None if value is None else str(value) for name, value in flatten(row).items()} for row in rows if row
    ]
    names = dict.fromkeys(name for row in columns for name in row)
    return pl.DataFrame(columns, schema=dict.fromkeys(names, pl.String))


def _delimited_tables(
    file: Path, raw: dict[str, Any], header: bool | None
) -> list[tuple[dict[str, Any], pl.DataFrame, bool]]:
    """The settings of the format, the rows as text, and whether there is a header.

    Nothing if most lines differ in their number of fields, or if white space leaves another separator at their ends.

    raw: settings of the format; header: None to guess it. CallError for a header that names a usual column twice, that
    has no row below it or another width than the rows, and for columns that are aligned by blanks.
    """
    is_white_space = raw["format"] == "whitespace"
    settings = parse(DataSettings, raw | {"columns": PLACEHOLDER_COLUMNS}, "befriend use")
    records = [records for records, _ in read_records(settings, file)]
    rows = [
        [field.strip() for field in fields]
        for table in records
        for fields in table.filter(pl.col(REASON).is_null())[FIELDS].to_list()
    ]
    if not rows:
        return []
    has_header = _has_header(rows) if header is None else header
    names = [name.strip('"') for name in rows.pop(0)] if has_header else None
    if not rows:
        raise CallError(f"{file.name} has a header but no events. Give a log with events.")
    widths = [len(row) for row in rows]
    width = max(set(widths), key=lambda w: (widths.count(w), w))
    if width < 2 or widths.count(width) < MIN_SAME_WIDTH * len(widths):
        return []
    rows = [row for row in rows if len(row) == width]
    if is_white_space:
        _require_single_words(file, width)
        if sum(any(field.endswith((",", ";", "|")) for field in row) for row in rows) > len(rows) / 2:
            return []
    return [(raw, _to_table(rows, names or _comment_names(file, raw, width), file, is_white_space), has_header)]


def _require_single_words(file: Path, width: int) -> None:
    """Raises a CallError for a text whose columns are aligned by blanks, with single blanks inside of fields."""
    lines = _first_lines(file)
    aligned = lines.str.replace_all(r"\s{2,}|\t", "\t").str.count_matches("\t", literal=True) + 1
    num_columns = int(aligned.mode().max() or 0)  # type: ignore[arg-type]
    is_aligned = (aligned == num_columns) & lines.str.contains(r"\S  +\S") & lines.str.contains(r"\pL\S* \pL")
    is_common = float(is_aligned.mean() or 0) > ALIGNED_SHARE  # type: ignore[arg-type]
    if MIN_ALIGNED_COLUMNS <= num_columns < width and is_common:
        raise CallError(
            f"the columns of {file.name} seem to be aligned by blanks, with fields of several words. Write one "
            f"separator between two fields: sed -E 's/ {{2,}}/\\t/g' {file.name} > log.tsv"
        )


def _comment_names(file: Path, raw: dict[str, Any], width: int) -> list[str] | None:
    """The names of the columns in the last comment above the first row, if they are usual ones; else None."""
    lines = decode_lines(next(text_blocks(file), b""))[RAW].to_list()
    comments = list(takewhile(lambda line: re.match(COMMENT_PATTERN, line) or not line.strip(), lines))
    text = comments[-1].strip().lstrip("#% ") if comments else ""
    names = [name.strip(' "') for name in text.split(raw.get("separator"))]
    return names if len(names) == width and num_usual_names(names) >= MIN_USUAL_NAMES else None


def _to_table(rows: list[list[str]], names: list[str] | None, file: Path, is_white_space: bool) -> pl.DataFrame:
    """Rows of equal width as a table of text. names: the fields of the header, if there is one."""
    width = len(rows[0])
    if names is None:
        names = [str(k + 1) for k in range(width)]
    if is_white_space and len(names) == width - 1:
        names = ["", *names]  # R writes no name above those of the rows
    if len(names) == width + 1 and names[-1] == "":  # the header ends in a separator
        names = names[:-1]
    is_list_last = len(names) + 1 < width  # the last name stands for several columns
    if len(names) != width and not is_list_last and any(row[-1] for row in rows):
        raise CallError(
            f"the header of {file.name} has {len(names)} columns, its rows have {width}. Correct the header, or give "
            "--separator."
        )
    repeated = sorted({name for name in names if names.count(name) > 1})
    if num_usual_names(repeated):
        raise CallError(f"{file.name} has more than one column named {', '.join(repeated)}. Give each its own name.")
    unique = [f"{name} ({k})" if name in repeated else name for k, name in enumerate(names, 1)]
    return pl.DataFrame([row[: len(unique)] for row in rows], schema=dict.fromkeys(unique, pl.String), orient="row")


def _has_header(rows: list[list[str]]) -> bool:
    """Whether the first row has two usual names of columns, or no number or date, while a later row has one.

    If there is no later row, the first one is a header.
    """
    if num_usual_names([field.strip('"') for field in rows[0]]) >= MIN_USUAL_NAMES:
        return True

    def has_number_or_date(row: list[str]) -> bool:
        return any(_NUMBER_PATTERN.match(field) or _DATE_PATTERN.search(field) for field in row)

    return not has_number_or_date(rows[0]) and (len(rows) == 1 or any(has_number_or_date(row) for row in rows[1:]))


def _with_partitions(table: pl.DataFrame, file: Path, sample: Path) -> pl.DataFrame:
    """The table with the keys of partitioned folders as columns, except those that it has itself."""
    partitions = {str(key): value for key, value in partition_values(file, sample).items()}
    new = [name for name in partitions if name not in table.columns]
    return table.with_columns(pl.lit(partitions[name], pl.String).alias(name) for name in new)
