"""A piece of a log as it was found: what the readers of files hand to the contract."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import polars as pl

from befriend.config import DataSettings
from befriend.data.columns import EVENT_FIELDS, RAW
from befriend.errors import DataError

SHOWN_NAMES = 400  # characters of a list of columns in a message


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of one file."""

    file: str
    """its name, within the source"""
    rows: pl.DataFrame
    """the event's fields as found (any type); `row`, from 1: the line of a text file, header included, or the row of
    a table; `reason`: null unless the row cannot even be cut into fields"""
    raw: Any
    """the rows as they were: a polars Series of lines, or a pyarrow RecordBatch"""

    def raw_text(self, chosen: pl.Series) -> pl.Series:
        """The chosen rows (bool, one a row) as text: a line as it was, a table's row as JSON."""
        if isinstance(self.raw, pl.Series):
            return self.raw.filter(chosen).alias(RAW)
        picked = self.raw.take(np.flatnonzero(chosen.to_numpy())).to_pylist()
        return pl.Series(RAW, [json.dumps(row, default=str, ensure_ascii=False) for row in picked], dtype=pl.String)


def places(settings: DataSettings) -> dict[str, str | int]:
    """Field of an event -> where the log has it; without the action where the log has no such column."""
    found = {field: getattr(settings.columns, field) for field in EVENT_FIELDS}
    return {field: place for field, place in found.items() if place is not None}


def require(wanted: dict[str, str | int], found: list[str], file: Path) -> None:
    """DataError unless each wanted column is there, once."""
    missing = [f"{place} (data.columns.{field})" for field, place in wanted.items() if place not in found]
    if missing:
        shown = ", ".join(found) or "no columns"
        raise DataError(
            f"{file.name} has no column {', '.join(missing)}. "
            f"It has: {shown[:SHOWN_NAMES]}{'...' * (len(shown) > SHOWN_NAMES)}. "
            "Name the right columns under data.columns in params.yaml."
        )
    twice = sorted({str(place) for place in wanted.values() if found.count(str(place)) > 1})
    if twice:
        raise DataError(f"{file.name} has more than one column named {', '.join(twice)}. Give each a name of its own.")


def name_in(file: Path, source: Path) -> str:
    return file.name if source == file else str(file.relative_to(source))


def damaged(error: Exception, what: str) -> NoReturn:
    """Raises the DataError that a reader's failure amounts to."""
    first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise DataError(f"{what}: {first_line}. It may have been cut off on its way: fetch it again.") from None
