"""Reads delimited text files, CSV or white space: decompresses them, decodes lines and splits them into fields."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import polars as pl

from befriend.data.columns import RAW, REASON, ROW
from befriend.errors import DataError
from befriend.readers.chunk import Chunk, ColumnMapping, raise_damaged, relative_name, require_columns
from befriend.readers.data_settings import DataSettings

BLOCK_BYTES = 1 << 26  # about two million short lines
COMMENT_PATTERN = r"^\s*[#%]"  # comments above the data in files of the SNAP and KONECT collections of networks
_GZIP_MAGIC, _ZSTD_MAGIC, _PARQUET_MAGIC, _BYTE_ORDER_MARK = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1", b"\xef\xbb\xbf"


def read_delimited_rows(settings: DataSettings, mapping: ColumnMapping, file: Path, source: Path) -> Iterator[Chunk]:
    """Yields the rows of a text file in order, without blank lines, comments and the header.

    A row with another number of fields than the file has columns gets the reason `ragged_row`. Raises a DataError if
    the file is damaged, or lacks a header or a column of the mapping.
    """
    columns = mapping.columns
    has_header = settings.format == "csv" and settings.header
    num_lines_read, num_columns = 0, None
    for block in blocks(file):
        rows = decode_lines(block)
        rows = rows.with_columns(
            pl.int_range(num_lines_read + 1, num_lines_read + rows.height + 1, dtype=pl.Int64).alias(ROW)
        )
        num_lines_read += rows.height
        rows = rows.filter(~is_blank_or_comment(settings.format, is_before_rows=num_columns is None, raw=rows[RAW]))
        if not rows.height:
            continue
        if num_columns is None and has_header:
            names = [name.strip() for name in split_fields(settings, rows[RAW][:1])[0]]
            require_columns(mapping, names, file)
            columns = {field: names.index(str(column)) + 1 for field, column in columns.items()}
            num_columns, rows = len(names), rows[1:]
        fields = split_fields(settings, rows[RAW])
        if num_columns is None:
            num_columns = _most_common_num_fields(fields, columns, file)
        ragged = pl.when(fields.list.len() != num_columns).then(pl.lit("ragged_row"))
        values = {
            field: fields.list.get(int(column) - 1, null_on_oob=True).str.strip_chars()
            for field, column in columns.items()
        }
        rows_with_fields = rows.select(ROW, pl.coalesce(REASON, ragged).alias(REASON)).with_columns(
            **{field: value.str.strip_chars() for field, value in values.items()}
        )
        yield Chunk(relative_name(file, source), rows_with_fields, rows[RAW])
    if num_columns is None and has_header:
        raise DataError(f"{file.name} is empty: not even a header line. Give a file with a header and rows.")


def is_blank_or_comment(file_format: str, is_before_rows: bool, raw: pl.Series) -> pl.Series:
    """bool for each line: whether it is blank or a comment.

    In a CSV, only lines above the header or the first row can be comments, since ids may begin with the same
    characters. is_before_rows: whether all earlier lines of the file were blank or comments.
    """
    is_comment = raw.str.contains(COMMENT_PATTERN)
    if file_format == "csv":
        is_comment = is_comment.cast(pl.Int8).cum_min().cast(pl.Boolean) if is_before_rows else is_comment & False
    return (raw.str.strip_chars(" ") == "") | is_comment


def _most_common_num_fields(fields: pl.Series, columns: dict[str, str | int], file: Path) -> int:
    """The most common number of fields of a line, the largest if there are several: the columns without a header.

    fields: the fields of each line. Raises a DataError if the mapping needs more columns.
    """
    num_columns = int(fields.list.len().mode().max() or 0)  # type: ignore[arg-type]
    missing = [f"{field} in column {column}" for field, column in columns.items() if int(column) > num_columns]
    if missing:
        raise DataError(
            f"{file.name} has {num_columns} columns, but data.columns names {', '.join(missing)}. "
            "Correct data.columns, data.format or data.separator in params.yaml."
        )
    return num_columns


def split_fields(settings: DataSettings, raw: pl.Series) -> pl.Series:
    """The fields of each line, as a list of strings; empty for a line that the CSV reader rejects."""
    if settings.format == "whitespace":
        return raw.str.extract_all(r"\S+")
    fields = raw.str.split(settings.separator)
    has_quotes = raw.str.contains('"', literal=True)
    if has_quotes.any():
        field_lists = [_split_quoted_line(line, settings.separator) for line in raw.filter(has_quotes)]
        quoted_fields = pl.Series(field_lists, dtype=pl.List(pl.String))
        fields = pl.concat([fields.filter(~has_quotes), quoted_fields]).gather(_merge_order(has_quotes))
    return fields


def _split_quoted_line(line: str, separator: str) -> list[str]:
    """The fields of a line with quotes; empty if it cannot be split.

    Each line is parsed on its own, so that an unclosed quote does not swallow the lines below it.
    """
    try:
        return next(csv.reader([line], delimiter=separator), [])
    except csv.Error:
        return []


def _merge_order(has_quotes: pl.Series) -> pl.Series:
    """The index of each row in the concatenation of the rows without and with quotes, to restore their order."""
    unquoted_index = (~has_quotes).cum_sum() - 1
    quoted_index = has_quotes.cum_sum() - 1 + int((~has_quotes).sum())
    return pl.select(pl.when(has_quotes).then(quoted_index).otherwise(unquoted_index)).to_series()


def _open(file: Path) -> IO[bytes]:
    """Opens a file for reading its decompressed bytes. Its first bytes, not its name, decide on the compression."""
    with file.open("rb") as handle:
        magic = handle.read(4)
    if magic.startswith(_GZIP_MAGIC):
        return gzip.open(file, "rb")  # type: ignore[return-value]
    if magic.startswith(_ZSTD_MAGIC):
        import pyarrow as pa

        return pa.CompressedInputStream(pa.OSFile(str(file)), "zstd")
    if magic == _PARQUET_MAGIC:
        raise DataError(f"{file.name} is a Parquet file, but data.format says text. Set data.format: parquet.")
    return file.open("rb")


def blocks(file: Path, size: int = BLOCK_BYTES) -> Iterator[bytes]:
    """Yields a file in blocks of whole lines, decompressed and without a byte order mark. size: bytes of each read."""
    remainder, is_first = b"", True
    with _open(file) as handle:
        while True:
            try:
                block = handle.read(size)
            except (EOFError, zlib.error, OSError) as error:
                raise_damaged(error, f"{file.name} cannot be decompressed to its end")
            if not block:
                break
            block = remainder + block
            if is_first:
                block, is_first = block.removeprefix(_BYTE_ORDER_MARK), False
            end = block.rfind(b"\n") + 1
            remainder = block[end:]
            if end:
                yield block[:end]
            elif b"\r" in remainder:
                raise DataError(f"the lines of {file.name} end in CR alone. Convert them: tr '\\r' '\\n'.")
    if b"\r" in remainder.rstrip(b"\r"):
        raise DataError(f"the lines of {file.name} end in CR alone. Convert them: tr '\\r' '\\n'.")
    if remainder:
        yield remainder


def decode_lines(block: bytes) -> pl.DataFrame:
    """A table with a row for each line: `raw`, the line without its line end, and `reason`, "invalid_utf8" or null."""
    body = block.removesuffix(b"\n")
    try:
        lines = pl.Series(RAW, [body.decode()]).str.split("\n").explode()
        reason = pl.Series(REASON, [None], dtype=pl.String).new_from_index(0, len(lines))
    except UnicodeDecodeError:
        raw: list[str] = []
        reasons: list[str | None] = []
        for line in body.split(b"\n"):
            try:
                raw.append(line.decode())
                reasons.append(None)
            except UnicodeDecodeError:
                raw.append(line.decode(errors="backslashreplace"))
                reasons.append("invalid_utf8")
        lines, reason = pl.Series(RAW, raw), pl.Series(REASON, reasons, dtype=pl.String)
    return pl.DataFrame([lines.str.strip_suffix("\r"), reason])
