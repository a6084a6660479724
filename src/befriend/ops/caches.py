"""What lies beside a run so that the next one goes faster: vectors of texts that were read, unfinished trainings.

None of it can be told apart by person, so it goes whole where somebody asked to be forgotten. Each folder keeps the
marks of those who are not in it (`forgotten.txt`): who were out of the prepared log when it was begun.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from befriend import files, layout
from befriend.data.columns import USER_ID
from befriend.data.forgotten import FORGOTTEN_FILE, add_marks, mark, read_marks
from befriend.data.log import USERS_FILE

CACHES = (layout.TEXT_CACHE, layout.CHECKPOINTS)


def empty(root: Path) -> None:
    """Removes all of it. No mark stays: who has just asked is in the prepared log still, and may be read again."""
    for cache in CACHES:
        files.remove(root / cache)


def settle(root: Path) -> None:
    """Removes what was begun when somebody was in the prepared log who asked to be forgotten and is out of it now."""
    asked, users = read_marks(root / layout.PREPARED), root / layout.PREPARED / USERS_FILE
    if all(asked == read_marks(root / cache) for cache in CACHES) or not users.is_file():
        return
    out = asked - {mark(user) for user in pl.read_parquet(users, columns=[USER_ID])[USER_ID]}
    for folder in (root / cache for cache in CACHES):
        before = read_marks(folder)
        if out - before:
            files.remove(folder)
        elif before - out:  # somebody came back, and may be in it from now on
            files.remove(folder / FORGOTTEN_FILE)
        if out != before:
            add_marks(folder, out)


def may_hold(folder: Path, user: str) -> bool:
    """Whether there is anything in one of these folders that may be of somebody."""
    something = any(path.is_file() and path.name != FORGOTTEN_FILE for path in folder.rglob("*"))
    return something and mark(user) not in read_marks(folder)
