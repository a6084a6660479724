"""Reads event logs as they come: Parquet, CSV and white space, plain or compressed, one file or many.

Owns finding the files and the order of their rows. How one file is cut into rows is in `lines` (text) and
`tables` (Parquet); what a valid event is, in `contracts`. Reading goes chunk by chunk, so that a log larger
than memory passes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from befriend.config import DataSettings
from befriend.data.chunk import Chunk
from befriend.data.columns import ACTION
from befriend.data.lines import read_lines
from befriend.data.tables import read_table
from befriend.errors import SourceError


def find_files(source: Path) -> list[Path]:
    """The log's files in name order, links followed; SourceError where there is none, or one may not be read.

    In a folder, names that begin with a dot or an underscore are not part of the log (as Spark and Hadoop have it).
    """
    try:
        if source.is_dir():
            found = sorted(_walk(source))
        elif source.exists():
            found = [source]
        else:
            raise SourceError(
                f"the event log {source} does not exist. `dvc repro` brings it from the place that data.dvc names; "
                "`befriend use SOURCE` names another place."
            )
        for file in found:
            file.open("rb").close()
    except PermissionError as error:
        raise SourceError(
            f"the event log {error.filename} may not be read by this user. Grant read access, then run again."
        ) from None
    except FileNotFoundError as error:
        raise SourceError(f"{error.filename} in the event log is a link to nowhere. Mend or remove it.") from None
    if not found:
        raise SourceError(f"the event log {source} is a folder without files. Put the log's files into it.")
    return found


def _walk(source: Path) -> Iterator[Path]:
    def stop(error: OSError) -> None:
        raise error

    for folder, below, names in os.walk(source, onerror=stop, followlinks=True):
        below[:] = [name for name in below if name[0] not in "._"]
        yield from (Path(folder) / name for name in names if name[0] not in "._")


def read_chunks(settings: DataSettings, source: Path) -> Iterator[Chunk]:
    """The log's rows in order, file by file."""
    read = read_table if settings.format == "parquet" else read_lines
    for file in find_files(source):
        label = file.name.split(".")[0] if settings.action_from_file_name else settings.default_action
        for chunk in read(settings, file, source):
            if settings.columns.action is None:
                yield Chunk(chunk.file, chunk.rows.with_columns(pl.lit(label).alias(ACTION)), chunk.raw)
            else:
                yield chunk
