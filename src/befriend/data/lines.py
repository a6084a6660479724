"""Reads text files: CSV with any separator, and white space; decompresses, decodes, cuts lines into fields."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import polars as pl

from befriend.config import DataSettings
from befriend.data.chunk import Chunk, Wanted, damaged, name_in, require
from befriend.data.columns import RAW, REASON, ROW
from befriend.errors import DataError

BYTES_AT_ONCE = 1 << 26  # about two million short lines
COMMENT = r"^\s*[#%]"  # how SNAP and KONECT head their files
_GZIP, _ZSTD, _PARQUET, _BOM = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1", b"\xef\xbb\xbf"


def read_lines(settings: DataSettings, wanted: Wanted, file: Path, source: Path) -> Iterator[Chunk]:
    """The rows of a text file in order. Blank lines, comments and the header are none."""
    places = wanted.places
    header = settings.format == "csv" and settings.header
    line, width = 0, None
    for block in blocks(file):
        rows = decode(block)
        rows = rows.with_columns(pl.int_range(line + 1, line + rows.height + 1, dtype=pl.Int64).alias(ROW))
        line += rows.height
        rows = rows.filter(~without_rows(settings.format, first=width is None, raw=rows[RAW]))
        if not rows.height:
            continue
        if width is None and header:
            names = [name.strip() for name in cut(settings, rows[RAW][:1])[0]]
            require(wanted, names, file)
            places = {field: names.index(str(place)) + 1 for field, place in places.items()}
            width, rows = len(names), rows[1:]
        fields = cut(settings, rows[RAW])
        if width is None:
            width = _usual_width(fields, places, file)
        ragged = pl.when(fields.list.len() != width).then(pl.lit("ragged_row"))
        columns = {
            f: fields.list.get(int(place) - 1, null_on_oob=True).str.strip_chars() for f, place in places.items()
        }
        cut_rows = rows.select(ROW, pl.coalesce(REASON, ragged).alias(REASON)).with_columns(
            **{field: column.str.strip_chars() for field, column in columns.items()}
        )
        yield Chunk(name_in(file, source), cut_rows, rows[RAW])
    if width is None and header:
        raise DataError(f"{file.name} is empty: not even a header line. Give a file with a header and rows.")


def without_rows(form: str, first: bool, raw: pl.Series) -> pl.Series:
    """bool: lines that hold no row: blank ones, and comments (in a csv, whose ids may begin so, only at its head)."""
    comment = raw.str.contains(COMMENT)
    if form == "csv":
        comment = comment.cast(pl.Int8).cum_min().cast(pl.Boolean) if first else comment & False
    return (raw.str.strip_chars(" ") == "") | comment


def _usual_width(fields: pl.Series, places: dict[str, str | int], file: Path) -> int:
    """Without header, a log has as many columns as most of its lines."""
    width = int(fields.list.len().mode().max() or 0)  # type: ignore[arg-type]
    far = [f"{field} in column {place}" for field, place in places.items() if int(place) > width]
    if far:
        raise DataError(
            f"{file.name} has {width} columns, but data.columns asks for {', '.join(far)}. "
            "Correct data.columns, data.format or data.separator in params.yaml."
        )
    return width


def cut(settings: DataSettings, raw: pl.Series) -> pl.Series:
    """Each line's fields, as a list of strings."""
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
    """Fields of a line with quotes; none where it cannot be cut. Line by line: a quote that is never closed must not
    swallow the lines below it."""
    try:
        return next(csv.reader([line], delimiter=separator), [])
    except csv.Error:
        return []


def _merge_order(quoted: pl.Series) -> pl.Series:
    """Places of the rows in (unquoted rows, then quoted rows), to put them back in order."""
    plain = (~quoted).cum_sum() - 1
    late = quoted.cum_sum() - 1 + int((~quoted).sum())
    return pl.select(pl.when(quoted).then(late).otherwise(plain)).to_series()


def _open(file: Path) -> IO[bytes]:
    """The file's bytes, decompressed if it starts as gzip or zstd does (names are not trusted)."""
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
    """The file in blocks of whole lines, without a byte order mark."""
    rest, first = b"", True
    with _open(file) as handle:
        while True:
            try:
                block = handle.read(size)
            except (EOFError, zlib.error, OSError) as error:
                damaged(error, f"{file.name} cannot be decompressed to its end")
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


def decode(block: bytes) -> pl.DataFrame:
    """`raw` (the line without its end) and `reason` of each line of a block."""
    body = block.removesuffix(b"\n")
    try:
        lines = pl.Series(RAW, [body.decode()]).str.split("\n").explode()
        reason = pl.Series(REASON, [None], dtype=pl.String).new_from_index(0, len(lines))
    except UnicodeDecodeError:
        raw: list[str] = []
        bad: list[str | None] = []
        for line in body.split(b"\n"):
            try:
                raw.append(line.decode())
                bad.append(None)
            except UnicodeDecodeError:
                raw.append(line.decode(errors="backslashreplace"))
                bad.append("invalid_utf8")
        lines, reason = pl.Series(RAW, raw), pl.Series(REASON, bad, dtype=pl.String)
    return pl.DataFrame([lines.str.strip_suffix("\r"), reason])
