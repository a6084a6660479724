"""`befriend forget`: removes users from everything that is served, at once, and from all data at the next run."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import typer

from befriend import files, layout
from befriend.data.columns import RAW, USER_ID
from befriend.data.erasure import FORGOTTEN_FILE, add_erased, erasure_digest
from befriend.data.event_log import USERS_FILE
from befriend.errors import BusyError, CallError
from befriend.ops import caches
from befriend.ops.registry import locked, promoted, sweep

SEARCHED = (layout.PREPARED, layout.MODELS, layout.REPORTS, layout.RUNS)
SHOWN = 3  # files named per folder
IDS = (USER_ID, "users", "recommended")
"""columns that hold external ids; columns like `user` hold internal ones"""
TEXT = (".json", ".md", ".html", ".csv", ".txt", ".js")


def forget(root: Path, users: list[str]) -> None:
    """Records users as erased, in the project and in every promoted run, removes them from the file of lists, and
    removes all caches.

    BusyError if stages are running or lists are being written: the users are recorded as erased, but lists and caches
    are left as they are.
    """
    folders = [root / layout.PREPARED, *(entry.folder / layout.PREPARED for entry in promoted(root))]
    tables = [folder / USERS_FILE for folder in folders if (folder / USERS_FILE).is_file()]
    known = {str(user) for path in tables for user in pl.read_parquet(path, columns=[USER_ID])[USER_ID]}
    unknown = [user for user in users if user not in known]
    if unknown:
        raise CallError(f"there is no user with the id {', '.join(unknown)} here.")
    with locked(root):  # no run is promoted meanwhile
        sweep(root)
        for folder in {*folders, *(entry.folder / layout.PREPARED for entry in promoted(root))}:
            add_erased(folder, map(erasure_digest, users))
    try:
        with files.stage_lock(root / layout.LOCK):
            _remove_from_lists(root / layout.LISTS, users)
            caches.empty(root)
    except BusyError as error:
        raise BusyError(
            f"{', '.join(users)}: recorded as erased, so lists that are started from now on leave them out, and jobs "
            f"that are writing lists for all users stop. {layout.LISTS} and the caches may still hold them, because "
            f"{error}"
        ) from None
    typer.echo(
        f"{', '.join(users)}: no list shows them from now on. The next run removes them from everything: dvc repro\n"
        f"Commit {layout.PREPARED / FORGOTTEN_FILE}, so that every clone does the same."
    )


def _remove_from_lists(lists: Path, users: list[str]) -> None:
    """Removes users from the file of lists, and the finished blocks of a file of lists that is not complete."""
    blocks = layout.parts_of(lists)
    with files.folder_lock(blocks, f"{lists} is being written"):
        if lists.is_file():
            table = pl.read_parquet(lists)
            names_user = pl.any_horizontal(
                pl.col(name).cast(pl.String).is_in(users) for name in ("user", "recommended")
            )
            with files.atomic(lists) as new:
                table.filter(~names_user).write_parquet(new, compression="zstd")
        for block in blocks.iterdir():
            if block.name != files.LOCK:
                files.remove(block)


def prove(root: Path, users: list[str]) -> None:
    """Searches everything that runs have written for users, and prints what it finds; CallError if there is a trace."""
    paths_by_user = {user: traces(root, user) for user in users}
    for user, paths in paths_by_user.items():
        typer.echo(f"{user}: {'traces are left' if paths else 'no trace'}")
        for folder in (*SEARCHED, *caches.CACHES):
            typer.echo(
                f"  {folder}: {_describe(folder, [path for path in paths if Path(path).is_relative_to(folder)])}"
            )
    if any(paths_by_user.values()):
        raise CallError(
            "traces are left: run `dvc repro`, then `befriend tidy`. A refused row that names a user stays until you "
            "remove it from the source. Promoted runs do not show erased users, and newer runs replace them in time."
        )


def _describe(folder: Path, paths: list[str]) -> str:
    """Which files of a folder hold an id: the first ones by name, and the number of the others."""
    if not paths:
        return "no trace"
    if folder in caches.CACHES:
        return "started while the user was in the prepared log; its content cannot be separated by user"
    more = f" and {len(paths) - SHOWN:,} more" if len(paths) > SHOWN else ""
    return ", ".join(paths[:SHOWN]) + more


def traces(root: Path, user: str) -> list[str]:
    """Paths of the project's files that hold a user's external id, and of caches that may hold data of the user.

    Tables are searched by value, in all columns of external ids. Refused rows are kept as raw text, and are searched
    for the id as a whole word. A table that cannot be read counts as a trace. Text files are searched only for ids that
    are not numbers: a number in a report may mean anything, and reports take what they say of users from the tables.
    """
    word = re.compile(rf"(?<!\w){re.escape(user)}(?!\w)")
    paths = []
    for folder in SEARCHED:
        for path in sorted((root / folder).rglob("*")):
            relative = path.relative_to(root)
            # promoted runs leave erased users out when they serve, and the tiny log is a source
            is_skipped = relative.is_relative_to(layout.REGISTRY) or relative.is_relative_to(layout.TINY)
            if not path.is_file() or is_skipped:
                continue
            if path.suffix == ".parquet":
                try:
                    has_id = _is_in_table(path, user, word)
                except (OSError, pl.exceptions.PolarsError):  # for example half-written by a killed process
                    paths.append(f"{relative} (cannot be read)")
                    continue
            else:
                is_searched = not user.isdecimal() and path.suffix in TEXT
                has_id = is_searched and bool(word.search(path.read_text(encoding="utf-8", errors="replace")))
            if has_id:
                paths.append(str(relative))
    return paths + [str(cache) for cache in caches.CACHES if caches.may_hold(root / cache, user)]


def _is_in_table(path: Path, user: str, word: re.Pattern[str]) -> bool:
    """Whether a Parquet table holds an external id. word: matches the id as a whole word."""
    table = pl.read_parquet(path)
    for name, column in table.to_dict().items():
        if name == RAW and any(map(word.search, column.filter(column.str.contains(user, literal=True)))):
            return True
        if name in IDS or (name == "user" and "recommended" in table.columns):
            values = column.explode() if isinstance(column.dtype, pl.List) else column
            if (values.cast(pl.String) == user).any():
                return True
    return False
