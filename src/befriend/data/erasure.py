"""Erased users, who asked to be deleted: prepared/forgotten.txt holds the erasure digest of each one.

The digest is a hash of the external id (the id in the raw log), so that the file, which is committed with the code,
does not list ids in plain text. Digests are no secrets: anyone who has the ids can hash and compare them. A parameter
`erased` is a set of digests.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from befriend import files
from befriend.data.event_log import EventLog
from befriend.errors import DataError

ERASED_FILE = "forgotten.txt"
_DIGEST = re.compile("[0-9a-f]{64}")
FILE_HEADER = "# People who asked to be forgotten, a digest of each one's id (befriend forget)."


def erasure_digest(user: Any) -> str:
    """SHA-256, in hexadecimal, of a user's external id as text. user: the id, an integer or a string."""
    return hashlib.sha256(str(user).encode()).hexdigest()


def read_erasure_digests(folder: Path) -> frozenset[str]:
    """The digests in forgotten.txt of a folder; empty if there is no such file.

    DataError for a line that is no digest: its user would be shown again.
    """
    path = folder / ERASED_FILE
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    for number, line in enumerate(lines, 1):
        if line and not line.startswith("#") and not _DIGEST.fullmatch(line):
            raise DataError(
                f"{path} is damaged: line {number} is no digest of an erased user, who would be shown again. Restore "
                f"the file: git checkout {path}"
            )
    return frozenset(line for line in lines if line and not line.startswith("#"))


def add_erasure_digests(folder: Path, erased: Iterable[str]) -> None:
    """Adds digests to forgotten.txt of a folder. The file stays sorted; it is created if it does not exist."""
    digests = sorted(read_erasure_digests(folder) | set(erased))
    files.write_text(folder / ERASED_FILE, "\n".join([FILE_HEADER, *digests, ""]))


def is_erased(ids: pl.Series, erased: frozenset[str]) -> pl.Series:
    """bool for each external id: whether its digest is in `erased`; False for null."""
    if not erased:
        return pl.repeat(False, len(ids), eager=True)
    unique_ids = ids.drop_nulls().unique()
    erased_ids = unique_ids.filter(
        pl.Series([erasure_digest(user_id) in erased for user_id in unique_ids], dtype=pl.Boolean)
    )
    return ids.is_in(erased_ids.implode()).fill_null(False)


def drop_erased_users(log: EventLog, erased: frozenset[str]) -> EventLog:
    """The log without the events of erased users. No internal id changes, so that trained models still fit."""
    is_erased_user = is_erased(log.user_ids, erased).to_numpy()
    if not is_erased_user.any():
        return log
    remaining_events = np.flatnonzero(~(is_erased_user[log.actor] | is_erased_user[log.target]))
    columns = {
        name: getattr(log, name)[remaining_events] for name in ("actor", "target", "timestamp", "action", "role")
    }
    return replace(log, **columns)
