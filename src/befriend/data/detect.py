"""Guesses how an event log is laid out, so that a person only has to look and agree.

Only `befriend use` guesses; what it finds is written to params.yaml and read from there ever after.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import polars as pl

from befriend.config import DataSettings
from befriend.data.columns import ACTION, ACTOR, TARGET, TIMESTAMP
from befriend.data.judging import WHOLE
from befriend.data.lines import blocks, cut, without_rows
from befriend.data.sources import BESIDE, find_files, require_tables
from befriend.data.tables import head, is_parquet
from befriend.errors import CallError
from befriend.settings import parse

NAMES = {
    ACTOR: ("actor_id", "actor", "source", "src", "from", "from_id", "sender", "user", "user_id", "follower", "u"),
    TARGET: ("target_id", "target", "dst", "dest", "to", "to_id", "receiver", "recipient", "friend", "followee", "v"),
    ACTION: ("action", "event", "event_type", "type", "verb", "kind", "label"),
    TIMESTAMP: ("timestamp", "ts", "time", "datetime", "date", "created_at", "unixts", "unix_ts", "event_time"),
}
OPTIONS = {ACTOR: "--actor", TARGET: "--target", ACTION: "--action", TIMESTAMP: "--timestamp"}
SEPARATORS = (",", "\t", ";", "|")
LINES = 200
HEAD = 1 << 16  # bytes looked at
ROWS = 1000
WHERE = {
    "header": False,
    "columns": {ACTOR: 1, ACTION: None, TARGET: 2, TIMESTAMP: 3},
}  # any will do
NOTHING_BESIDE = DataSettings()
_INTEGER = re.compile(r"^[-+]?\d+$")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def detect(
    source: Path,
    columns: dict[str, str],
    unit: str | None,
    separator: str | None,
    header: bool | None,
    beside: DataSettings = NOTHING_BESIDE,
) -> DataSettings:
    """Settings for the log at `source`.

    columns: what the caller knows of where fields stand; it is not doubted, nor is what the tables beside the events
    are: the attributes, texts and statements of `beside`.
    """
    require_tables(beside, source)
    found = find_files(beside, source)
    if is_parquet(found[0]):
        raw: dict[str, Any] = {"format": "parquet"}
        table = head(found[0], source, ROWS)
    else:
        raw, table = _text_head(found[0], separator, header)
    places = _columns(table, columns, named=raw["format"] != "whitespace" and bool(raw.get("header", True)))
    if ACTION not in places and len(found) > 1:
        raw["action_from_file_name"] = True
    if not table.height:
        raise CallError(f"{found[0]} has columns but no events. Give a log with events.")
    ids = pl.concat([table[str(places[f])].cast(pl.String).str.strip_chars() for f in (ACTOR, TARGET)]).drop_nulls()
    raw |= {
        "columns": {ACTION: None} | places,
        "id_type": _id_type(ids),
        "timestamp_unit": unit or _unit(table[str(places[TIMESTAMP])]),
        **{table: getattr(beside, table).model_dump() for table in BESIDE},
    }
    return parse(DataSettings, raw, "befriend use")


def _id_type(ids: pl.Series) -> str:
    """integer, where most ids are, and none would change by being read as one (007)."""
    integers = ids.str.contains(_INTEGER.pattern)
    padded = integers & ~ids.str.contains(WHOLE)
    return "integer" if integers.sum() > len(ids) / 2 and not padded.any() else "string"


def _text_head(file: Path, separator: str | None, header: bool | None) -> tuple[dict[str, Any], pl.DataFrame]:
    """Format settings, and the first lines as a table of strings; columns named from 1 where there is no header."""
    block = next(blocks(file, HEAD), b"")
    lines = pl.Series([line.rstrip("\r") for line in block.decode(errors="replace").split("\n")[:LINES]])
    body = lines.filter(~without_rows("whitespace", True, lines)).to_list()
    if not body:
        raise CallError(f"{file} has no lines to look at. Give a log with events.")
    mark = {"\\t": "\t"}.get(separator or "", separator) or _separator(body)
    raw: dict[str, Any] = {"format": "whitespace"} if mark is None else {"format": "csv", "separator": mark}
    rows = cut(parse(DataSettings, raw | WHERE, "befriend use"), pl.Series(body)).to_list()
    rows = [[field.strip() for field in row] for row in rows]
    if mark is not None:
        raw["header"] = _has_header(rows) if header is None else header
    width = len(rows[0])
    names = rows.pop(0) if raw.get("header") else [str(k + 1) for k in range(width)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CallError(f"{file} has more than one column named {', '.join(twice)}. Give each a name of its own.")
    rows = [row for row in rows if len(row) == width]
    if not rows:
        raise CallError(f"{file} has a header but no events. Give a log with events.")
    return raw, pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")


def _separator(lines: list[str]) -> str | None:
    """The mark that stands equally often, at least twice, on nearly all lines; None for white space."""
    for mark in SEPARATORS:
        counts = [line.count(mark) for line in lines]
        usual = max(set(counts), key=counts.count)
        if usual >= 2 and counts.count(usual) >= 0.9 * len(counts):
            return mark
    return None


def _has_header(rows: list[list[str]]) -> bool:
    def numeric(row: list[str]) -> bool:
        return any(_INTEGER.match(field) or _DATE.match(field) for field in row)

    return not numeric(rows[0]) and (len(rows) == 1 or any(numeric(row) for row in rows[1:]))


def _columns(table: pl.DataFrame, told: dict[str, str], named: bool) -> dict[str, str | int]:
    """Field -> column, for the fields that were told or can be found; CallError names those that cannot."""
    names = table.columns
    told = {field: names[int(name) - 1] if _place(name, names) else name for field, name in told.items()}
    strange = [f"{OPTIONS[field]} {name}" for field, name in told.items() if name not in names]
    if strange:
        raise CallError(f"the log has no column {', '.join(strange)}. It has: {', '.join(names)}.")
    places = dict(told)
    lower = {name.lower(): name for name in reversed(names)}
    for field, known in NAMES.items():
        hits = [lower[name] for name in known if name in lower and lower[name] not in places.values()]
        if named and field not in places and hits:
            places[field] = hits[0]
    if not named:
        places = _by_content(table, places)
    missing = [field for field in (ACTOR, TARGET, TIMESTAMP) if field not in places]
    if missing:
        raise CallError(
            f"which column is {', '.join(missing)}? The log has: {', '.join(names)}. "
            f"Say it with {' '.join(f'{OPTIONS[field]} COLUMN' for field in missing)}."
        )
    return {field: name if named else int(name) for field, name in places.items()}


def _place(name: str, names: list[str]) -> bool:
    """Whether `name` is no column's name but a place, from 1."""
    return name not in names and name.isdecimal() and 1 <= int(name) <= len(names)


def _by_content(table: pl.DataFrame, told: dict[str, str]) -> dict[str, str]:
    """Columns without names: the time is the one of dates or large numbers, the action the one of few words."""
    places = dict(told)
    left = [name for name in table.columns if name not in places.values()]
    if TIMESTAMP not in places:
        dates = [
            name for name in left if (_number(table[name]) >= 10**8) or table[name].str.contains(_DATE.pattern).all()
        ]
        if dates:
            places[TIMESTAMP] = dates[-1]
            left.remove(dates[-1])
    words = [
        name for name in left if not table[name].str.contains(_INTEGER.pattern).any() and table[name].n_unique() <= 20
    ]
    if ACTION not in places and len(left) > 2 and words:
        places[ACTION] = words[0]
        left.remove(words[0])
    for field in (ACTOR, TARGET):
        if field not in places and left:
            places[field] = left.pop(0)
    return places


def _number(column: pl.Series) -> float:
    value = column.cast(pl.Float64, strict=False).median()
    return float(value) if value is not None else 0.0  # type: ignore[arg-type]


def _unit(column: pl.Series) -> str:
    if column.dtype.is_temporal() or (
        column.dtype == pl.String and not column.str.contains(r"^\s*-?\d+(\.0*)?\s*$").any()
    ):
        return "iso"
    size = abs(_number(column))
    return next((unit for unit, least in (("ns", 10**17), ("us", 10**14), ("ms", 10**11)) if size >= least), "s")
