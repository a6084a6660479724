"""Shows the user how `befriend use` understood a log and its side tables (attributes, texts, statements)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import polars as pl
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from befriend import layout
from befriend.data.columns import ACTION, ACTOR, REASON, REASONS, ROW, TARGET, TIMESTAMP
from befriend.progress import track
from befriend.readers.data_settings import DataSettings
from befriend.readers.sources import read_attribute_chunks, read_chunks, read_statement_chunks, read_text_chunks
from befriend.validation.row_rules import check_attribute_rows, check_rows, check_statement_rows, check_text_rows

SHOWN = 5
MAX_WIDTH = 100  # characters of a field


@dataclass
class TablePreview:
    """What was read of a whole log or side table."""

    first: pl.DataFrame = field(default_factory=pl.DataFrame)
    """the first rows, with the `reason` why each is refused, or null"""
    actions: dict[str, int] = field(default_factory=dict)
    """accepted rows by action"""
    refused: dict[str, int] = field(default_factory=dict)
    """refused rows by reason"""
    rows: int = 0

    def add(self, judged: pl.DataFrame) -> None:
        """Counts the next rows. judged: rows with their `reason`, null for accepted ones."""
        self.rows += judged.height
        self.first = self.first if self.first.height else judged[:SHOWN]
        for reason, count in judged.filter(pl.col(REASON).is_not_null()).group_by(REASON).len().iter_rows():
            self.refused[reason] = self.refused.get(reason, 0) + count


def preview_log(settings: DataSettings) -> TablePreview:
    """Reads and checks the whole log in data/."""
    preview = TablePreview()
    for chunk in track(read_chunks(settings, layout.DATA), "reading the log"):
        rows = check_rows(chunk.rows, settings, None)
        preview.add(rows)
        for action, count in rows.filter(pl.col(REASON).is_null()).group_by(ACTION).len().iter_rows():
            preview.actions[action] = preview.actions.get(action, 0) + count
    return preview


def preview_side_tables(settings: DataSettings) -> dict[str, TablePreview]:
    """Reads and checks the side tables in data/; returns previews by what the rows are, empty if there is no table."""
    previews = {"users": TablePreview(), "texts": TablePreview(), "statements": TablePreview()}
    for chunk in read_attribute_chunks(settings, layout.DATA):
        previews["users"].add(check_attribute_rows(chunk.rows, settings))
    for chunk in track(read_text_chunks(settings, layout.DATA), "reading the texts"):
        previews["texts"].add(check_text_rows(chunk.rows, settings, None))
    for chunk in track(read_statement_chunks(settings, layout.DATA), "reading the statements"):
        previews["statements"].add(check_statement_rows(chunk.rows, settings))
    return previews


def print_preview(
    console: Console, settings: DataSettings, preview: TablePreview, side_tables: dict[str, TablePreview]
) -> None:
    """Prints the first rows of the log and the side tables, the numbers of refused rows, and the next step."""
    title = "The first rows, as understood"
    table = Table("actor", "action", "target", "time (UTC)", "refused because", title=title, title_justify="left")
    for *fields, reason in preview.first.select(ACTOR, ACTION, TARGET, _time(), REASON).iter_rows():
        table.add_row(*map(_cell, fields), REASONS.get(reason, ""))
    console.print(table)
    actions = [f"{a} {count:,} ({settings.roles.get(a, 'contact')})" for a, count in sorted(preview.actions.items())]
    console.print(escape(f"{preview.rows:,} rows. Actions and their roles: {', '.join(actions)}"), highlight=False)
    _show_refused(console, preview)
    for name, side_table in side_tables.items():
        if side_table.rows:
            _show_side_table(console, name, side_table)
    console.print(
        "data.dvc and the data: section of params.yaml were written. If a row above is misread, correct params.yaml.\n"
        "Next: [bold]dvc repro[/]",
        highlight=False,
    )


def _show_side_table(console: Console, name: str, preview: TablePreview) -> None:
    """Prints the first rows of a side table. Names of attributes contain their kind, as `categorical.country`."""
    columns = [column for column in preview.first.columns if column not in (ROW, REASON)]
    title = f"The first {name}, as understood"
    table = Table(*map(escape, columns), "refused because", title=title, title_justify="left")
    shown = preview.first.with_columns(_time()) if TIMESTAMP in columns else preview.first
    for *values, reason in shown.select(*columns, REASON).iter_rows():
        table.add_row(*map(_cell, values), REASONS.get(reason, ""))
    console.print(table)
    console.print(f"{preview.rows:,} rows of {name}.", highlight=False)
    _show_refused(console, preview)


def _time() -> pl.Expr:
    """The time in UTC as text; null for refused rows."""
    second = pl.when(pl.col(REASON).is_null()).then(pl.col(TIMESTAMP))
    return pl.from_epoch(second).dt.strftime("%Y-%m-%d %H:%M:%S").alias(TIMESTAMP)


def _cell(value: Any) -> str:
    """A value as the text of a table cell, at most MAX_WIDTH characters of it."""
    text = "" if value is None else ", ".join(value) if isinstance(value, list) else str(value)
    return escape(text if len(text) <= MAX_WIDTH else f"{text[:MAX_WIDTH]}...")


def _show_refused(console: Console, preview: TablePreview) -> None:
    for reason, count in sorted(preview.refused.items()):
        console.print(f"[yellow]{count:,} rows would be refused: {REASONS[reason]}[/]", highlight=False)
