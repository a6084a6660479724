"""Reads a log and its side tables (attributes, texts, statements) for `befriend use`, and prints how they were read."""

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
from befriend.validation.row_rules import check_attribute_rows, check_event_rows, check_statement_rows, check_text_rows

NUM_SHOWN_ROWS = 5
MAX_WIDTH = 100  # characters of a field


@dataclass
class TablePreview:
    """The first rows of a log or side table, and counts of all its rows."""

    first_rows: pl.DataFrame = field(default_factory=pl.DataFrame)
    """column `reason` says why a row is rejected; null for accepted rows"""
    num_accepted_by_action: dict[str, int] = field(default_factory=dict)
    num_rejected_by_reason: dict[str, int] = field(default_factory=dict)
    num_rows: int = 0

    def add(self, checked_rows: pl.DataFrame) -> None:
        """Counts the next rows of the table. checked_rows: with column `reason`, null for accepted rows."""
        self.num_rows += checked_rows.height
        self.first_rows = self.first_rows if self.first_rows.height else checked_rows[:NUM_SHOWN_ROWS]
        rejected_rows = checked_rows.filter(pl.col(REASON).is_not_null())
        for reason, count in rejected_rows.group_by(REASON).len().iter_rows():
            self.num_rejected_by_reason[reason] = self.num_rejected_by_reason.get(reason, 0) + count


def preview_log(settings: DataSettings) -> TablePreview:
    """Reads and checks the whole log in data/."""
    preview = TablePreview()
    for chunk in track(read_chunks(settings, layout.DATA), "reading the log"):
        rows = check_event_rows(chunk.rows, settings, None)
        preview.add(rows)
        for action, count in rows.filter(pl.col(REASON).is_null()).group_by(ACTION).len().iter_rows():
            preview.num_accepted_by_action[action] = preview.num_accepted_by_action.get(action, 0) + count
    return preview


def preview_side_tables(settings: DataSettings) -> dict[str, TablePreview]:
    """Reads and checks the side tables in data/. Returns their previews by name, empty ones for missing tables.

    The table of attributes is called users.
    """
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
    """Prints the first rows of the log and of the side tables, the numbers of rejected rows, and what to do next."""
    title = "The first rows, as they were read"
    table = Table("actor", "action", "target", "time (UTC)", "rejected because", title=title, title_justify="left")
    for *fields, reason in preview.first_rows.select(ACTOR, ACTION, TARGET, _time(), REASON).iter_rows():
        table.add_row(*map(_cell, fields), REASONS.get(reason, ""))
    console.print(table)
    counts = sorted(preview.num_accepted_by_action.items())
    actions = [f"{action} {count:,} ({settings.roles.get(action, 'contact')})" for action, count in counts]
    console.print(escape(f"{preview.num_rows:,} rows. Actions and their roles: {', '.join(actions)}"), highlight=False)
    _print_rejected(console, preview)
    for name, side_table in side_tables.items():
        if side_table.num_rows:
            _print_side_table(console, name, side_table)
    console.print(
        "data.dvc and section data of params.yaml were written. If a row above was misread, correct params.yaml.\n"
        "Next: [bold]make run[/]",
        highlight=False,
    )


def _print_side_table(console: Console, name: str, preview: TablePreview) -> None:
    """Prints the first rows of a side table. A column of attributes has its type in its name: `categorical.country`."""
    columns = [column for column in preview.first_rows.columns if column not in (ROW, REASON)]
    title = f"The first {name}, as they were read"
    table = Table(*map(escape, columns), "rejected because", title=title, title_justify="left")
    rows = preview.first_rows.with_columns(_time()) if TIMESTAMP in columns else preview.first_rows
    for *values, reason in rows.select(*columns, REASON).iter_rows():
        table.add_row(*map(_cell, values), REASONS.get(reason, ""))
    console.print(table)
    console.print(f"{preview.num_rows:,} rows of {name}.", highlight=False)
    _print_rejected(console, preview)


def _time() -> pl.Expr:
    """The timestamp as text, in UTC; null for rejected rows."""
    second = pl.when(pl.col(REASON).is_null()).then(pl.col(TIMESTAMP))
    return pl.from_epoch(second).dt.strftime("%Y-%m-%d %H:%M:%S").alias(TIMESTAMP)


def _cell(value: Any) -> str:
    """A value as text for a table cell, cut after MAX_WIDTH characters."""
    text = "" if value is None else ", ".join(value) if isinstance(value, list) else str(value)
    return escape(text if len(text) <= MAX_WIDTH else f"{text[:MAX_WIDTH]}...")


def _print_rejected(console: Console, preview: TablePreview) -> None:
    """Prints how many rows stage validate would reject, and why."""
    for reason, count in sorted(preview.num_rejected_by_reason.items()):
        console.print(f"[yellow]{count:,} rows would be rejected: {REASONS[reason]}[/]", highlight=False)
