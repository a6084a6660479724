"""Caches that make the next run faster: vectors of encoded texts, and checkpoints of unfinished trainings.

Their content cannot be separated by user, so a whole cache is removed when a user asks to be erased. Each cache folder
holds erasure digests (`forgotten.txt`) of the users who are certainly not in it: those who were already out of the
prepared log when the cache was started.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from befriend import files, layout
from befriend.data.columns import USER_ID
from befriend.data.erasure import FORGOTTEN_FILE, add_erased, erasure_digest, read_erased
from befriend.data.event_log import USERS_FILE

CACHES = (layout.TEXT_CACHE, layout.CHECKPOINTS)


def empty(root: Path) -> None:
    """Removes all caches, with their digests: a user who has just asked is still in the prepared log, and may be read
    into a cache again."""
    for cache in CACHES:
        files.remove(root / cache)


def settle(root: Path) -> None:
    """Removes caches that were started when a user, since erased, was still in the prepared log.

    Does nothing while there is no prepared log. Otherwise each cache's digests become those of the erased users who
    are not in the prepared log any more.
    """
    erased, users_file = read_erased(root / layout.PREPARED), root / layout.PREPARED / USERS_FILE
    if all(erased == read_erased(root / cache) for cache in CACHES) or not users_file.is_file():
        return
    out_of_log = erased - {erasure_digest(user) for user in pl.read_parquet(users_file, columns=[USER_ID])[USER_ID]}
    for folder in (root / cache for cache in CACHES):
        not_in_cache = read_erased(folder)
        if out_of_log - not_in_cache:
            files.remove(folder)
        elif not_in_cache - out_of_log:  # an erased user is in the log again, and may get into the cache from now on
            files.remove(folder / FORGOTTEN_FILE)
        if out_of_log != not_in_cache:
            add_erased(folder, out_of_log)


def may_hold(folder: Path, user: str) -> bool:
    """Whether a cache folder has any content that may come from a user."""
    has_content = any(path.is_file() and path.name != FORGOTTEN_FILE for path in folder.rglob("*"))
    return has_content and erasure_digest(user) not in read_erased(folder)
