"""A piece of a log as it was found: what the readers of files hand to the contract."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import polars as pl

from befriend.config import AttributeSettings, DataSettings, StatementSettings, TextSettings
from befriend.data.columns import CATEGORICAL, EVENT_FIELDS, NUMERIC, RAW, USER_ID
from befriend.errors import DataError, explain

SHOWN_NAMES = 400  # characters of a list of columns in a message


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of one file."""

    file: str
    """its name, within the source"""
    rows: pl.DataFrame
    """the wanted fields as found (any type); `row`, from 1: the line of a text file, header included, or the row of
    a table; `reason`: null unless the row cannot even be cut into fields"""
    raw: Any
    """the rows as they were: a polars Series of lines, or a pyarrow RecordBatch"""

    def only(self, chosen: pl.Series) -> Chunk:
        """The chosen rows (bool, one a row) alone."""
        raw = self.raw.filter(chosen if isinstance(self.raw, pl.Series) else chosen.to_arrow())
        return replace(self, rows=self.rows.filter(chosen), raw=raw)

    def raw_text(self, chosen: pl.Series) -> pl.Series:
        """The chosen rows (bool, one a row) as text: a line as it was, a table's row as JSON."""
        if isinstance(self.raw, pl.Series):
            return self.raw.filter(chosen).alias(RAW)
        picked = self.raw.take(np.flatnonzero(chosen.to_numpy())).to_pylist()
        return pl.Series(RAW, [json.dumps(row, default=str, ensure_ascii=False) for row in picked], dtype=pl.String)


@dataclass(frozen=True)
class Wanted:
    """What is to be read of a file."""

    places: dict[str, str | int]
    """field -> its column: the name or, in a file without header, the place from 1"""
    section: str
    """the section of params.yaml that says so"""


def wanted_of_events(settings: DataSettings) -> Wanted:
    """The fields of an event; without the action where the log has no such column."""
    found = {field: getattr(settings.columns, field) for field in EVENT_FIELDS}
    return Wanted({field: place for field, place in found.items() if place is not None}, "data.columns")


def wanted_of_users(settings: AttributeSettings) -> Wanted:
    """The user id and the attributes; a field says what kind of attribute it is: `categorical.country`."""
    labels = [*settings.categorical, *([settings.opt_out] if settings.opt_out else [])]
    kinds = {CATEGORICAL: labels, NUMERIC: settings.numeric}
    attributes: dict[str, str | int] = {f"{kind}.{name}": name for kind, names in kinds.items() for name in names}
    return Wanted({USER_ID: settings.user_id, **attributes}, "data.attributes")


def wanted_of_texts(settings: TextSettings) -> Wanted:
    """The fields of a text; without those that the settings do not name."""
    return Wanted(_named(settings), "data.texts")


def wanted_of_statements(settings: StatementSettings) -> Wanted:
    """The fields of a statement; without the context where the settings do not name one."""
    return Wanted(_named(settings), "data.statements")


def _named(settings: TextSettings | StatementSettings) -> dict[str, str | int]:
    """Fields are called as their settings."""
    return {field: place for field, place in settings if field != "file" and place is not None}


def require(wanted: Wanted, found: list[str], file: Path) -> None:
    """DataError unless each wanted column is there, once."""
    places = wanted.places
    missing = [f"{place} ({wanted.section}.{field})" for field, place in places.items() if place not in found]
    if missing:
        shown = ", ".join(found) or "no columns"
        raise DataError(
            f"{file.name} has no column {', '.join(missing)}. "
            f"It has: {shown[:SHOWN_NAMES]}{'...' * (len(shown) > SHOWN_NAMES)}. "
            f"Name the right columns under {wanted.section} in params.yaml."
        )
    twice = sorted({str(place) for place in places.values() if found.count(str(place)) > 1})
    if twice:
        raise DataError(f"{file.name} has more than one column named {', '.join(twice)}. Give each a name of its own.")


def name_in(file: Path, source: Path) -> str:
    return file.name if source == file else str(file.relative_to(source))


def damaged(error: Exception, what: str) -> NoReturn:
    """Raises the DataError that a reader's failure amounts to; what the disk fails to give is no fault of the file."""
    known = explain(error)
    if known is not None:
        raise known from None
    first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise DataError(f"{what}: {first_line}. It may have been cut off on its way: fetch it again.") from None
