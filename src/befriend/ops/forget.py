"""`befriend forget`: takes people out of what is served at once, and out of everything at the next run."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import typer

from befriend import files, layout
from befriend.data.columns import USER_ID
from befriend.data.forgotten import FORGOTTEN_FILE, add_marks, mark
from befriend.data.log import USERS_FILE
from befriend.errors import BusyError, CallError
from befriend.ops.registry import locked, promoted

SEARCHED = (layout.PREPARED, layout.MODELS, layout.REPORTS, layout.RUNS)
IDS = (USER_ID, "users", "recommended")
"""columns that hold ids of the log; `user` and its kin hold befriend's own numbers"""
TEXT = (".json", ".md", ".html", ".csv", ".txt", ".js")


def forget(root: Path, users: list[str]) -> None:
    """Marks people, here and in every promoted run, and takes them out of the lists that lie here.

    BusyError where stages or lists are being made: people are marked then, but lists that lie here were left alone.
    """
    folders = [root / layout.PREPARED, *(entry.folder / layout.PREPARED for entry in promoted(root))]
    tables = [folder / USERS_FILE for folder in folders if (folder / USERS_FILE).is_file()]
    known = {str(user) for path in tables for user in pl.read_parquet(path, columns=[USER_ID])[USER_ID]}
    strangers = [user for user in users if user not in known]
    if strangers:
        raise CallError(f"nobody here has the id {', '.join(strangers)}.")
    with locked(root):  # nobody is promoted meanwhile
        for folder in {*folders, *(entry.folder / layout.PREPARED for entry in promoted(root))}:
            add_marks(folder, map(mark, users))
    try:
        with files.stage_lock(root / layout.LOCK):
            _take_off(root / layout.LISTS, users)
    except BusyError as error:
        raise BusyError(
            f"{', '.join(users)}: marked, so no list that is begun from now on has them, and lists for everybody that "
            f"are being made stop. {layout.LISTS} may still have them, since {error}"
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
    for user, places in found.items():
        typer.echo(f"{user}: {'no trace' if not places else ', '.join(places)}")
    if any(found.values()):
        raise CallError("traces are left: run `dvc repro`. Promoted runs serve without them, and are replaced in time.")


def traces(root: Path, user: str) -> list[str]:
    """Files of the run that lies here which hold an id.

    Tables are searched by value, in every column of ids; one that cannot be read may hold anything. Text is searched
    for ids that are no numbers: a number in a report may be anything, and what a report says of people comes from the
    tables.
    """
    word = None if user.isdecimal() else re.compile(rf"(?<!\w){re.escape(user)}(?!\w)")
    found = []
    for folder in SEARCHED:
        for path in sorted((root / folder).rglob("*")):
            inside = path.relative_to(root)
            elsewhere = inside.is_relative_to(layout.REGISTRY) or inside.is_relative_to(layout.TINY)  # a source
            if not path.is_file() or elsewhere:
                continue
            if path.suffix == ".parquet":
                try:
                    held = _in_table(path, user)
                except (OSError, pl.exceptions.PolarsError):  # one that a killed process left half-written, for example
                    found.append(f"{inside} (cannot be read)")
                    continue
            else:
                text = word is not None and path.suffix in TEXT
                held = text and bool(word and word.search(path.read_text(encoding="utf-8", errors="replace")))
            if held:
                found.append(str(inside))
    return found


def _in_table(path: Path, user: str) -> bool:
    table = pl.read_parquet(path)
    for name, column in table.to_dict().items():
        if name in IDS or (name == "user" and "recommended" in table.columns):
            values = column.explode() if isinstance(column.dtype, pl.List) else column
            if (values.cast(pl.String) == user).any():
                return True
    return False
