"""`befriend tokens`: looks up STUs (social tokenized user ids), and assigns STUs to users of later events."""

from __future__ import annotations

import tempfile
from pathlib import Path

import polars as pl
import typer
from rich.console import Console
from rich.table import Table

from befriend import files, layout
from befriend.data.columns import ACTION, TIMESTAMP, USER_ID
from befriend.data.erasure import drop_erased_users, is_erased, read_erasure_digests
from befriend.data.event_log import EVENTS_FILE, USERS_FILE, EventLog
from befriend.errors import DataError
from befriend.features.text_vectors import TextVectors
from befriend.progress import note
from befriend.readers.data_settings import DataSettings
from befriend.tokens.tokenizer import StuTokenizer, load_tokenizer
from befriend.validation.ingest import ingest
from befriend.validation.rejected_rows import RejectedWriter
from befriend.validation.validate_settings import ValidateSettings


def show(user: str, as_json: bool) -> None:
    """Prints a user's tokens, one per row, with the number of users who share the prefix up to that token."""
    log, tokenizer, internal_id = _find_user(user)
    rows = pl.DataFrame(
        [
            {
                "level": level,
                "token": int(token),
                "users_with_this_prefix": 1 + len(tokenizer.table.users_with_same_prefix(internal_id, level + 1)),
            }
            for level, token in enumerate(tokenizer.table.stus[internal_id])
        ]
    )
    _print(
        rows, as_json, f"{log.user_ids[internal_id]}: {' '.join(map(str, tokenizer.table.stus[internal_id].tolist()))}"
    )


def like(user: str, prefix: int | None, as_json: bool) -> None:
    """Prints the users whose STU begins like a user's. prefix: number of equal tokens; None: as many as possible."""
    log, tokenizer, internal_id = _find_user(user)
    levels = len(tokenizer.table.vocabulary)
    lengths = [prefix] if prefix is not None else range(levels - 1, 0, -1)
    match = next(
        ((n, users) for n in lengths if len(users := tokenizer.table.users_with_same_prefix(internal_id, n))), None
    )
    if match is None:
        note(f"no other STU begins with the same tokens as that of {user}.")
        return
    length, users = match
    users = users[~is_erased(log.user_ids.gather(users.tolist()), read_erasure_digests(layout.PREPARED)).to_numpy()]
    rows = pl.DataFrame(
        {
            USER_ID: log.user_ids[users.tolist()],
            "stu": [" ".join(map(str, stu)) for stu in tokenizer.table.stus[users].tolist()],
        }
    )
    _print(rows, as_json, f"{rows.height:,} users share the first {length} of {levels} tokens with {user}")


def assign(events: Path, out: Path, data: DataSettings) -> None:
    """Writes the STUs of all users to a Parquet file, one row per user, including users of later events.

    events: a file or folder of events later than the prepared log; data: how to read it.
    """
    log = EventLog.read(layout.PREPARED)
    tokenizer = load_tokenizer(layout.TOKENS, log, TextVectors.read(layout.TEXT, log))
    extended_log = drop_erased_users(_extended_log(events, data), read_erasure_digests(layout.PREPARED))
    extended = tokenizer.add_newcomers(extended_log)
    with files.atomic(out) as new_file:
        extended.table.write(new_file, extended_log.user_ids)
        stus = pl.read_parquet(new_file)
        erased = is_erased(
            stus[USER_ID], read_erasure_digests(layout.PREPARED)
        )  # read again: users may have been erased meanwhile
        stus.filter(~erased).write_parquet(new_file)
    num_new = len(extended.table) - len(tokenizer.table)
    typer.echo(f"{num_new:,} users got an STU, {len(tokenizer.table):,} keep theirs; all are in {out}.")


def _extended_log(source: Path, data: DataSettings) -> EventLog:
    """The prepared log, followed by the events of a source that are later than all of its events."""
    with tempfile.TemporaryDirectory() as folder:
        rules = ValidateSettings(previous_users=layout.PREPARED / USERS_FILE)
        with RejectedWriter(Path(folder) / "rejected.parquet") as rejected:
            ingested = ingest(source, data, rules, rejected)
        num_rejected_rows = pl.read_parquet(Path(folder) / "rejected.parquet").height
    if num_rejected_rows:
        note(f"{num_rejected_rows:,} rows of {source} are invalid and left out.")
    prepared = pl.read_parquet(layout.PREPARED / EVENTS_FILE)
    last_timestamp = prepared[TIMESTAMP].max()
    later = ingested.events.filter(pl.col(TIMESTAMP) > last_timestamp)
    if not later.height:
        raise DataError(
            f"no event in {source} is later than those in {layout.PREPARED}. Name a source with later events."
        )
    labels = dict.fromkeys(label for table in (prepared, later) for label in table[ACTION].dtype.categories)  # type: ignore[attr-defined]
    action = pl.col(ACTION).cast(pl.String).cast(pl.Enum(list(labels)))
    events = pl.concat([table.select(prepared.columns).with_columns(action) for table in (prepared, later)])
    return EventLog.from_tables(events, ingested.users[USER_ID])


def _find_user(user: str) -> tuple[EventLog, StuTokenizer, int]:
    """The prepared log, its tokenizer, and the internal id of a user of the log, given by external id."""
    log = EventLog.read(layout.PREPARED)
    tokenizer = load_tokenizer(layout.TOKENS, log, TextVectors.read(layout.TEXT, log)).add_newcomers(log)
    return log, tokenizer, int(log.internal_ids(pl.Series([user]))[0])


def _print(rows: pl.DataFrame, as_json: bool, title: str) -> None:
    if as_json:
        typer.echo(rows.write_json())
        return
    table = Table(*rows.columns, box=None, title=title, title_justify="left")
    for row in rows.iter_rows():
        table.add_row(*map(str, row))
    Console().print(table)
