"""Reads text files, CSV with any separator and white space: decompresses, decodes, splits lines into fields."""

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
from befriend.readers.chunk import Chunk, ColumnMapping, name_in, raise_damaged, require_columns
from befriend.readers.data_settings import DataSettings

BYTES_AT_ONCE = 1 << 26  # per block; about two million short lines
COMMENT = r"^\s*[#%]"  # the comments above the data in files of SNAP and KONECT
_GZIP, _ZSTD, _PARQUET, _BOM = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1", b"\xef\xbb\xbf"


def read_delimited_rows(settings: DataSettings, mapping: ColumnMapping, file: Path, source: Path) -> Iterator[Chunk]:
    """Yields the rows of a text file in order, without blank lines, comments and the header."""
    columns = mapping.columns
    header = settings.format == "csv" and settings.header
    lines_read, width = 0, None
    for block in blocks(file):
        rows = decode_lines(block)
        rows = rows.with_columns(pl.int_range(lines_read + 1, lines_read + rows.height + 1, dtype=pl.Int64).alias(ROW))
        lines_read += rows.height
        rows = rows.filter(~is_not_a_row(settings.format, is_first_block=width is None, raw=rows[RAW]))
        if not rows.height:
            continue
        if width is None and header:
            names = [name.strip() for name in split_fields(settings, rows[RAW][:1])[0]]
            require_columns(mapping, names, file)
            columns = {field: names.index(str(column)) + 1 for field, column in columns.items()}
            width, rows = len(names), rows[1:]
        fields = split_fields(settings, rows[RAW])
        if width is None:
            width = _usual_width(fields, columns, file)
        ragged = pl.when(fields.list.len() != width).then(pl.lit("ragged_row"))
        values = {
            field: fields.list.get(int(column) - 1, null_on_oob=True).str.strip_chars()
            for field, column in columns.items()
        }
        rows_with_fields = rows.select(ROW, pl.coalesce(REASON, ragged).alias(REASON)).with_columns(
            **{field: value.str.strip_chars() for field, value in values.items()}
        )
        yield Chunk(name_in(file, source), rows_with_fields, rows[RAW])
    if width is None and header:
        raise DataError(f"{file.name} is empty: not even a header line. Give a file with a header and rows.")


def is_not_a_row(file_format: str, is_first_block: bool, raw: pl.Series) -> pl.Series:
    """bool per line: blank lines and comments.

    In a csv, comments count only above its first row, since ids may begin with the same characters.
    """
    comment = raw.str.contains(COMMENT)
    if file_format == "csv":
        comment = comment.cast(pl.Int8).cum_min().cast(pl.Boolean) if is_first_block else comment & False
    return (raw.str.strip_chars(" ") == "") | comment


def _usual_width(fields: pl.Series, columns: dict[str, str | int], file: Path) -> int:
    """Number of columns of a file without header: that of most of its lines. DataError if the mapping needs more."""
    width = int(fields.list.len().mode().max() or 0)  # type: ignore[arg-type]
    missing = [f"{field} in column {column}" for field, column in columns.items() if int(column) > width]
    if missing:
        raise DataError(
            f"{file.name} has {width} columns, but data.columns asks for {', '.join(missing)}. "
            "Correct data.columns, data.format or data.separator in params.yaml."
        )
    return width


def split_fields(settings: DataSettings, raw: pl.Series) -> pl.Series:
    """The fields of each line, as a list of strings."""
    if settings.format == "whitespace":
        return raw.str.extract_all(r"\S+")
    fields = raw.str.split(settings.separator)
    quoted = raw.str.contains('"', literal=True)
    if quoted.any():
        lists = [_unquote(line, settings.separator) for line in raw.filter(quoted)]
        unquoted = pl.Series(lists, dtype=pl.List(pl.String))
        fields = pl.concat([fields.filter(~quoted), unquoted]).gather(_merge_order(quoted))
    return fields


def _unquote(line: str, separator: str) -> list[str]:
    """The fields of a line with quotes; none if it cannot be split. A line is parsed on its own: an unclosed quote must
    not swallow the lines below it."""
    try:
        return next(csv.reader([line], delimiter=separator), [])
    except csv.Error:
        return []


def _merge_order(quoted: pl.Series) -> pl.Series:
    """Index of each row in the concatenation of unquoted and quoted rows, to restore their order."""
    plain_index = (~quoted).cum_sum() - 1
    quoted_index = quoted.cum_sum() - 1 + int((~quoted).sum())
    return pl.select(pl.when(quoted).then(quoted_index).otherwise(plain_index)).to_series()


def _open(file: Path) -> IO[bytes]:
    """The file's bytes, decompressed if its first bytes are those of gzip or zstd (its name is not trusted)."""
    with file.open("rb") as handle:
        magic = handle.read(4)
    if magic.startswith(_GZIP):
        return gzip.open(file, "rb")  # type: ignore[return-value]
    if magic.startswith(_ZSTD):
        import pyarrow as pa

        return pa.CompressedInputStream(pa.OSFile(str(file)), "zstd")
    if magic == _PARQUET:
        raise DataError(f"{file.name} is a Parquet file, but data.format says text. Set data.format: parquet.")
    return file.open("rb")


def blocks(file: Path, size: int = BYTES_AT_ONCE) -> Iterator[bytes]:
    """Yields the file in blocks of whole lines, without a byte order mark. size: bytes read at once."""
    rest, first = b"", True
    with _open(file) as handle:
        while True:
            try:
                block = handle.read(size)
            except (EOFError, zlib.error, OSError) as error:
                raise_damaged(error, f"{file.name} cannot be decompressed to its end")
            if not block:
                break
            block = rest + block
            if first:
                block, first = block.removeprefix(_BOM), False
            end = block.rfind(b"\n") + 1
            rest = block[end:]
            if end:
                yield block[:end]
            elif b"\r" in rest:
                raise DataError(f"the lines of {file.name} end in CR alone. Convert them: tr '\\r' '\\n'.")
    if b"\r" in rest.rstrip(b"\r"):
        raise DataError(f"the lines of {file.name} end in CR alone. Convert them: tr '\\r' '\\n'.")
    if rest:
        yield rest


def decode_lines(block: bytes) -> pl.DataFrame:
    """The columns `raw` (the line without its line end) and `reason`, one row per line of a block."""
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
