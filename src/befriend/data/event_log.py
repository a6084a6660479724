"""The prepared event log in memory: one array per field, in time order, and the external id of each user.

An external id is a user's id in the raw log. An internal id is a number from 0 to N - 1 that stage `validate` assigns.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from befriend.data.columns import ACTION, ACTOR, CONTACT, EXCLUDE, ROLE, ROLES, TARGET, TIMESTAMP, USER_ID
from befriend.data.external_ids import as_log_ids
from befriend.errors import DataError

HOUR, DAY = 3600, 86_400  # seconds
EVENTS_FILE = "events.parquet"
USERS_FILE = "users.parquet"
TEXTS_FILE = "texts.parquet"
STATEMENTS_FILE = "statements.parquet"
REJECTED_FILE = "rejected.parquet"
SPLIT_FILE = "split.json"


def first_seen(actor: np.ndarray, target: np.ndarray, timestamp: np.ndarray, num_users: int) -> np.ndarray:
    """int64[num_users], the timestamp of each user's first event, as actor or target; the largest int64 without one.

    actor, target, timestamp: one value per event, in time order.
    """
    first = np.full(num_users, np.iinfo(np.int64).max)
    for side in (actor, target):
        earliest = np.full(num_users, np.iinfo(np.int64).max)
        earliest[side[::-1]] = timestamp[::-1]  # of several assignments to one index NumPy keeps the last
        first = np.minimum(first, earliest)
    return first


@dataclass(frozen=True)
class EventLog:
    """M events between N users, in order of timestamps, ties in file order. There are no self-loops."""

    actor: np.ndarray
    """int32[M], internal id of the user who acts"""
    target: np.ndarray
    """int32[M], internal id of the user who is acted on"""
    timestamp: np.ndarray
    """int64[M], UTC seconds, ascending"""
    action: np.ndarray
    """uint8[M], index into `actions`"""
    role: np.ndarray
    """uint8[M], index into `ROLES`: a contact event (a message) makes the two users contacts, a signal event (a view)
    is history only, an exclude event (a block) keeps the two off each other's lists"""
    actions: tuple[str, ...]
    """action labels"""
    user_ids: pl.Series
    """N external ids; the index of an id is the user's internal id"""

    @classmethod
    def from_tables(cls, events: pl.DataFrame, user_ids: pl.Series) -> EventLog:
        """Converts tables that satisfy the contracts of events.parquet and users.parquet."""
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
        """Reads events.parquet and users.parquet from the folder that stage `validate` wrote."""
        from befriend.data.contracts import EVENTS, USERS, read_table  # here: a lookup of ids does without pandera

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
        """bool[M], whether each event is a contact event"""
        return self.role == ROLES.index(CONTACT)

    @cached_property
    def is_exclude(self) -> np.ndarray:
        """bool[M], whether each event is an exclude event"""
        return self.role == ROLES.index(EXCLUDE)

    @cached_property
    def first_seen(self) -> np.ndarray:
        """int64[N], UTC second of each user's first event, as actor or target; the largest int64 without one."""
        return first_seen(self.actor, self.target, self.timestamp, self.num_users)

    @cached_property
    def first_contacts(self) -> tuple[np.ndarray, np.ndarray]:
        """The ordered pairs with a contact event, and the UTC second of the first one of each; both int64.

        Pairs are keys, actor * num_users + target, in ascending order.
        """
        return self._contacts(np.flatnonzero(self.is_contact))

    @cached_property
    def last_contacts(self) -> tuple[np.ndarray, np.ndarray]:
        """As `first_contacts`, with the UTC second of the last contact event of each pair."""
        return self._contacts(np.flatnonzero(self.is_contact)[::-1])

    def _contacts(self, events: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Keys of the ordered pairs in these events, and the timestamp of each pair's first event in this order."""
        pairs = self.actor[events].astype(np.int64) * self.num_users + self.target[events]
        keys, index = np.unique(pairs, return_index=True)
        return keys, self.timestamp[events[index]]

    @cached_property
    def _by_id(self) -> tuple[pl.Series, np.ndarray]:
        """External ids in ascending order, and the internal id of each."""
        order = self.user_ids.arg_sort()
        return self.user_ids.gather(order), order.to_numpy().astype(np.int64)

    def internal_ids(self, ids: pl.Series) -> np.ndarray:
        """int64: the internal id of each external id; `num_users` for an id that the log does not have.

        Ids of another type are converted as in `as_log_ids`.
        """
        sorted_ids, internal_ids = self._by_id
        typed = as_log_ids(ids, sorted_ids.dtype)
        is_readable = typed.is_not_null().to_numpy()
        rank = np.zeros(len(ids), np.int64)
        rank[is_readable] = np.minimum(
            sorted_ids.search_sorted(typed.drop_nulls()).to_numpy(), max(len(sorted_ids) - 1, 0)
        )
        result = np.full(len(ids), self.num_users)
        if len(sorted_ids):
            matches = is_readable & (sorted_ids.gather(rank) == typed).fill_null(False).to_numpy()
            result[matches] = internal_ids[rank[matches]]
        return result

    def count_before(self, timestamp: int | np.ndarray) -> Any:
        """Number of events before a timestamp (`num_visible` of a cutoff): int64, in the shape of the argument."""
        return np.searchsorted(self.timestamp, timestamp)

    def lineage(self, num_users: int | None = None) -> str:
        """SHA-256, in hexadecimal, of the first `num_users` external ids (default: all).

        It identifies a later version of a log in which all users keep their internal ids: that version starts with the
        users of the earlier one, so both give the same digest for the number of users of the earlier one.
        """
        ids = self.user_ids[: self.num_users if num_users is None else num_users]
        return hashlib.sha256("\n".join(ids.cast(pl.String)).encode()).hexdigest()

    def check_lineage(self, num_users: int, lineage: str, artifact: str, remedy: str) -> None:
        """Raises a DataError unless this log is the one that an artifact was made from, or a later version of it.

        num_users, lineage: those of the log that the artifact was made from. artifact: its name in the message. remedy:
        what to do, a sentence without a full stop.
        """
        own_lineage = self.lineage(num_users) if self.num_users >= num_users else "shorter"
        if own_lineage != lineage:
            raise DataError(
                f"{artifact} belongs to another log: lineage {lineage[:12]} of {num_users:,} users, this log has "
                f"{self.num_users:,} users and lineage {self.lineage()[:12]}. {remedy}."
            )
