"""Erased users, who asked to be deleted: prepared/forgotten.txt holds an erasure digest of each.

The digest is a hash of the external id, so that the file, which is committed with the code, does not list ids in plain
text. It is not a secret: anyone who has the ids can hash and compare them. `erased` always means a set of digests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from befriend import files
from befriend.data.event_log import EventLog

FORGOTTEN_FILE = "forgotten.txt"
HEAD = "# People who asked to be forgotten, a digest of each one's id (befriend forget)."


def erasure_digest(user: Any) -> str:
    """SHA-256, in hex, of a user's external id as text."""
    return hashlib.sha256(str(user).encode()).hexdigest()


def read_erased(prepared: Path) -> frozenset[str]:
    """The digests in the folder's forgotten.txt; empty if there is no such file."""
    path = prepared / FORGOTTEN_FILE
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
    return frozenset(line for line in lines if line and not line.startswith("#"))


def add_erased(prepared: Path, erased: Iterable[str]) -> None:
    """Adds digests to the folder's forgotten.txt, which stays sorted."""
    digests = sorted(read_erased(prepared) | set(erased))
    files.write_text(prepared / FORGOTTEN_FILE, "\n".join([HEAD, *digests, ""]))


def is_erased(ids: pl.Series, erased: frozenset[str]) -> pl.Series:
    """bool for each external id: whether its digest is among `erased`; False for null."""
    if not erased:
        return pl.repeat(False, len(ids), eager=True)
    unique_ids = ids.drop_nulls().unique()
    erased_ids = unique_ids.filter(
        pl.Series([erasure_digest(user_id) in erased for user_id in unique_ids], dtype=pl.Boolean)
    )
    return ids.is_in(erased_ids.implode()).fill_null(False)


def without_erased(log: EventLog, erased: frozenset[str]) -> EventLog:
    """The log without the events of erased users. Their internal ids stay, so that trained models still fit it."""
    erased_users = is_erased(log.user_ids, erased).to_numpy()
    if not erased_users.any():
        return log
    remaining = np.flatnonzero(~(erased_users[log.actor] | erased_users[log.target]))
    columns = {name: getattr(log, name)[remaining] for name in ("actor", "target", "timestamp", "action", "role")}
    return replace(log, **columns)
