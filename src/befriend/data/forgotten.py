"""People who asked to be forgotten: prepared/forgotten.txt, a mark of each.

A mark is a digest of the id, so that the list itself, which travels with the code, names nobody at a glance. It is no
secret: whoever has the ids can try them.
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
from befriend.data.log import EventLog

FORGOTTEN_FILE = "forgotten.txt"
HEAD = "# People who asked to be forgotten, a digest of each one's id (befriend forget)."


def mark(user: Any) -> str:
    return hashlib.sha256(str(user).encode()).hexdigest()


def read_marks(prepared: Path) -> frozenset[str]:
    """Of the folder's list; empty without one."""
    path = prepared / FORGOTTEN_FILE
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
    return frozenset(line for line in lines if line and not line.startswith("#"))


def add_marks(prepared: Path, marks: Iterable[str]) -> None:
    told = sorted(read_marks(prepared) | set(marks))
    files.write_text(prepared / FORGOTTEN_FILE, "\n".join([HEAD, *told, ""]))


def marked(ids: pl.Series, marks: frozenset[str]) -> pl.Series:
    """bool, of each id."""
    if not marks:
        return pl.repeat(False, len(ids), eager=True)
    known = ids.drop_nulls().unique()
    gone = known.filter(pl.Series([mark(one) in marks for one in known], dtype=pl.Boolean))
    return ids.is_in(gone.implode()).fill_null(False)


def without(log: EventLog, marks: frozenset[str]) -> EventLog:
    """The log without any event of these people. Their numbers stay, so that models still fit; nothing else does."""
    gone = marked(log.user_ids, marks).to_numpy()
    if not gone.any():
        return log
    kept = np.flatnonzero(~(gone[log.actor] | gone[log.target]))
    columns = {name: getattr(log, name)[kept] for name in ("actor", "target", "timestamp", "action", "role")}
    return replace(log, **columns)
