"""Turns a raw event log into the tables of events and users: checks rows, and assigns internal ids to users.

Rejected rows are written to rejected.parquet. Self-loops, rows in which a user acts on themselves, are neither events
nor rejected rows: they are only counted. Rows of erased users (who asked to be deleted) are counted and not stored. The
log is read once, in chunks. While it is read, memory holds 18 bytes per event and the ids of the users; sorting the
events and counting those of each user then takes about 90 bytes per event more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from befriend.data.columns import (
    ACTION,
    ACTOR,
    CONTACT,
    DEGREE,
    EVENT_FIELDS,
    EVENTS_DONE,
    EVENTS_RECEIVED,
    FIRST_SEEN,
    LAST_SEEN,
    NANOSECOND,
    OPTED_OUT,
    REASON,
    ROLE,
    ROLES,
    ROW,
    TARGET,
    TIMESTAMP,
    USER,
    USER_ID,
)
from befriend.data.contracts import USERS, read_table
from befriend.data.erasure import is_erased
from befriend.data.event_log import first_seen
from befriend.errors import DataError
from befriend.progress import track
from befriend.readers.data_settings import DataSettings
from befriend.readers.sources import read_chunks
from befriend.readers.timestamps import finer_unit
from befriend.validation.rejected_rows import RejectedRows, RejectedWriter
from befriend.validation.row_rules import check_event_rows
from befriend.validation.validate_settings import ValidateSettings

NO_ERASED_USERS: frozenset[str] = frozenset()
NANOSECONDS_PER_SECOND = 10**9
MAX_ACTIONS = 255  # an action is stored in one byte
ChunkArrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""actors and targets (provisional ids), actions (codes in order of first occurrence), timestamps (UTC nanoseconds)"""


@dataclass
class IngestedEvents:
    """The events of a log, and counts of all other rows: erased, rejected, self-loops."""

    events: pl.DataFrame
    """timestamp Int64, actor_id Int32, target_id Int32, action Enum, role Enum, in time order, ties in file order; the
    order within a second is that of the log's fractions of seconds"""
    users: pl.DataFrame
    """one row per user; row k is the user with internal id k"""
    num_rows_read: int
    """number of rows read, without those of erased users"""
    num_erased_rows: int
    """number of rows whose actor or target is an erased user"""
    rejected_by_reason: dict[str, int]
    """reason -> number of rejected rows"""
    num_comments: int
    """number of comment lines, which are no rows"""
    num_self_loops: int
    num_duplicates: int
    """number of exact repetitions of an earlier event (in `events` only if settings keep them)"""
    rejected_examples: pl.DataFrame
    """the first rejected rows"""
    settings_hint: str
    """which setting to change if a setting, not the log, looks wrong; else empty"""
    sampled_rows: pl.DataFrame
    """every `stride`-th row of those read, with typed fields (null where unreadable) and the reason if it is rejected;
    for Great Expectations, which checks them"""
    stride: int


class _ProvisionalIds:
    """Assigns provisional ids to users, in order of first occurrence; the users of an earlier log come first.

    Internal ids are in order of the users' first events, so they cannot be assigned before the whole log is read.
    """

    def __init__(self, earlier_ids: pl.Series):
        """earlier_ids: external ids of the users of an earlier log, by internal id."""
        provisional_ids = pl.int_range(len(earlier_ids), dtype=pl.Int32, eager=True)
        self.table = pl.DataFrame({USER_ID: earlier_ids, USER: provisional_ids})

    def __call__(self, actors: pl.Series, targets: pl.Series) -> tuple[np.ndarray, np.ndarray]:
        """The provisional ids of actors and of targets, each int32. actors, targets: external ids."""
        users = pl.concat([actors, targets]).unique(maintain_order=True).alias(USER_ID).to_frame()
        new_users = users.join(self.table, on=USER_ID, how="anti", maintain_order="left")
        if new_users.height:
            start = self.table.height
            new_ids = pl.int_range(start, start + new_users.height, dtype=pl.Int32, eager=True).alias(USER)
            self.table = pl.concat([self.table, new_users.with_columns(new_ids)])
        tables = (
            ids.alias(USER_ID).to_frame().join(self.table, on=USER_ID, how="left", maintain_order="left")
            for ids in (actors, targets)
        )
        actor, target = (table[USER].to_numpy() for table in tables)
        return actor, target


@dataclass
class _RowSample:
    """Every `stride`-th row of the log; the stride doubles whenever there are more than `max_rows` rows."""

    max_rows: int
    stride: int = 1
    num_rows_seen: int = 0
    tables: list[pl.DataFrame] = field(default_factory=list)

    def add(self, rows: pl.DataFrame) -> None:
        """Adds the next rows of the log."""
        row_index = pl.int_range(self.num_rows_seen, self.num_rows_seen + rows.height, dtype=pl.Int64).alias(
            "_row_index"
        )
        self.num_rows_seen += rows.height
        self.tables.append(rows.with_columns(row_index).filter(pl.col("_row_index") % self.stride == 0))
        while sum(table.height for table in self.tables) > self.max_rows:
            self.stride *= 2
            self.tables = [table.filter(pl.col("_row_index") % self.stride == 0) for table in self.tables]

    def table(self) -> pl.DataFrame:
        """The rows of the sample."""
        if not self.tables:
            return pl.DataFrame(schema=[*EVENT_FIELDS, REASON])
        return pl.concat(self.tables).drop("_row_index")


def ingest(
    source: Path,
    data_settings: DataSettings,
    validate_settings: ValidateSettings,
    writer: RejectedWriter,
    erased: frozenset[str] = NO_ERASED_USERS,
) -> IngestedEvents:
    """Reads and checks the log at `source`; writes rejected rows to `writer`. erased: digests of erased users."""
    earlier_ids = previous_ids(validate_settings.previous_users, data_settings)
    provisional_ids = _ProvisionalIds(earlier_ids.filter(~is_erased(earlier_ids, erased)) if erased else earlier_ids)
    num_previous = provisional_ids.table.height
    label_codes: dict[str, int] = {}
    sample = _RowSample(validate_settings.checked_rows)
    chunk_arrays: list[ChunkArrays] = []
    rejected_rows = RejectedRows(writer)
    settings_hint, num_rows_read, num_comments, num_self_loops, num_erased_rows = "", 0, 0, 0, 0
    for chunk in track(read_chunks(data_settings, source), "reading the log"):
        rows = check_event_rows(chunk.rows, data_settings, validate_settings.latest_second)
        if erased:
            is_erased_row = is_erased(rows[ACTOR], erased) | is_erased(rows[TARGET], erased)
            num_erased_rows += int(is_erased_row.sum())
            rows, chunk = rows.filter(~is_erased_row), chunk.filter(~is_erased_row)
        num_rows_read += rows.height
        num_comments += chunk.num_comments
        sample.add(rows.select(ACTOR, ACTION, TARGET, TIMESTAMP, REASON))
        is_rejected = rows[REASON].is_not_null()
        rejected_rows.add(chunk, rows)
        settings_hint = settings_hint or _settings_hint(rows.filter(is_rejected), chunk.rows, data_settings)
        accepted = rows.filter(~is_rejected)
        is_self_loop = accepted[ACTOR] == accepted[TARGET]
        num_self_loops += int(is_self_loop.sum())
        accepted = accepted.filter(~is_self_loop)
        codes = _action_codes(accepted[ACTION], label_codes)
        chunk_arrays.append(
            (*provisional_ids(accepted[ACTOR], accepted[TARGET]), codes.to_numpy(), accepted[NANOSECOND].to_numpy())
        )
    events, users, num_duplicates = _assemble(
        chunk_arrays,
        provisional_ids.table[USER_ID],
        num_previous,
        label_codes,
        data_settings,
        validate_settings.duplicates,
    )
    return IngestedEvents(
        events=events,
        users=users,
        num_rows_read=num_rows_read,
        rejected_by_reason=rejected_rows.counts,
        num_erased_rows=num_erased_rows,
        num_comments=num_comments,
        num_self_loops=num_self_loops,
        num_duplicates=num_duplicates,
        rejected_examples=rejected_rows.examples,
        settings_hint=settings_hint,
        sampled_rows=sample.table(),
        stride=sample.stride,
    )


def _action_codes(actions: pl.Series, label_codes: dict[str, int]) -> pl.Series:
    """int16: the code of each action label. Adds new labels to `label_codes`, label -> code; DataError if too many."""
    for label in actions.unique().sort():
        label_codes.setdefault(label, len(label_codes))
    if len(label_codes) > MAX_ACTIONS:
        raise DataError(
            f"the log has more than {MAX_ACTIONS} different actions, such as {', '.join(list(label_codes)[-3:])}. "
            "Is data.columns.action the right column? data.rename_actions can merge labels."
        )
    return actions.replace_strict(label_codes, return_dtype=pl.Int16) if len(actions) else pl.Series([], dtype=pl.Int16)


def _assemble(
    chunk_arrays: list[ChunkArrays],
    ids: pl.Series,
    num_previous: int,
    label_codes: dict[str, int],
    data_settings: DataSettings,
    duplicates: str,
) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """The tables of events in time order and of users, and the number of events that repeat an earlier one exactly.

    chunk_arrays: emptied, to free memory. ids: external ids by provisional id; the first `num_previous` are those of an
    earlier log. label_codes: action label -> its code in `chunk_arrays`. duplicates: "keep" or "drop".
    """
    actor, target, action, timestamp = _concatenate(chunk_arrays)
    order = np.argsort(timestamp, kind="stable")
    timestamp = timestamp[order]
    actor, target, action = actor[order], target[order], action[order]
    del order
    duplicate_rows = _find_duplicates(timestamp, actor, target, action)
    timestamp //= NANOSECONDS_PER_SECOND
    first_timestamps = first_seen(actor, target, timestamp, len(ids))
    internal_ids = _assign_internal_ids(ids, first_timestamps, num_previous)
    actor, target = internal_ids[actor], internal_ids[target]
    sorted_labels = sorted(label_codes)
    label_rank = np.array([sorted_labels.index(label) for label in label_codes], dtype=np.int16)
    action = label_rank[action]
    roles = [data_settings.roles.get(label, CONTACT) for label in sorted_labels]
    role_by_action = np.array([ROLES.index(role) for role in roles], dtype=np.uint8)
    events = pl.DataFrame(
        {
            TIMESTAMP: timestamp.astype(np.int64),
            ACTOR: actor,
            TARGET: target,
            ACTION: pl.Series(action.astype(np.uint8), dtype=pl.UInt8).cat.to(pl.Enum(sorted_labels)),
            ROLE: pl.Series(role_by_action[action], dtype=pl.UInt8).cat.to(pl.Enum(ROLES)),
        }
    )
    if len(duplicate_rows) and duplicates == "drop":
        is_first = np.ones(len(timestamp), bool)
        is_first[duplicate_rows] = False
        events = events.filter(pl.Series(is_first))
    return events, _users_table(events, ids, internal_ids), len(duplicate_rows)


def _concatenate(chunk_arrays: list[ChunkArrays]) -> list[np.ndarray]:
    """Actors, targets, actions and timestamps of all chunks. Empties the list, to free the memory of each chunk."""
    dtypes = (np.int32, np.int32, np.int16, np.int64)
    arrays = [np.empty(sum(len(chunk[0]) for chunk in chunk_arrays), dtype) for dtype in dtypes]
    end = len(arrays[0])
    while chunk_arrays:
        chunk = chunk_arrays.pop()
        for array, values in zip(arrays, chunk, strict=True):
            array[end - len(values) : end] = values
        end -= len(chunk[0])
    return arrays


def _find_duplicates(timestamp: np.ndarray, *columns: np.ndarray) -> np.ndarray:
    """int64: indices of events that equal an earlier event in every column. timestamp: ascending.

    Duplicates have the same timestamp, so only events whose timestamp occurs more than once are sorted.

    >>> _find_duplicates(np.array([5, 5, 5, 9]), np.array([0, 1, 0, 0]), np.array([2, 2, 2, 2])).tolist()
    [2]
    """
    is_repeated_time = np.zeros(len(timestamp), bool)
    is_repeated_time[1:] = timestamp[1:] == timestamp[:-1]
    is_repeated_time[:-1] |= is_repeated_time[1:]
    rows = np.flatnonzero(is_repeated_time)
    keys = [*(column[rows] for column in columns), timestamp[rows]]
    order = np.lexsort(keys)  # stable: the earlier of equal events comes first
    is_duplicate = np.ones(max(len(order) - 1, 0), bool)
    for key in keys:
        key = key[order]
        is_duplicate &= key[1:] == key[:-1]
    return rows[order[1:][is_duplicate]]


def _assign_internal_ids(ids: pl.Series, first_timestamps: np.ndarray, num_previous: int) -> np.ndarray:
    """int32[N], provisional id -> internal id. Users of an earlier log keep theirs; new users follow by first event.

    Ties are ordered by external id, so that internal ids do not depend on the order of the files.
    """
    new_users = (
        pl.DataFrame({"id": ids, "first": first_timestamps}).with_row_index("k")[num_previous:].sort("first", "id")
    )
    internal_ids = np.empty(len(ids), np.int32)
    internal_ids[:num_previous] = np.arange(num_previous)
    internal_ids[new_users["k"].to_numpy()] = np.arange(num_previous, len(ids))
    return internal_ids


def _users_table(events: pl.DataFrame, ids: pl.Series, internal_ids: np.ndarray) -> pl.DataFrame:
    """The table of users (contract USERS). ids: external ids by provisional id; internal_ids: their internal ids."""
    num_users = len(ids)
    actor, target = events[ACTOR].to_numpy(), events[TARGET].to_numpy()
    timestamp = events[TIMESTAMP].to_numpy()
    first, last = first_seen(actor, target, timestamp, num_users), np.full(num_users, -1)
    last[actor] = timestamp
    last_received = np.full(num_users, -1)
    last_received[target] = timestamp
    last = np.maximum(last, last_received)
    has_event = last >= 0
    is_contact = (events[ROLE] == CONTACT).to_numpy()
    lower, higher = np.minimum(actor, target)[is_contact], np.maximum(actor, target)[is_contact]
    pairs = np.unique(lower.astype(np.int64) * num_users + higher)
    degree = (
        np.bincount(np.concatenate([pairs // num_users, pairs % num_users]), minlength=num_users)
        if num_users
        else np.empty(0, np.int64)
    )
    provisional_ids = np.argsort(internal_ids)
    return pl.DataFrame(
        {
            USER: np.arange(num_users, dtype=np.int32),
            USER_ID: ids.gather(provisional_ids),
            FIRST_SEEN: pl.Series(np.where(has_event, first, 0), dtype=pl.Int64).set(pl.Series(~has_event), None),
            LAST_SEEN: pl.Series(np.where(has_event, last, 0), dtype=pl.Int64).set(pl.Series(~has_event), None),
            EVENTS_DONE: np.bincount(actor, minlength=num_users),
            EVENTS_RECEIVED: np.bincount(target, minlength=num_users),
            DEGREE: degree,
            OPTED_OUT: pl.repeat(False, num_users, eager=True),
        }
    )


def previous_ids(path: Path | None, data_settings: DataSettings) -> pl.Series:
    """The external ids in the users.parquet of an earlier run, by internal id; empty if `path` is None.

    DataError if the file is missing, damaged or has ids of another type than the settings.
    """
    dtype = pl.Int64 if data_settings.id_type == "integer" else pl.String
    if path is None:
        return pl.Series(USER_ID, [], dtype=dtype)
    if not path.is_file():
        raise DataError(
            f"validate.previous_users names {path}, which does not exist. Give an earlier run's users.parquet, or null."
        )
    ids = read_table(path, USERS)[USER_ID]
    if ids.dtype != dtype:
        raise DataError(
            f"{path} has {ids.dtype} ids, but data.id_type is {data_settings.id_type}. Use that of the earlier run."
        )
    return ids


def _settings_hint(rejected_rows: pl.DataFrame, raw: pl.DataFrame, data_settings: DataSettings) -> str:
    """Which setting to change if rows are rejected for their action or the unit of their timestamp; else empty.

    raw: rows as they were read, which include the rejected ones.
    """
    unlisted = rejected_rows.filter(pl.col(REASON) == "action_unknown")[ACTION].unique().sort()
    if len(unlisted):
        return f"The log also has: {', '.join(unlisted[:20])}. Add the ones you want to data.actions."
    far_future_rows = rejected_rows.filter(pl.col(REASON) == "timestamp_unit")[ROW]
    if not len(far_future_rows):
        return ""
    value = raw.filter(pl.col(ROW) == far_future_rows[0])[TIMESTAMP].cast(pl.Float64, strict=False)[0]
    unit = finer_unit(data_settings.timestamp_unit, value) if value is not None else None
    return f"The timestamps look like {unit}: set data.timestamp_unit: {unit}." if unit else ""
