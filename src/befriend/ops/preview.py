"""Reads side tables (attributes, texts, statements) for `befriend use`, and prints how they and the log were read."""

from __future__ import annotations

from typing import Any

import polars as pl
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from befriend import layout
from befriend.data.columns import ACTION, ACTOR, REASON, REASONS, ROW, TARGET, TIMESTAMP
from befriend.ops.log_preview import LogPreview, TablePreview
from befriend.ops.sizes import describe
from befriend.progress import track
from befriend.readers.data_settings import DataSettings
from befriend.readers.sources import read_attribute_chunks, read_statement_chunks, read_text_chunks
from befriend.validation.row_rules import check_attribute_rows, check_statement_rows, check_text_rows

MAX_WIDTH = 100  # characters of a field


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
    console: Console,
    settings: DataSettings,
    preview: LogPreview,
    side_tables: dict[str, TablePreview],
    size: str | None,
) -> None:
    """Prints the first rows of the log and of the side tables, the numbers of rejected rows, and what to do next.

    size: of the models, None if their settings were left as they are.
    """
    console.print(first_rows_table(preview, "The first rows, as they were read"))
    counts = sorted(preview.num_accepted_by_action.items())
    actions = [f"{action} {count:,} ({settings.roles.get(action, 'contact')})" for action, count in counts]
    for line in (_how_it_was_read(settings), *preview.summary(), f"actions and their roles: {', '.join(actions)}"):
        console.print(escape(line), highlight=False)
    for warning in preview.warnings(settings.columns.target_id):
        console.print(f"[yellow]{escape(warning)}.[/]", highlight=False)
    _print_rejected(console, preview)
    for name, side_table in side_tables.items():
        if side_table.num_rows:
            _print_side_table(console, name, side_table)
    console.print(
        "size: the settings of the models are those of params.yaml, of no size. --size auto replaces them."
        if size is None
        else f"{describe(size, preview.num_events)}.",
        highlight=False,
    )
    console.print(
        "data.dvc and params.yaml (section data, and the size) were written. If a row above was misread, correct "
        "params.yaml.\n"
        "Next: [bold]make run[/]",
        highlight=False,
    )


def _how_it_was_read(settings: DataSettings) -> str:
    """The columns of the fields, and the format, in one line."""
    names = {TIMESTAMP: "time", ACTOR: "actor", TARGET: "target"}
    fields = ", ".join(
        f"{names.get(field, field)}: {column}" for field, column in settings.columns if column is not None
    )
    separator = f" with separator {settings.separator!r}" if settings.format == "csv" else ""
    return (
        f"columns: {fields}; times as {settings.timestamp_unit}; {settings.id_type} ids; {settings.format}{separator}"
    )


def first_rows_table(preview: LogPreview, title: str = "") -> Table:
    """The first rows of a log, as they were read."""
    columns = ("actor", "action", "target", "time (UTC)", "rejected because")
    table = Table(*columns, title=title or None, title_justify="left")
    for *fields, reason in preview.first_rows.select(ACTOR, ACTION, TARGET, _time(), REASON).iter_rows():
        table.add_row(*map(_cell, fields), REASONS.get(reason, ""))
    return table


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
    examples = preview.example_by_reason if isinstance(preview, LogPreview) else {}
    for reason, count in sorted(preview.num_rejected_by_reason.items()):
        example = f", such as {_cell(examples[reason])}" if reason in examples else ""
        console.print(f"[yellow]{count:,} rows would be rejected: {REASONS[reason]}{example}[/]", highlight=False)
