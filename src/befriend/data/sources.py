"""Reads event logs as they come: Parquet, CSV and white space, plain or compressed, one file or many.

Owns finding the files, decompressing them, cutting lines into fields, and numbering rows. Knows nothing of
what a valid event is: a row that cannot even be cut is passed on with its reason. Reading goes chunk by
chunk, so that a log larger than memory passes.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import polars as pl

from befriend.config import DataSettings
from befriend.data.columns import ACTION, EVENT_FIELDS, RAW, REASON, ROW
from befriend.errors import DataError, SourceError

TEXT_CHUNK = 1 << 26  # bytes of text parsed at once, about two million short lines
ROW_CHUNK = 1_000_000  # rows of Parquet read at once
COMMENT_MARKS = ("#", "%")  # SNAP and KONECT head their white-space files with these
_GZIP, _ZSTD, _PARQUET, _BOM = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1", b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of one file.

    `rows` has the event's fields as found (any type), `row` (from 1: the line of a text file, header
    included, or the row of a table), `raw` (the row as it was) and `reason` (null unless it cannot be cut).
    """

    file: str
    rows: pl.DataFrame


def find_files(source: Path) -> list[Path]:
    """The log's files in name order; SourceError where there is none to read."""
    try:
        if source.is_file():
            source.open("rb").close()
            return [source]
        if source.is_dir():
            found = sorted(
                p
                for p in source.rglob("*")
                if p.is_file() and not any(part[0] in "._" for part in p.relative_to(source).parts)
            )
            if found:
                return found
            raise SourceError(f"the event log {source} is a folder without files. Put the log's files into it.")
    except PermissionError as error:
        raise SourceError(
            f"the event log {error.filename} may not be read by this user. Grant read access, then run again."
        ) from None
    raise SourceError(
        f"the event log {source} does not exist. `dvc repro` brings it from the place that data.dvc names; "
        "`befriend use SOURCE` names another place."
    )


def read_chunks(settings: DataSettings, source: Path) -> Iterator[Chunk]:
    """The log's rows in order, file by file."""
    for file in find_files(source):
        name = file.name if source == file else str(file.relative_to(source))
        try:
            parts = _parquet(settings, file, source) if settings.format == "parquet" else _text(settings, file)
            for rows in parts:
                if settings.columns.action is None:
                    label = file.name.split(".")[0] if settings.action_from_file_name else settings.default_action
                    rows = rows.with_columns(pl.lit(label).alias(ACTION))
                yield Chunk(name, rows)
        except PermissionError:
            raise SourceError(f"{file} may not be read by this user. Grant read access, then run again.") from None


def _places(settings: DataSettings) -> dict[str, str | int]:
    """Field of an event -> where the log has it; without the action where the log has no such column."""
    places = {field: getattr(settings.columns, field) for field in EVENT_FIELDS}
    return {field: place for field, place in places.items() if place is not None}


def _require(places: dict[str, str | int], found: list[str], file: Path) -> None:
    missing = [f"{place} (data.columns.{field})" for field, place in places.items() if place not in found]
    if missing:
        raise DataError(
            f"{file.name} has no column {', '.join(missing)}. It has: {', '.join(found) or 'no columns'}. "
            "Name the right columns under data.columns in params.yaml."
        )


# --- Parquet


def _parquet(settings: DataSettings, file: Path, source: Path) -> Iterator[pl.DataFrame]:
    import pyarrow as pa
    import pyarrow.dataset as ds

    try:
        table = ds.dataset(file, format="parquet")
        if source.is_dir() and not set(_places(settings).values()) <= set(table.schema.names):
            # The names of a partitioned folder (action=like/part-0.parquet) are columns too.
            table = ds.dataset(file, format="parquet", partitioning="hive", partition_base_dir=str(source))
    except (pa.ArrowException, OSError) as error:
        _reraise(error, f"{file.name} is not a readable Parquet file")
    _require(_places(settings), table.schema.names, file)
    row = 0
    try:
        for batch in table.to_batches(batch_size=ROW_CHUNK, fragment_readahead=1, batch_readahead=1):
            rows: Any = pl.from_arrow(batch)
            fields = {place: field for field, place in _places(settings).items()}
            yield pl.DataFrame(
                [
                    pl.int_range(row + 1, row + rows.height + 1, dtype=pl.Int64, eager=True).alias(ROW),
                    *(rows[place].alias(field) for place, field in fields.items()),
                    pl.Series(RAW, [None], dtype=pl.Null).new_from_index(0, rows.height),
                    pl.Series(REASON, [None], dtype=pl.String).new_from_index(0, rows.height),
                ]
            ).with_columns(rows.to_struct("raw"))
            row += rows.height
    except (pa.ArrowException, OSError) as error:
        _reraise(error, f"{file.name} is damaged after row {row}")


def _reraise(error: Exception, what: str) -> None:
    if isinstance(error, PermissionError):
        raise error
    first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise DataError(f"{what}: {first_line}. It may have been cut off on its way: fetch it again.") from None


# --- text


def open_bytes(file: Path) -> IO[bytes]:
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


def _blocks(file: Path) -> Iterator[bytes]:
    """The file in blocks of whole lines, without a byte order mark."""
    rest, first = b"", True
    with open_bytes(file) as handle:
        while True:
            try:
                block = handle.read(TEXT_CHUNK)
            except (EOFError, gzip.BadGzipFile, OSError) as error:
                _reraise(error, f"{file.name} cannot be decompressed to its end")
            if not block:
                break
            block = rest + block
            if first:
                block, first = block.removeprefix(_BOM), False
            cut = block.rfind(b"\n") + 1
            rest = block[cut:]
            if cut:
                yield block[:cut]
    if rest:
        yield rest


def _lines(block: bytes) -> pl.DataFrame:
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


def cut(settings: DataSettings, raw: pl.Series) -> pl.Series:
    """Each line's fields, as a list of strings."""
    if settings.format == "whitespace":
        return raw.str.extract_all(r"\S+")
    fields = raw.str.split(settings.separator)
    quoted = raw.str.contains('"', literal=True)
    if quoted.any():
        # Line by line: a quote that is never closed must not swallow the lines below it.
        rows = [next(csv.reader([line], delimiter=settings.separator), []) for line in raw.filter(quoted)]
        unquoted = pl.Series(rows, dtype=pl.List(pl.String))
        fields = pl.concat([fields.filter(~quoted), unquoted]).gather(_merge_order(quoted))
    return fields


def _merge_order(quoted: pl.Series) -> pl.Series:
    """Places of the rows in (unquoted rows, then quoted rows), to put them back in order."""
    plain = (~quoted).cum_sum() - 1
    late = quoted.cum_sum() - 1 + int((~quoted).sum())
    return pl.select(pl.when(quoted).then(late).otherwise(plain)).to_series()


def _text(settings: DataSettings, file: Path) -> Iterator[pl.DataFrame]:
    places = _places(settings)
    header = settings.format == "csv" and settings.header
    line, width = 0, None
    for block in _blocks(file):
        rows = _lines(block)
        rows = rows.with_columns(pl.int_range(line + 1, line + rows.height + 1, dtype=pl.Int64).alias(ROW))
        line += rows.height
        skip = pl.col(RAW).str.strip_chars() == ""
        if settings.format == "whitespace":
            skip = skip | pl.col(RAW).str.contains(rf"^\s*[{''.join(COMMENT_MARKS)}]")
        rows = rows.filter(~skip)
        if not rows.height:
            continue
        if width is None and header:
            names = [name.strip() for name in cut(settings, rows[RAW][:1])[0]]
            _require(places, names, file)
            places = {field: names.index(str(place)) + 1 for field, place in places.items()}
            width, rows = len(names), rows[1:]
        fields = cut(settings, rows[RAW])
        if width is None:
            # Without header, the log has as many columns as most of its lines.
            width = int(fields.list.len().mode().max() or 0)  # type: ignore[arg-type]
            far = {field: place for field, place in places.items() if int(place) > width}
            if far:
                raise DataError(
                    f"{file.name} has {width} columns, but data.columns asks for "
                    + ", ".join(f"{field} in column {place}" for field, place in far.items())
                    + ". Correct data.columns, data.format or data.separator in params.yaml."
                )
        ragged = pl.when(fields.list.len() != width).then(pl.lit("ragged_row"))
        yield rows.with_columns(
            pl.coalesce(REASON, ragged).alias(REASON),
            *(
                fields.list.get(int(place) - 1, null_on_oob=True).str.strip_chars().alias(f)
                for f, place in places.items()
            ),
        )
    if width is None and header:
        raise DataError(f"{file.name} is empty: not even a header line. Point `befriend use` at a log with events.")
