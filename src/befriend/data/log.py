"""The checked event log in memory: flat arrays in time order, and the users behind the dense numbers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from befriend.data.columns import ACTION, ACTOR, CONTACT, EXCLUDE, ROLE, ROLES, TARGET, TIMESTAMP, USER_ID
from befriend.data.contracts import EVENTS, USERS, read_table

EVENTS_FILE = "events.parquet"
USERS_FILE = "users.parquet"
TEXTS_FILE = "texts.parquet"
STATEMENTS_FILE = "statements.parquet"
REJECTED_FILE = "rejected.parquet"
SPLIT_FILE = "split.json"


def first_seen(actor: np.ndarray, target: np.ndarray, second: np.ndarray, users: int) -> np.ndarray:
    """int64[users], the second of each user's first event; the largest int64 without one. Events in time order."""
    first = np.full(users, np.iinfo(np.int64).max)
    for side in (actor, target):
        earliest = np.full(users, np.iinfo(np.int64).max)
        earliest[side[::-1]] = second[::-1]  # of repeated places, the last one written stays
        first = np.minimum(first, earliest)
    return first


@dataclass(frozen=True)
class EventLog:
    """M events between N users, ordered by timestamp, ties in file order. No self-loops."""

    actor: np.ndarray
    """int32[M]"""
    target: np.ndarray
    """int32[M]"""
    timestamp: np.ndarray
    """int64[M], UTC seconds, ascending"""
    action: np.ndarray
    """uint8[M], index into `actions`"""
    role: np.ndarray
    """uint8[M], index into the roles contact, signal, exclude"""
    actions: tuple[str, ...]
    user_ids: pl.Series
    """N original ids; the place of an id is its user's dense number"""

    @classmethod
    def from_tables(cls, events: pl.DataFrame, user_ids: pl.Series) -> EventLog:
        """From tables that keep the contracts of events.parquet and users.parquet."""
        return cls(
            actor=events[ACTOR].to_numpy(),
            target=events[TARGET].to_numpy(),
            timestamp=events[TIMESTAMP].to_numpy(),
            action=events[ACTION].to_physical().cast(pl.UInt8).to_numpy(),
            role=events[ROLE].to_physical().cast(pl.UInt8).to_numpy(),
            actions=tuple(events[ACTION].dtype.categories),  # type: ignore[attr-defined]
            user_ids=user_ids,
        )

    @classmethod
    def read(cls, folder: Path) -> EventLog:
        """From the folder that stage `validate` wrote."""
        events, users = read_table(folder / EVENTS_FILE, EVENTS), read_table(folder / USERS_FILE, USERS)
        return cls.from_tables(events, users[USER_ID])

    @property
    def num_users(self) -> int:
        return len(self.user_ids)

    @property
    def num_events(self) -> int:
        return len(self.actor)

    @cached_property
    def is_contact(self) -> np.ndarray:
        return self.role == ROLES.categories.to_list().index(CONTACT)

    @cached_property
    def is_exclude(self) -> np.ndarray:
        return self.role == ROLES.categories.to_list().index(EXCLUDE)

    @cached_property
    def first_seen(self) -> np.ndarray:
        """int64[N], the second of each user's first event in either role; the largest int64 without one."""
        return first_seen(self.actor, self.target, self.timestamp, self.num_users)

    @cached_property
    def first_contacts(self) -> tuple[np.ndarray, np.ndarray]:
        """Ordered pairs (actor * users + target, ascending) and the second of each pair's first contact event."""
        return self._contacts(np.flatnonzero(self.is_contact))

    @cached_property
    def last_contacts(self) -> tuple[np.ndarray, np.ndarray]:
        """The same with the second of each pair's last contact event."""
        return self._contacts(np.flatnonzero(self.is_contact)[::-1])

    def _contacts(self, events: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ordered pairs and the time of the first of these events that each has."""
        pairs = self.actor[events].astype(np.int64) * self.num_users + self.target[events]
        keys, index = np.unique(pairs, return_index=True)
        return keys, self.timestamp[events[index]]

    @cached_property
    def _by_id(self) -> tuple[pl.Series, np.ndarray]:
        """The ids in ascending order, and the number of each."""
        order = self.user_ids.arg_sort()
        return self.user_ids.gather(order), order.to_numpy().astype(np.int64)

    def numbers(self, ids: pl.Series) -> np.ndarray:
        """int64: the number of each id, as the log writes it, `num_users` for one it does not have.

        Of integer ids text has to be the number itself: neither "007" nor "+7" is 7, nor is 7.5 or true.
        """
        known, number = self._by_id
        if ids.dtype == pl.Boolean:
            return np.full(len(ids), self.num_users)
        wanted = ids.cast(known.dtype, strict=False)
        if ids.dtype.is_float():
            wanted = pl.select(pl.when(wanted.cast(ids.dtype, strict=False) == ids).then(wanted)).to_series()
        if ids.dtype == pl.String and known.dtype.is_integer():
            wanted = pl.select(pl.when(wanted.cast(pl.String) == ids).then(wanted)).to_series()
        there = wanted.is_not_null().to_numpy()
        place = np.zeros(len(ids), np.int64)
        place[there] = np.minimum(known.search_sorted(wanted.drop_nulls()).to_numpy(), max(len(known) - 1, 0))
        found = np.full(len(ids), self.num_users)
        if len(known):
            same = there & (known.gather(place) == wanted).fill_null(False).to_numpy()
            found[same] = number[place[same]]
        return found

    def before(self, timestamp: int | np.ndarray) -> Any:
        """How many events lie before a timestamp; they are the first so many."""
        return np.searchsorted(self.timestamp, timestamp)

    def lineage(self, users: int | None = None) -> str:
        """Digest of the first `users` ids (all by default).

        Numbers are never given anew, so a later version of a log begins with the users of the earlier one: it
        is of the same lineage if it gives the same digest for as many users.
        """
        ids = self.user_ids[: self.num_users if users is None else users]
        return hashlib.sha256("\n".join(ids.cast(pl.String)).encode()).hexdigest()
