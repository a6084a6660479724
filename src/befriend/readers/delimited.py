"""Reads delimited text, CSV or white space: joins lines to records, skips comments, and splits records into fields."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from befriend.data.columns import RAW, REASON, ROW
from befriend.errors import DataError
from befriend.readers.chunk import Chunk, ColumnMapping, relative_name, require_columns, split_constants
from befriend.readers.data_settings import DataSettings
from befriend.readers.text_files import decode_lines, text_blocks

FIELDS = "fields"
COMMENT_PATTERN = r"^\s*([#%]+(\s|$)|%%)"  # as in the SNAP and KONECT collections: a blank follows the mark
SEPARATOR_HINT_PATTERN = r"(?i)^sep=.$"  # a first line that tells Excel the separator
MAX_RECORD_LINES = 1000  # of a record with line ends in its fields; beyond it, a quote was not closed
_WORD_PATTERN = r'"[^"]*"|\S+'  # of a text with white space between fields
_STAND_IN = "\x1f"  # for a separator of several characters, which the csv module does not have
_UNCLOSED = "unexpected end of data"  # what the csv module says of a record with a quote that is not closed


def read_delimited_rows(settings: DataSettings, mapping: ColumnMapping, file: Path, source: Path) -> Iterator[Chunk]:
    """Yields the rows of a text file in order, without blank lines, comments and the header.

    A row with another number of fields than the file has columns gets the reason `ragged_row`, and a line with a quote
    that no later line closes gets `unclosed_quote`. Raises a DataError if the file is damaged, or lacks a column of the
    mapping. In a file with a header, a column may also be the key of a partitioned folder (action=like/part-0.csv).
    """
    columns = mapping.columns
    constants: list[pl.Expr] = []
    names: list[str] | None = None
    has_header = isinstance(next(iter(columns.values())), str)
    width = num_comments = 0
    for records, num_new_comments in read_records(settings, file):
        num_comments += num_new_comments
        if names is None and has_header and records.height:
            names = _column_names(records, settings)
            own, constants = split_constants(mapping, names, file, source)
            require_columns(own, names, file)
            columns = {field: names.index(str(column)) + 1 for field, column in own.columns.items()}
            records = records[1:]
        if not records.height:
            continue
        if not width:
            width = _most_common_width(records)
            names = _with_trailing_name(names, width, records)
            _require_width(width, names, columns, file)
        is_ragged = records[FIELDS].list.len() != width
        ragged = pl.when(is_ragged).then(pl.lit("ragged_row"))
        rows = records.select(
            ROW,
            pl.coalesce(REASON, ragged).alias(REASON),
            *(
                pl.col(FIELDS).list.get(int(column) - 1, null_on_oob=True).str.strip_chars().alias(field)
                for field, column in columns.items()
            ),
            *constants,
        )
        yield Chunk(relative_name(file, source), rows, records[RAW], num_comments)
        num_comments = 0


def read_records(settings: DataSettings, file: Path) -> Iterator[tuple[pl.DataFrame, int]]:
    """Yields tables of records, and the number of comment lines among them.

    Their columns: ROW, the number of the record's first line, from 1; RAW, its text; REASON, invalid_utf8,
    unclosed_quote or null; FIELDS, a list of strings, empty where it cannot be split. Blank lines and comments are left
    out. In a CSV, comments stand above the first record only, as ids may begin with the same characters.
    """
    split = FieldSplitter(settings)
    num_lines, is_first, pending = 0, True, pl.DataFrame()
    for block, is_last in _with_end(text_blocks(file)):
        lines = decode_lines(block)
        numbers = pl.int_range(num_lines + 1, num_lines + lines.height + 1, dtype=pl.Int64, eager=True).alias(ROW)
        num_lines += lines.height
        lines = lines.with_columns(numbers)
        num_comments = 0
        if is_first or settings.format == "whitespace":
            is_comment = lines[RAW].str.contains(COMMENT_PATTERN)
            if settings.format == "csv":
                is_hint = (lines[ROW] == 1) & lines[RAW].str.contains(SEPARATOR_HINT_PATTERN)
                is_above = is_comment | is_hint | (lines[RAW].str.strip_chars(" ") == "")
                is_comment = (is_comment | is_hint) & is_above.cast(pl.Int8).cum_min().cast(pl.Boolean)
            num_comments = int(is_comment.sum())
            lines = lines.filter(~is_comment)
        records, pending = split(pl.concat([pending, lines]) if pending.height else lines, is_last)
        records = records.filter(records[RAW].str.strip_chars(" ") != "")
        is_first = is_first and not records.height
        if records.height or num_comments:
            yield records, num_comments


def _with_end(blocks: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Yields each block, and whether it is the last one."""
    block = next(blocks, None)
    while block is not None:
        following = next(blocks, None)
        yield block, following is None
        block = following


class FieldSplitter:
    """Splits lines into fields. A quoted field may hold separators and line ends."""

    def __init__(self, settings: DataSettings):
        self._is_csv, self._separator = settings.format == "csv", settings.separator
        self._escape = settings.escape
        self._has_quotes = settings.quote is not None
        one_character = self._separator if len(self._separator) == 1 else _STAND_IN
        self._dialect: dict[str, Any] = {
            "delimiter": one_character,
            "escapechar": self._escape,
            "skipinitialspace": True,
        }
        self._blanks_after_quote = re.compile(rf'"[ ]+(?={re.escape(one_character)}|$)')
        mark = re.escape(self._separator)
        plain = rf'[^"{mark}\\\r]*' if self._escape else rf'[^"{mark}\r]*'
        field = rf'[ ]*(?:"{plain}"|{plain})[ ]*'
        self._simple_pattern = rf"^{field}(?:{mark}{field})*$" if len(self._separator) == 1 else r"$^"

    def __call__(self, lines: pl.DataFrame, is_last: bool) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The lines as records (columns ROW, RAW, REASON, FIELDS), and the last lines if their record is not complete.

        is_last: whether the file ends with these lines, so that every record ends there.
        """
        raw = lines[RAW]
        if not self._is_csv:
            return lines.with_columns(raw.str.extract_all(_WORD_PATTERN).alias(FIELDS)), lines.clear()
        has_quotes = raw.str.contains('"', literal=True) | raw.str.contains("\r", literal=True)
        if self._escape:
            has_quotes |= raw.str.contains(self._escape, literal=True)
        fields = raw.str.split(self._separator)
        if not (self._has_quotes and has_quotes.any()):
            return lines.with_columns(fields.alias(FIELDS)), lines.clear()
        is_simple = has_quotes & raw.str.contains(self._simple_pattern)
        if is_simple.any():
            unquoted = fields.filter(is_simple).list.eval(pl.element().str.strip_chars(" ").str.strip_chars('"'))
            fields = _replace(fields, is_simple, unquoted)
        return self._split_quoted(lines.with_columns(fields.alias(FIELDS)), has_quotes & ~is_simple, is_last)

    def _split_quoted(
        self, lines: pl.DataFrame, is_quoted: pl.Series, is_last: bool
    ) -> tuple[pl.DataFrame, pl.DataFrame]:
        """As `__call__`. is_quoted: the lines that the csv module has to split, or the first lines of their records."""
        raw, height = lines[RAW].to_list(), lines.height
        first: list[int] = []
        texts, fields = [], []
        unclosed: list[int] = []
        joined: list[int] = []
        invalid: list[int] = []
        is_invalid = lines[REASON].is_not_null()
        end = 0  # of the record before
        for k in is_quoted.arg_true().to_list():
            if k < end:
                continue
            parsed = self._parse(raw[k])
            end = k + 1
            if parsed is None:
                end, parsed = self._join(raw, k)
                if parsed is None and end == height and not is_last:
                    height = k
                    break
                if parsed is None:
                    end = k + 1
                    unclosed.append(k)
                joined.extend(range(k + 1, end))
                if is_invalid[k:end].any():
                    invalid.append(k)
            first.append(k)
            texts.append("\n".join(raw[k:end]))
            fields.append(parsed or [])
        records = lines[:height]
        is_changed = _mask(height, first)
        records = records.with_columns(
            _replace(records[RAW], is_changed, pl.Series(texts, dtype=pl.String)),
            _replace(records[FIELDS], is_changed, pl.Series(fields, dtype=pl.List(pl.String))),
            pl.when(_mask(height, unclosed))
            .then(pl.lit("unclosed_quote"))
            .when(_mask(height, invalid))
            .then(pl.lit("invalid_utf8"))
            .otherwise(REASON)
            .alias(REASON),
        )
        return records.filter(~_mask(height, joined)), lines[height:].drop(FIELDS)

    def _parse(self, text: str) -> list[str] | None:
        """The fields of a record; None if a quote in it is not closed."""
        for is_strict in (True, False):  # a quote within a quoted field is an error in strict mode only
            try:
                return self._fields(text, is_strict)
            except csv.Error as error:
                if str(error) == _UNCLOSED:
                    return None
        return []

    def _fields(self, text: str, is_strict: bool) -> list[str]:
        """The fields of a record; csv.Error if they cannot be told."""
        if len(self._separator) > 1:
            text = text.replace(self._separator, _STAND_IN)
        try:
            return self._read(text, is_strict)
        except csv.Error as error:
            if str(error) == _UNCLOSED:
                raise
        return self._read(self._blanks_after_quote.sub('"', text), is_strict)

    def _read(self, text: str, is_strict: bool) -> list[str]:
        return next(csv.reader(io.StringIO(text, newline="\n"), strict=is_strict, **self._dialect), [])

    def _join(self, raw: list[str], k: int) -> tuple[int, list[str] | None]:
        """The end of the record that begins in line k, and its fields; None if no later line closes its quote."""
        limit = min(len(raw), k + MAX_RECORD_LINES)
        for end in range(k + 2, limit + 1):
            if '"' not in raw[end - 1]:
                continue
            try:
                return end, self._fields("\n".join(raw[k:end]), is_strict=True)
            except csv.Error as error:
                if str(error) != _UNCLOSED:
                    return end, None
        return limit, None


def _mask(height: int, true: list[int]) -> pl.Series:
    """bool[height], true at some indices."""
    return pl.int_range(height, eager=True).is_in(true)


def _replace(column: pl.Series, mask: pl.Series, values: pl.Series) -> pl.Series:
    """The column with other values, in order, where the mask is true."""
    if not mask.any():
        return column
    others = (~mask).cum_sum().cast(pl.Int64) - 1
    new = mask.cum_sum().cast(pl.Int64) - 1 + int((~mask).sum())
    order = pl.select(pl.when(mask).then(new).otherwise(others)).to_series()
    return pl.concat([column.filter(~mask), values.cast(column.dtype)]).gather(order).alias(column.name)


def _column_names(records: pl.DataFrame, settings: DataSettings) -> list[str]:
    """The names of the columns, the fields of the first record.

    R writes a table in white space with the name of each row in front, and no name for that column.
    """
    names = [name.strip() for name in records[FIELDS][0]]
    if settings.format == "whitespace":
        names = [name.strip('"') for name in names]
        if _most_common_width(records[1:]) == len(names) + 1:
            names.insert(0, "")
    return names


def _most_common_width(records: pl.DataFrame) -> int:
    """The most common number of fields of the records without a reason to be rejected, the largest if several are."""
    width = records.filter(pl.col(REASON).is_null())[FIELDS].list.len()
    return int(width.mode().max() or 0)  # type: ignore[arg-type]


def _with_trailing_name(names: list[str] | None, width: int, records: pl.DataFrame) -> list[str] | None:
    """The names of the columns, with one more or less if only the rows, or only the header, end in a separator."""
    if names is None or abs(width - len(names)) != 1:
        return names
    if width < len(names):
        return names[:-1] if names[-1] == "" else names
    last = records.filter(pl.col(FIELDS).list.len() == width)[FIELDS].list.last().str.strip_chars()
    return [*names, ""] if (last == "").all() else names


def _require_width(width: int, names: list[str] | None, columns: dict[str, str | int], file: Path) -> None:
    """Raises a DataError unless rows of `width` fields fit the header and have the columns of a mapping.

    Rows may be longer than the header by several fields, where the last name stands for a list. Where they are longer
    by one, the first or the last column may lack its name.
    """
    if names is not None and width != len(names) and not width > len(names) + 1:
        raise DataError(
            f"the header of {file.name} has {len(names)} columns, its rows have {width}. "
            "Correct the header, or data.separator in params.yaml."
        )
    missing = [f"{field} in column {column}" for field, column in columns.items() if int(column) > width]
    if missing:
        raise DataError(
            f"{file.name} has {width} columns, but data.columns names {', '.join(missing)}. "
            "Correct data.columns, data.format or data.separator in params.yaml."
        )
