"""`befriend forget`: erases users who asked to be deleted, and searches for traces of them.

The users are recorded as erased. From then on, everything that serves lists leaves them out. The next `dvc repro`
removes them from the prepared log, the models and the reports.
"""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import typer

from befriend import files, layout
from befriend.data.columns import RAW, USER_ID
from befriend.data.erasure import ERASED_FILE, add_erasure_digests, erasure_digest, read_erasure_digests
from befriend.data.event_log import USERS_FILE
from befriend.data.external_ids import as_log_ids
from befriend.errors import BusyError, CallError, DataError
from befriend.ops import caches
from befriend.ops.registry import promoted_runs, registry_lock, remove_incomplete_runs
from befriend.ops.user_ids import read_user_ids, suggestion, unknown_ids
from befriend.progress import note

SEARCHED_FOLDERS = (layout.PREPARED, layout.MODELS, layout.REPORTS, layout.RUNS)
"""for traces of users; without promoted runs (they leave erased users out of lists), and without the simulated tiny
log, which is a source"""
MAX_NAMED_FILES = 5  # in each folder
EXTERNAL_ID_COLUMNS = (USER_ID, "users", "recommended")
"""columns of external ids; a column `user` has external ids in a table of lists, and internal ids elsewhere"""
TEXT_SUFFIXES = (".json", ".md", ".html", ".csv", ".txt", ".js")


def erase(root: Path, users: list[str]) -> None:
    """Records users as erased, removes them from the file of lists, and removes all caches.

    users: external ids. They are recorded in the project and in every promoted run. CallError if an id is in none of
    their logs; then no user is recorded. BusyError if stages are running or lists are being written: the users are
    recorded as erased, but the file of lists and the caches are unchanged.
    """
    folders = [root / layout.PREPARED, *(run.folder / layout.PREPARED for run in promoted_runs(root))]
    logs = [read_user_ids(folder).cast(pl.String) for folder in folders if (folder / USERS_FILE).is_file()]
    if not logs:
        raise DataError(f"there is no {folders[0] / USERS_FILE}. Run `make run` first.")
    known_ids = pl.concat(logs).unique(maintain_order=True)
    unknown = unknown_ids(pl.Series(users), known_ids, frozenset())
    if len(unknown):
        hint = suggestion(unknown[0], known_ids)
        raise CallError(f"there is no user with the id {', '.join(unknown)}, so nobody was erased. {hint}".rstrip())
    users = as_log_ids(pl.Series(users), known_ids.dtype).to_list()
    with registry_lock(root):  # no run is promoted meanwhile
        remove_incomplete_runs(root)
        for folder in {*folders, *(run.folder / layout.PREPARED for run in promoted_runs(root))}:
            add_erasure_digests(folder, map(erasure_digest, users))
    try:
        with files.stage_lock(root / layout.STAGE_LOCK):
            _remove_from_lists(root / layout.LISTS, users)
            caches.remove_all(root)
    except BusyError as error:
        raise BusyError(
            f"{', '.join(users)}: recorded as erased. Lists that are started from now on leave these users out, and "
            f"jobs that write lists for all users stop. {layout.LISTS} and the caches may still contain data of them, "
            f"because {error}"
        ) from None
    typer.echo(
        f"{', '.join(users)}: no list shows these users from now on. Run `make run` to remove them from data and "
        f"models.\nCommit {layout.PREPARED / ERASED_FILE}, so that every clone of the project does the same."
    )


def _remove_from_lists(lists: Path, users: list[str]) -> None:
    """Removes users from the file of lists, and removes the finished blocks that an interrupted command left.

    BusyError if lists are being written.
    """
    blocks = layout.list_blocks_folder(lists)
    with files.folder_lock(blocks, f"{lists} is being written"):
        if lists.is_file():
            table = pl.read_parquet(lists)
            names_user = pl.any_horizontal(
                pl.col(name).cast(pl.String).is_in(users) for name in ("user", "recommended")
            )
            with files.atomic(lists) as new:
                table.filter(~names_user).write_parquet(new, compression="zstd")
        for block in blocks.iterdir():
            if block.name != files.LOCK_FILE:
                files.remove(block)


def verify_erasure(root: Path, users: list[str]) -> None:
    """Searches SEARCHED_FOLDERS and the caches for users, and prints the result. CallError if there is a trace."""
    note("searching all files ...")
    paths_by_user = {user: find_traces(root, user) for user in users}
    for user, paths in paths_by_user.items():
        typer.echo(f"{user}: {'traces are left' if paths else 'no trace'}")
        for folder in (*SEARCHED_FOLDERS, *caches.CACHES):
            lines = _describe(folder, [path for path in paths if Path(path).is_relative_to(folder)])
            typer.echo("\n    ".join([f"  {folder}: {lines[0]}", *lines[1:]]))
    if any(paths_by_user.values()):
        erased = read_erasure_digests(root / layout.PREPARED)
        not_erased = [user for user in users if erasure_digest(user) not in erased]
        if not_erased:
            raise CallError(
                f"traces are left, and {', '.join(not_erased)} is not erased yet. First: befriend forget "
                f"{' '.join(not_erased)}"
            )
        raise CallError(
            "traces are left: run `make run`, then `befriend tidy`. A rejected row that names a user stays until you "
            "remove the row from the source. Promoted runs keep the data, but no list of theirs shows an erased user; "
            "newer runs replace them in time."
        )


def _describe(folder: Path, paths: list[str]) -> list[str]:
    """How many files of a folder name a user, then the first ones by path and the number of the others, one a line."""
    if not paths:
        return ["no trace"]
    if folder in caches.CACHES:
        return ["started while the user was in the prepared log; its content cannot be separated by user"]
    more = [f"and {len(paths) - MAX_NAMED_FILES:,} more"] if len(paths) > MAX_NAMED_FILES else []
    count = f"{len(paths):,} files name this user" if len(paths) > 1 else "1 file names this user"
    return [count, *paths[:MAX_NAMED_FILES], *more]


def find_traces(root: Path, user: str) -> list[str]:
    """Paths of files in SEARCHED_FOLDERS with a user's external id, and of caches that may contain data of the user.

    In tables, all columns of external ids are compared with the id. Rejected rows are stored as raw text, which is
    searched for the id as a whole word. A table that cannot be read counts as a trace, with a note. Text files are
    searched only for ids that are not numbers: a number in a report may be anything, and all ids in reports come from
    the tables.
    """
    word = re.compile(rf"(?<!\w){re.escape(user)}(?!\w)")
    paths = []
    for folder in SEARCHED_FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            relative = path.relative_to(root)
            is_skipped = relative.is_relative_to(layout.REGISTRY) or relative.is_relative_to(layout.TINY_LOG)
            if not path.is_file() or is_skipped:
                continue
            if path.suffix == ".parquet":
                try:
                    has_id = _is_in_table(path, user, word)
                except (OSError, pl.exceptions.PolarsError):  # for example half-written by a killed process
                    paths.append(f"{relative} (cannot be read)")
                    continue
            else:
                is_searched = not user.isdecimal() and path.suffix in TEXT_SUFFIXES
                has_id = is_searched and bool(word.search(path.read_text(encoding="utf-8", errors="replace")))
            if has_id:
                paths.append(str(relative))
    return paths + [str(cache) for cache in caches.CACHES if caches.may_contain(root / cache, user)]


def _is_in_table(path: Path, user: str, word: re.Pattern[str]) -> bool:
    """Whether a Parquet table contains an external id. word: matches the id as a whole word."""
    table = pl.read_parquet(path)
    for name, column in table.to_dict().items():
        if name == RAW and any(map(word.search, column.filter(column.str.contains(user, literal=True)))):
            return True
        if name in EXTERNAL_ID_COLUMNS or (name == "user" and "recommended" in table.columns):
            values = column.explode() if isinstance(column.dtype, pl.List) else column
            if (values.cast(pl.String) == user).any():
                return True
    return False
