"""Finds the files of an event log and of its side tables (attributes, texts, statements), and reads them in chunks.

The log, `source`, is one file or a folder of files. The modules `delimited`, `parquet` and `jsonl` read the rows of one
file; `befriend.validation.row_rules` checks them. No file is held in memory as a whole.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl

from befriend.data.columns import ACTION
from befriend.errors import DataError, SettingsError, SourceError
from befriend.readers.chunk import (
    NO_PART,
    Chunk,
    ColumnMapping,
    attribute_columns,
    event_columns,
    statement_columns,
    text_columns,
)
from befriend.readers.data_settings import DataSettings
from befriend.readers.delimited import read_delimited_rows
from befriend.readers.jsonl import read_jsonl_rows
from befriend.readers.parquet import binary_format, read_table_rows

SIDE_TABLES = ("attributes", "texts", "statements")  # names of their sections in DataSettings
_DUCKDB = "duckdb -c \"INSTALL {0}; LOAD {0}; COPY (FROM {0}_scan('{{}}')) TO 'log.parquet'\""
TABLE_FORMATS = {
    "_delta_log": ("Delta Lake", _DUCKDB.format("delta")),
    "metadata/*.metadata.json": ("Iceberg", _DUCKDB.format("iceberg")),
    ".hoodie": ("Hudi", "in Spark, spark.read.format('hudi').load('{}').write.parquet('log')"),
}
"""a file or folder that only a table of this format has -> the name of the format, and how to export the table"""
COPY_PATTERN = r"(?i)(\.(gz|bz2|xz|zst|zip|bak|old|orig|swp)|~)+$"  # what follows the name in that of a copy
MAX_FILES_SHOWN = 20  # in a message


def find_files(settings: DataSettings, source: Path) -> list[Path]:
    """The event files of the log in name order; SourceError if there are none, or if one of its files is not readable.

    Links are followed, and a file that several links lead to is listed once. A link to a folder that contains the link
    is a SourceError. In a folder, files whose names begin with a dot or an underscore are not part of the log (the
    convention of Spark and Hadoop), and neither are side tables. This function does not check that side tables exist.
    """
    event_files, side_files = _list_files(settings, source)
    try:
        for file in [*event_files, *side_files]:
            if file.exists() and not file.is_file():
                raise SourceError(f"{file} is no file, but perhaps a pipe, which can be read only once. Save it first.")
            file.open("rb").close()
    except PermissionError as error:
        raise _unreadable(error) from None
    except FileNotFoundError as error:
        raise SourceError(f"{error.filename} in the event log is a link to nowhere. Repair or remove it.") from None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise SourceError(f"{error.filename} in the event log is a link that leads to itself. Remove it.") from None
    return event_files


def _list_files(settings: DataSettings, source: Path) -> tuple[list[Path], list[Path]]:
    """The event files in name order (at least one), and the side tables that exist. Opens no file."""
    names = [getattr(settings, table).file for table in SIDE_TABLES]
    try:
        side_files = [source / name for name in names if name is not None and (source / name).is_file()]
        if source.is_dir():
            side_paths = set(map(os.path.realpath, side_files))
            event_files = [
                file for file in _distinct(_walk(source), source) if os.path.realpath(file) not in side_paths
            ]
        elif source.exists():
            event_files = [source]
        else:
            raise SourceError(
                f"the event log {source} does not exist. `dvc repro` fetches it from the source that data.dvc names; "
                "`befriend use SOURCE` sets another source."
            )
    except PermissionError as error:
        raise _unreadable(error) from None
    _require_no_copies(event_files)
    if not event_files:
        other_than = f" other than {', '.join(file.name for file in side_files)}" if side_files else ""
        raise SourceError(f"the event log {source} is a folder without files{other_than}. Put the log's files into it.")
    return event_files, side_files


def _require_no_copies(files: list[Path]) -> None:
    """Raises a SourceError if two files seem to hold the same events, such as log.csv and log.csv.gz."""
    by_stem: dict[Path, Path] = {}
    for file in files:
        stem = file.with_name(re.sub(COPY_PATTERN, "", file.name))
        other = by_stem.setdefault(stem, file)
        if other != file:
            raise SourceError(
                f"{file.name} and {other.name} seem to be one file twice, whose events would count twice. Take one of "
                f"them out of {file.parent}, or begin its name with _."
            )


def _unreadable(error: PermissionError) -> SourceError:
    """The error for a file or folder of the log that the process has no permission to read."""
    return SourceError(
        f"the event log {error.filename} may not be read by this user. Grant read access, then run again."
    )


def require_log(settings: DataSettings, source: Path) -> None:
    """Raises a SourceError if there is no log. Does not check that its files are readable."""
    _list_files(settings, source)


def require_tables(settings: DataSettings, source: Path) -> None:
    """Raises an error if a side table that the settings name is missing. Does nothing if there is no log."""
    for table in SIDE_TABLES:
        _side_table_files(settings, table, source)


def _side_table_files(settings: DataSettings, table: str, source: Path) -> list[Path]:
    """A list with the file of one side table; empty if the settings name none or there is no log.

    SettingsError if the log is a single file, SourceError if the table is missing.
    """
    name = getattr(settings, table).file
    if name is None or not source.exists():
        return []
    if not source.is_dir():
        raise SettingsError(
            f"data.{table}.file names {name} in the folder of the event log, but {source} is a single "
            "file. Put both into one folder and point `befriend use` at that."
        )
    file = source / name
    if not file.is_file():
        names = ", ".join(sorted(path.name for path in source.iterdir())[:MAX_FILES_SHOWN]) or "nothing"
        raise SourceError(f"data.{table}.file names {name}, but there is no such file in {source}. It holds: {names}.")
    return [file]


def _walk(folder: Path, ancestors: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yields the files in a folder and its subfolders; follows links. ancestors: real paths of its parent folders."""
    real_folder = Path(os.path.realpath(folder))
    if any(ancestor.is_relative_to(real_folder) for ancestor in ancestors):
        raise SourceError(
            f"{folder} in the event log leads back to {real_folder}, which contains it. Remove that link."
        )
    _require_no_table_format(folder)
    for path in folder.iterdir():
        if path.name[0] in "._":
            continue
        if path.is_dir():
            yield from _walk(path, (*ancestors, real_folder))
        else:
            yield path


def _require_no_table_format(folder: Path) -> None:
    """Raises a SourceError for a table of Delta Lake, Iceberg or Hudi: its folder has rows of former versions, too."""
    for pattern, (name, command) in TABLE_FORMATS.items():
        if any(folder.glob(pattern)):
            raise SourceError(
                f"{folder} is a table of {name}, whose files also hold rows that were deleted or replaced. Export its "
                f"current version: {command.format(folder)}"
            )


def _distinct(paths: Iterable[Path], source: Path) -> list[Path]:
    """Each file once, in name order: by its own path if it lies in `source`, else by that of the first link to it."""
    real_paths = {path: Path(os.path.realpath(path)) for path in paths}
    real_source = Path(os.path.realpath(source))
    first_paths: dict[Path, Path] = {}
    for path in sorted(real_paths, key=lambda path: (real_paths[path] != real_source / path.relative_to(source), path)):
        first_paths.setdefault(real_paths[path], path)
    return sorted(first_paths.values())


def read_chunks(settings: DataSettings, source: Path) -> Iterator[Chunk]:
    """Yields the event rows of the log in order, file by file.

    If the log has no column of actions, adds one: the start of the file's name, or the default action of the settings.
    """
    mapping = event_columns(settings)
    for file in find_files(settings, source):
        label = file.name.split(".")[0] if settings.action_from_file_name else settings.default_action
        for chunk in _read(settings, mapping, file, source):
            if settings.columns.action is None:
                yield replace(chunk, rows=chunk.rows.with_columns(pl.lit(label).alias(ACTION)))
            else:
                yield chunk


def read_attribute_chunks(settings: DataSettings, source: Path) -> Iterator[Chunk]:
    """Yields the rows of the table of users in order; nothing if there is none. It is Parquet or CSV by its content."""
    attributes = settings.attributes
    for file in _side_table_files(settings, "attributes", source):
        table_settings = DataSettings(format=binary_format(file) or "csv", separator=attributes.separator)
        yield from _read(table_settings, attribute_columns(attributes), file, source)


def read_text_chunks(settings: DataSettings, source: Path) -> Iterator[Chunk]:
    """Yields the rows of the table of texts in order; nothing if there is none."""
    for file in _side_table_files(settings, "texts", source):
        yield from _read_objects(text_columns(settings.texts), file, source)


def read_statement_chunks(settings: DataSettings, source: Path) -> Iterator[Chunk]:
    """Yields the rows of the table of statements in order; nothing if there is none."""
    for file in _side_table_files(settings, "statements", source):
        yield from _read_objects(statement_columns(settings.statements), file, source)


def _read_objects(mapping: ColumnMapping, file: Path, source: Path) -> Iterator[Chunk]:
    """Reads a file as Parquet, Arrow or JSON Lines, depending on its content."""
    return (read_table_rows if binary_format(file) else read_jsonl_rows)(mapping, file, source)


def _read(settings: DataSettings, mapping: ColumnMapping, file: Path, source: Path) -> Iterator[Chunk]:
    """Reads a file in the format that the settings name; DataError if it is in another one."""
    if settings.format in ("parquet", "arrow"):
        if binary_format(file) != settings.format:
            raise DataError(f"{file.name} is no {settings.format.capitalize()} file, as data.format says. {NO_PART}")
        return read_table_rows(mapping, file, source)
    if settings.format == "jsonl":
        return read_jsonl_rows(mapping, file, source)
    return read_delimited_rows(settings, mapping, file, source)
