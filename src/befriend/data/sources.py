"""Reads event logs as they come: Parquet, CSV and white space, plain or compressed, one file or many.

Owns finding the files, telling the tables beside the events (attributes, texts, statements) from the events, and the
order of rows. How one file is cut into rows is in `lines` (text), `tables` (Parquet) and `objects` (JSON Lines); what a
valid row is, in `judging`. Reading goes chunk by chunk: the file itself is never in memory as a whole.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import polars as pl

from befriend.config import DataSettings
from befriend.data.chunk import (
    Chunk,
    Wanted,
    wanted_of_events,
    wanted_of_statements,
    wanted_of_texts,
    wanted_of_users,
)
from befriend.data.columns import ACTION
from befriend.data.lines import read_lines
from befriend.data.objects import read_objects
from befriend.data.tables import is_parquet, read_table
from befriend.errors import SettingsError, SourceError

BESIDE = ("attributes", "texts", "statements")  # settings that name a table beside the events
SHOWN_FILES = 20  # in a message


def find_files(settings: DataSettings, source: Path) -> list[Path]:
    """The log's files in name order, links followed; SourceError where there is none, or one may not be read.

    A file to which links lead as well is there once. A link to a folder that holds it is a SourceError.
    In a folder, names that begin with a dot or an underscore are not part of the log (as Spark and Hadoop have it),
    and the tables beside the events are not; those need not be there for the events to be read.
    """
    found, apart = _listed(settings, source)
    try:
        for file in [*found, *apart]:
            file.open("rb").close()
    except PermissionError as error:
        raise _unreadable(error) from None
    except FileNotFoundError as error:
        raise SourceError(f"{error.filename} in the event log is a link to nowhere. Mend or remove it.") from None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise SourceError(f"{error.filename} in the event log is a link that leads to itself. Remove it.") from None
    return found


def _listed(settings: DataSettings, source: Path) -> tuple[list[Path], list[Path]]:
    """The log's files in name order, at least one, and those of the tables beside the events; none is opened."""
    names = [getattr(settings, table).file for table in BESIDE]
    try:
        apart = [source / name for name in names if name is not None and (source / name).is_file()]
        if source.is_dir():
            elsewhere = set(map(os.path.realpath, apart))
            found = [file for file in _once(_walk(source), source) if os.path.realpath(file) not in elsewhere]
        elif source.exists():
            found = [source]
        else:
            raise SourceError(
                f"the event log {source} does not exist. `dvc repro` brings it from the place that data.dvc names; "
                "`befriend use SOURCE` names another place."
            )
    except PermissionError as error:
        raise _unreadable(error) from None
    if not found:
        but = f" other than {', '.join(file.name for file in apart)}" if apart else ""
        raise SourceError(f"the event log {source} is a folder without files{but}. Put the log's files into it.")
    return found, apart


def _unreadable(error: PermissionError) -> SourceError:
    return SourceError(
        f"the event log {error.filename} may not be read by this user. Grant read access, then run again."
    )


def require_log(settings: DataSettings, source: Path) -> None:
    """SourceError where there is no log at all; whether the one that is there may be read is told by reading it."""
    _listed(settings, source)


def require_tables(settings: DataSettings, source: Path) -> None:
    """An error unless each table that is to be beside the events is there; none where there is no log at all."""
    for table in BESIDE:
        _beside(settings, table, source)


def _beside(settings: DataSettings, table: str, source: Path) -> list[Path]:
    """The file with the attributes, the texts or the statements, if there is to be one."""
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
        there = ", ".join(sorted(path.name for path in source.iterdir())[:SHOWN_FILES]) or "nothing"
        raise SourceError(f"data.{table}.file names {name}, but there is no such file in {source}. It holds: {there}.")
    return [file]


def _walk(folder: Path, inside: tuple[Path, ...] = ()) -> Iterator[Path]:
    """The files below a folder, links followed. inside: the real folders that lead to it."""
    real = Path(os.path.realpath(folder))
    if any(outer.is_relative_to(real) for outer in inside):
        raise SourceError(f"{folder} in the event log leads back to {real}, which holds it. Remove that link.")
    for path in folder.iterdir():
        if path.name[0] in "._":
            continue
        if path.is_dir():
            yield from _walk(path, (*inside, real))
        else:
            yield path


def _once(paths: Iterable[Path], source: Path) -> list[Path]:
    """In name order, each file once: as it lies in `source`, or by the first link to it where it lies elsewhere."""
    real = {path: Path(os.path.realpath(path)) for path in paths}
    root = Path(os.path.realpath(source))
    names: dict[Path, Path] = {}
    for path in sorted(real, key=lambda path: (real[path] != root / path.relative_to(source), path)):
        names.setdefault(real[path], path)
    return sorted(names.values())


def read_chunks(settings: DataSettings, source: Path) -> Iterator[Chunk]:
    """The log's rows in order, file by file."""
    wanted = wanted_of_events(settings)
    for file in find_files(settings, source):
        label = file.name.split(".")[0] if settings.action_from_file_name else settings.default_action
        for chunk in _read(settings, wanted, file, source):
            if settings.columns.action is None:
                yield Chunk(chunk.file, chunk.rows.with_columns(pl.lit(label).alias(ACTION)), chunk.raw)
            else:
                yield chunk


def read_attribute_chunks(settings: DataSettings, source: Path) -> Iterator[Chunk]:
    """The rows of the table of users in order; none without such a table. Its format is told by its content."""
    attributes = settings.attributes
    for file in _beside(settings, "attributes", source):
        layout = DataSettings(format="parquet" if is_parquet(file) else "csv", separator=attributes.separator)
        yield from _read(layout, wanted_of_users(attributes), file, source)


def read_text_chunks(settings: DataSettings, source: Path) -> Iterator[Chunk]:
    """The rows of the table of texts in order; none without one."""
    for file in _beside(settings, "texts", source):
        yield from _read_either(wanted_of_texts(settings.texts), file, source)


def read_statement_chunks(settings: DataSettings, source: Path) -> Iterator[Chunk]:
    """The rows of the table of statements in order; none without one."""
    for file in _beside(settings, "statements", source):
        yield from _read_either(wanted_of_statements(settings.statements), file, source)


def _read_either(wanted: Wanted, file: Path, source: Path) -> Iterator[Chunk]:
    """Parquet or JSON Lines, as its content tells."""
    return (read_table if is_parquet(file) else read_objects)(wanted, file, source)


def _read(settings: DataSettings, wanted: Wanted, file: Path, source: Path) -> Iterator[Chunk]:
    if settings.format == "parquet":
        return read_table(wanted, file, source)
    return read_lines(settings, wanted, file, source)
