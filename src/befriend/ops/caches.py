"""Removes data of erased users from caches: vectors of encoded texts, and checkpoints of unfinished trainings.

The content of a cache cannot be separated by user, so a cache is removed as a whole when a user is erased. Each cache
folder has a file `forgotten.txt` with erasure digests (hashes of external ids) of erased users who are certainly not in
the cache, because they were not in the prepared log any more when the cache was started.
"""

from __future__ import annotations

from pathlib import Path

from befriend import files, layout

CACHES = (layout.TEXT_CACHE, layout.CHECKPOINTS)


def remove_all(root: Path) -> None:
    """Removes all caches and their files of digests.

    The digests go too because a user who was erased just now is still in the prepared log, and so may enter a cache
    again until stage validate has run.
    """
    for cache in CACHES:
        files.remove(root / cache)


def remove_outdated(root: Path) -> None:
    """Removes caches that may contain data of a user who was erased after the cache was started.

    Afterwards the digests of each cache are those of the erased users who are not in the prepared log any more. Does
    nothing while there is no prepared log.
    """
    import polars as pl  # here, since the registry does without it

    from befriend.data.columns import USER_ID
    from befriend.data.erasure import ERASED_FILE, add_erasure_digests, erasure_digest, read_erasure_digests
    from befriend.data.event_log import USERS_FILE

    erased, users_file = read_erasure_digests(root / layout.PREPARED), root / layout.PREPARED / USERS_FILE
    if all(erased == read_erasure_digests(root / cache) for cache in CACHES) or not users_file.is_file():
        return
    absent_from_log = erased - {
        erasure_digest(user) for user in pl.read_parquet(users_file, columns=[USER_ID])[USER_ID]
    }
    for folder in (root / cache for cache in CACHES):
        absent_from_cache = read_erasure_digests(folder)
        if absent_from_log - absent_from_cache:
            files.remove(folder)
        elif absent_from_cache - absent_from_log:  # an erased user is in the log again, and may enter the cache
            files.remove(folder / ERASED_FILE)
        if absent_from_log != absent_from_cache:
            add_erasure_digests(folder, absent_from_log)


def may_contain(folder: Path, user: str) -> bool:
    """Whether a cache folder may contain data of a user, given by external id."""
    from befriend.data.erasure import ERASED_FILE, erasure_digest, read_erasure_digests

    has_content = any(path.is_file() and path.name != ERASED_FILE for path in folder.rglob("*"))
    return has_content and erasure_digest(user) not in read_erasure_digests(folder)
