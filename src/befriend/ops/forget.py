"""`befriend forget`: takes people out of what is served at once, and out of everything at the next run."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import typer

from befriend import files, layout
from befriend.data.columns import RAW, USER_ID
from befriend.data.forgotten import FORGOTTEN_FILE, add_marks, mark
from befriend.data.log import USERS_FILE
from befriend.errors import BusyError, CallError
from befriend.ops import caches
from befriend.ops.registry import locked, promoted, sweep

SEARCHED = (layout.PREPARED, layout.MODELS, layout.REPORTS, layout.RUNS)
SHOWN = 3  # files of a place that a proof names
IDS = (USER_ID, "users", "recommended")
"""columns that hold ids of the log; `user` and its kin hold befriend's own numbers"""
TEXT = (".json", ".md", ".html", ".csv", ".txt", ".js")


def forget(root: Path, users: list[str]) -> None:
    """Marks people, here and in every promoted run, takes them out of the lists that lie here, and empties caches.

    BusyError where stages or lists are being made: people are marked then, but lists and caches were left alone.
    """
    folders = [root / layout.PREPARED, *(entry.folder / layout.PREPARED for entry in promoted(root))]
    tables = [folder / USERS_FILE for folder in folders if (folder / USERS_FILE).is_file()]
    known = {str(user) for path in tables for user in pl.read_parquet(path, columns=[USER_ID])[USER_ID]}
    strangers = [user for user in users if user not in known]
    if strangers:
        raise CallError(f"nobody here has the id {', '.join(strangers)}.")
    with locked(root):  # nobody is promoted meanwhile
        sweep(root)
        for folder in {*folders, *(entry.folder / layout.PREPARED for entry in promoted(root))}:
            add_marks(folder, map(mark, users))
    try:
        with files.stage_lock(root / layout.LOCK):
            _take_off(root / layout.LISTS, users)
            caches.empty(root)
    except BusyError as error:
        raise BusyError(
            f"{', '.join(users)}: marked, so no list that is begun from now on has them, and lists for everybody that "
            f"are being made stop. {layout.LISTS} and caches may still have them, since {error}"
        ) from None
    typer.echo(
        f"{', '.join(users)}: on no list from now on. The next run leaves them out of everything: dvc repro\n"
        f"Commit {layout.PREPARED / FORGOTTEN_FILE}, so that every clone does."
    )


def _take_off(lists: Path, users: list[str]) -> None:
    """Removes people from a file of lists that is there, and what was made of one that is not finished."""
    parts = layout.parts_of(lists)
    with files.held(parts, f"{lists} is being written"):
        if lists.is_file():
            table = pl.read_parquet(lists)
            gone = pl.any_horizontal(pl.col(name).cast(pl.String).is_in(users) for name in ("user", "recommended"))
            with files.atomic(lists) as new:
                table.filter(~gone).write_parquet(new, compression="zstd")
        for made in parts.iterdir():
            if made.name != files.LOCK:
                files.remove(made)


def prove(root: Path, users: list[str]) -> None:
    """Looks for people in everything that a run left behind; the command fails where there is a trace."""
    found = {user: traces(root, user) for user in users}
    for user, paths in found.items():
        typer.echo(f"{user}: {'traces are left' if paths else 'no trace'}")
        for place in (*SEARCHED, *caches.CACHES):
            typer.echo(f"  {place}: {_told(place, [path for path in paths if Path(path).is_relative_to(place)])}")
    if any(found.values()):
        raise CallError(
            "traces are left: run `dvc repro`, then `befriend tidy`. What refused rows name goes once it is out of the "
            "source. Promoted runs serve without them, and are replaced in time."
        )


def _told(place: Path, paths: list[str]) -> str:
    """Which files of a place hold an id, the first of them by name."""
    if not paths:
        return "no trace"
    if place in caches.CACHES:
        return "begun before they were out of the prepared log, and nobody can be told apart in it"
    more = f" and {len(paths) - SHOWN:,} more" if len(paths) > SHOWN else ""
    return ", ".join(paths[:SHOWN]) + more


def traces(root: Path, user: str) -> list[str]:
    """Files of the run that lies here which hold an id, and caches that may hold something of the person.

    Tables are searched by value, in every column of ids; refused rows, which stand as they were, for the id as a word;
    one that cannot be read may hold anything. Text is searched for ids that are no numbers: a number in a report may be
    anything, and what a report says of people comes from the tables.
    """
    word = re.compile(rf"(?<!\w){re.escape(user)}(?!\w)")
    found = []
    for folder in SEARCHED:
        for path in sorted((root / folder).rglob("*")):
            inside = path.relative_to(root)
            elsewhere = inside.is_relative_to(layout.REGISTRY) or inside.is_relative_to(layout.TINY)  # a source
            if not path.is_file() or elsewhere:
                continue
            if path.suffix == ".parquet":
                try:
                    held = _in_table(path, user, word)
                except (OSError, pl.exceptions.PolarsError):  # one that a killed process left half-written, for example
                    found.append(f"{inside} (cannot be read)")
                    continue
            else:
                text = not user.isdecimal() and path.suffix in TEXT
                held = text and bool(word.search(path.read_text(encoding="utf-8", errors="replace")))
            if held:
                found.append(str(inside))
    return found + [str(cache) for cache in caches.CACHES if caches.may_hold(root / cache, user)]


def _in_table(path: Path, user: str, word: re.Pattern[str]) -> bool:
    table = pl.read_parquet(path)
    for name, column in table.to_dict().items():
        if name == RAW and any(map(word.search, column.filter(column.str.contains(user, literal=True)))):
            return True
        if name in IDS or (name == "user" and "recommended" in table.columns):
            values = column.explode() if isinstance(column.dtype, pl.List) else column
            if (values.cast(pl.String) == user).any():
                return True
    return False
