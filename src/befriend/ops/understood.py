"""What `befriend use` understood of a log and of the tables beside it, for a person to look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import polars as pl
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from befriend import layout
from befriend.config import DataSettings
from befriend.data.columns import ACTION, ACTOR, REASON, REASONS, ROW, TARGET, TIMESTAMP
from befriend.data.judging import judge, judge_attributes, judge_statements, judge_texts
from befriend.data.sources import read_attribute_chunks, read_chunks, read_statement_chunks, read_text_chunks
from befriend.progress import track

SHOWN = 5
WIDE = 100  # characters of a field


@dataclass
class Seen:
    """A whole log or table beside it, as it was understood."""

    first: pl.DataFrame = field(default_factory=pl.DataFrame)
    """the first rows, judged"""
    actions: dict[str, int] = field(default_factory=dict)
    """accepted rows by action"""
    refused: dict[str, int] = field(default_factory=dict)
    """refused rows by reason"""
    rows: int = 0

    def add(self, judged: pl.DataFrame) -> None:
        """The next rows, with their `reason`."""
        self.rows += judged.height
        self.first = self.first if self.first.height else judged[:SHOWN]
        for reason, count in judged.filter(pl.col(REASON).is_not_null()).group_by(REASON).len().iter_rows():
            self.refused[reason] = self.refused.get(reason, 0) + count


def look(settings: DataSettings) -> Seen:
    """The log in data/."""
    seen = Seen()
    for chunk in track(read_chunks(settings, layout.DATA), "reading the log"):
        rows = judge(chunk.rows, settings, None)
        seen.add(rows)
        for action, count in rows.filter(pl.col(REASON).is_null()).group_by(ACTION).len().iter_rows():
            seen.actions[action] = seen.actions.get(action, 0) + count
    return seen


def look_beside(settings: DataSettings) -> dict[str, Seen]:
    """The tables beside the log in data/, by what their rows are; without rows where there is none."""
    found = {"users": Seen(), "texts": Seen(), "statements": Seen()}
    for chunk in read_attribute_chunks(settings, layout.DATA):
        found["users"].add(judge_attributes(chunk.rows, settings))
    for chunk in track(read_text_chunks(settings, layout.DATA), "reading the texts"):
        found["texts"].add(judge_texts(chunk.rows, settings, None))
    for chunk in track(read_statement_chunks(settings, layout.DATA), "reading the statements"):
        found["statements"].add(judge_statements(chunk.rows, settings))
    return found


def show(console: Console, settings: DataSettings, seen: Seen, beside: dict[str, Seen]) -> None:
    """The first rows of everything, what is refused, and what comes next."""
    title = "The first rows, as understood"
    table = Table("actor", "action", "target", "time (UTC)", "refused because", title=title, title_justify="left")
    for *fields, reason in seen.first.select(ACTOR, ACTION, TARGET, _time(), REASON).iter_rows():
        table.add_row(*map(_written, fields), REASONS.get(reason, ""))
    console.print(table)
    actions = [f"{a} {count:,} ({settings.roles.get(a, 'contact')})" for a, count in sorted(seen.actions.items())]
    console.print(escape(f"{seen.rows:,} rows. Actions and their roles: {', '.join(actions)}"), highlight=False)
    _show_refused(console, seen)
    for what, part in beside.items():
        if part.rows:
            _show_beside(console, what, part)
    console.print(
        "data.dvc and the data: section of params.yaml are written. If a row above is misread, correct params.yaml.\n"
        "Next: [bold]dvc repro[/]",
        highlight=False,
    )


def _show_beside(console: Console, what: str, seen: Seen) -> None:
    """A table under the names of its fields; an attribute's says of what kind it is, as `categorical.country`."""
    columns = [name for name in seen.first.columns if name not in (ROW, REASON)]
    title = f"The first {what}, as understood"
    table = Table(*map(escape, columns), "refused because", title=title, title_justify="left")
    shown = seen.first.with_columns(_time()) if TIMESTAMP in columns else seen.first
    for *values, reason in shown.select(*columns, REASON).iter_rows():
        table.add_row(*map(_written, values), REASONS.get(reason, ""))
    console.print(table)
    console.print(f"{seen.rows:,} rows of {what}.", highlight=False)
    _show_refused(console, seen)


def _time() -> pl.Expr:
    """The moment in UTC, of a row that is not refused."""
    second = pl.when(pl.col(REASON).is_null()).then(pl.col(TIMESTAMP))
    return pl.from_epoch(second).dt.strftime("%Y-%m-%d %H:%M:%S").alias(TIMESTAMP)


def _written(value: Any) -> str:
    text = "" if value is None else ", ".join(value) if isinstance(value, list) else str(value)
    return escape(text if len(text) <= WIDE else f"{text[:WIDE]}...")


def _show_refused(console: Console, seen: Seen) -> None:
    for reason, count in sorted(seen.refused.items()):
        console.print(f"[yellow]{count:,} rows would be refused: {REASONS[reason]}[/]", highlight=False)
