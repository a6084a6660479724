"""`befriend tokens`: looks up STUs, and gives them to users who joined after the tokens were made."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import typer
from rich.console import Console
from rich.table import Table

from befriend import files, layout
from befriend.config import DataSettings, ValidateSettings
from befriend.data.columns import ACTION, TIMESTAMP, USER_ID
from befriend.data.forgotten import mark, marked, read_marks, without
from befriend.data.ingest import ingest
from befriend.data.log import EVENTS_FILE, USERS_FILE, EventLog
from befriend.data.rejected import RejectedWriter
from befriend.data.texts import TextVectors
from befriend.errors import CallError, DataError
from befriend.tokens.folder import Tokens, load


def show(user: str, as_json: bool) -> None:
    """A user's tokens, one a row, with how many users share them up to there."""
    log, tokens, number = _find(user)
    rows = pl.DataFrame(
        [
            {
                "level": level,
                "token": int(token),
                "users_with_this_prefix": 1 + len(tokens.table.like(number, level + 1)),
            }
            for level, token in enumerate(tokens.table.stus[number])
        ]
    )
    _print(rows, as_json, f"{log.user_ids[number]}: {' '.join(map(str, tokens.table.stus[number].tolist()))}")


def like(user: str, prefix: int | None, as_json: bool) -> None:
    """The users who share a prefix of somebody's STU, the longest that anybody shares by default."""
    log, tokens, number = _find(user)
    levels = len(tokens.table.vocabulary)
    if prefix is not None and prefix > levels:
        raise CallError(f"--prefix {prefix}: STUs have {levels} tokens here.")
    wanted = [prefix] if prefix is not None else range(levels - 1, 0, -1)
    shared = next(((n, who) for n in wanted if len(who := tokens.table.like(number, n))), None)
    if shared is None:
        typer.echo(f"befriend: nobody's STU begins like that of {user}.", err=True)
        return
    length, who = shared
    who = who[~marked(log.user_ids.gather(who.tolist()), read_marks(layout.PREPARED)).to_numpy()]
    rows = pl.DataFrame(
        {
            USER_ID: log.user_ids[who.tolist()],
            "stu": [" ".join(map(str, stu)) for stu in tokens.table.stus[who].tolist()],
        }
    )
    _print(rows, as_json, f"{rows.height:,} users share the first {length} of {levels} tokens with {user}")


def assign(events: Path, out: Path, data: DataSettings) -> None:
    """Writes the STUs of all users, those of later events too: one row a user."""
    log = EventLog.read(layout.PREPARED)
    tokens = load(layout.TOKENS, log, TextVectors.read(layout.TEXT, log))
    later = without(_later(events, data), read_marks(layout.PREPARED))
    grown = tokens.joined(later)
    with files.atomic(out) as new_file:
        grown.table.write(new_file, later.user_ids)
        everybody = pl.read_parquet(new_file)
        gone = marked(everybody[USER_ID], read_marks(layout.PREPARED))  # somebody may have been forgotten since
        everybody.filter(~gone).write_parquet(new_file)
    new = len(grown.table) - len(tokens.table)
    typer.echo(f"{new:,} users got an STU, {len(tokens.table):,} keep theirs; all are in {out}.")


def _later(source: Path, data: DataSettings) -> EventLog:
    """The prepared log, and behind it the events of a source that are later than all of it."""
    with tempfile.TemporaryDirectory() as folder:
        rules = ValidateSettings(previous_users=layout.PREPARED / USERS_FILE)
        with RejectedWriter(Path(folder) / "rejected.parquet") as keep:
            found = ingest(source, data, rules, keep)
        refused = pl.read_parquet(Path(folder) / "rejected.parquet").height
    if refused:
        typer.echo(f"befriend: {refused:,} rows of {source} cannot be used, and are left out.", err=True)
    known = pl.read_parquet(layout.PREPARED / EVENTS_FILE)
    last = known[TIMESTAMP].max()
    more = found.events.filter(pl.col(TIMESTAMP) > last)
    if not more.height:
        raise DataError(f"no event in {source} is later than those in {layout.PREPARED}. Give the events since.")
    labels = dict.fromkeys(label for part in (known, more) for label in part[ACTION].dtype.categories)  # type: ignore[attr-defined]
    action = pl.col(ACTION).cast(pl.String).cast(pl.Enum(list(labels)))
    both = pl.concat([part.select(known.columns).with_columns(action) for part in (known, more)])
    return EventLog.from_tables(both, found.users[USER_ID])


def _find(user: str) -> tuple[EventLog, Tokens, int]:
    """The log, the tokens, and the user's number."""
    log = EventLog.read(layout.PREPARED)
    tokens = load(layout.TOKENS, log, TextVectors.read(layout.TEXT, log)).joined(log)
    number = np.flatnonzero((log.user_ids.cast(pl.String) == user).to_numpy())
    if not len(number) or mark(user) in read_marks(layout.PREPARED):
        raise CallError(f"there is no user {user} in {layout.PREPARED}.")
    return log, tokens, int(number[0])


def _print(rows: pl.DataFrame, as_json: bool, title: str) -> None:
    if as_json:
        typer.echo(rows.write_json())
        return
    table = Table(*rows.columns, box=None, title=title, title_justify="left")
    for row in rows.iter_rows():
        table.add_row(*map(str, row))
    Console().print(table)
