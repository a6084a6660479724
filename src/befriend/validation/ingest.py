"""Turns a raw event log into checked events: checks rows, sets refused ones aside, assigns internal ids to users.

Reads the log once, chunk by chunk. Until its end, memory holds 18 bytes per event and the users' ids; sorting events
and counting users then takes some 90 bytes per event more.
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
    DONE,
    EVENT_FIELDS,
    FIRST_SEEN,
    LAST_SEEN,
    OPTED_OUT,
    REASON,
    RECEIVED,
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
from befriend.validation.rejected import RejectedRows, RejectedWriter
from befriend.validation.row_rules import check_rows, finer_unit
from befriend.validation.validate_settings import ValidateSettings

NONE_ERASED: frozenset[str] = frozenset()
MOST_ACTIONS = 255  # an action is stored in one byte
ChunkArrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""actors, targets (provisional ids), actions (codes in order of first occurrence) and UTC seconds of a chunk"""


@dataclass
class IngestedEvents:
    """The accepted events of a log, and counts of all other rows."""

    events: pl.DataFrame
    """timestamp Int64, actor_id Int32, target_id Int32, action Enum, role Enum, in time order, ties in file order"""
    users: pl.DataFrame
    """one row per user; row k is the user with internal id k"""
    read: int
    """number of rows read, without those of erased users"""
    forgotten: int
    """number of rows whose actor or target is an erased user"""
    rejected: dict[str, int]
    """reason -> number of refused rows"""
    self_loops: int
    duplicates: int
    """number of exact repetitions of an earlier event (in `events` only if settings keep them)"""
    examples: pl.DataFrame
    """the first refused rows"""
    suggestion: str
    """which setting to change if a setting, not the data, looks wrong; else empty"""
    checked: pl.DataFrame
    """every `stride`-th row of the log, with typed fields (null where unreadable) and reason, for the report"""
    stride: int


class _ProvisionalIds:
    """Assigns provisional ids to external ids, in order of first occurrence; starts with ids of an earlier log.

    Called with the external ids of actors and targets, it returns their provisional ids, int32.
    """

    def __init__(self, ids: pl.Series):
        self.table = pl.DataFrame({USER_ID: ids, USER: pl.int_range(len(ids), dtype=pl.Int32, eager=True)})

    def __call__(self, actors: pl.Series, targets: pl.Series) -> tuple[np.ndarray, np.ndarray]:
        seen = pl.concat([actors, targets]).unique(maintain_order=True).alias(USER_ID).to_frame()
        new = seen.join(self.table, on=USER_ID, how="anti", maintain_order="left")
        if new.height:
            start = self.table.height
            new_ids = pl.int_range(start, start + new.height, dtype=pl.Int32, eager=True).alias(USER)
            self.table = pl.concat([self.table, new.with_columns(new_ids)])
        columns = (
            ids.alias(USER_ID).to_frame().join(self.table, on=USER_ID, how="left", maintain_order="left")
            for ids in (actors, targets)
        )
        actor, target = (column[USER].to_numpy() for column in columns)
        return actor, target


@dataclass
class _Sample:
    """Every `stride`-th row of the log; the stride doubles whenever more than `limit` rows are collected."""

    limit: int
    stride: int = 1
    seen: int = 0
    tables: list[pl.DataFrame] = field(default_factory=list)

    def add(self, rows: pl.DataFrame) -> None:
        row_index = pl.int_range(self.seen, self.seen + rows.height, dtype=pl.Int64).alias("_row_index")
        self.seen += rows.height
        self.tables.append(rows.with_columns(row_index).filter(pl.col("_row_index") % self.stride == 0))
        while sum(table.height for table in self.tables) > self.limit:
            self.stride *= 2
            self.tables = [table.filter(pl.col("_row_index") % self.stride == 0) for table in self.tables]

    def table(self) -> pl.DataFrame:
        if not self.tables:
            return pl.DataFrame(schema=[*EVENT_FIELDS, REASON])
        return pl.concat(self.tables).drop("_row_index")


def ingest(
    source: Path,
    data: DataSettings,
    rules: ValidateSettings,
    writer: RejectedWriter,
    erased: frozenset[str] = NONE_ERASED,
) -> IngestedEvents:
    """Reads the log at `source`; refused rows go to `writer` as they are read.

    erased: erasure digests; rows of these users are counted, and stored nowhere.
    """
    earlier_ids = previous_ids(rules.previous_users, data)
    provisional_ids = _ProvisionalIds(earlier_ids.filter(~is_erased(earlier_ids, erased)) if erased else earlier_ids)
    num_previous = provisional_ids.table.height
    labels: dict[str, int] = {}
    sample = _Sample(rules.checked_rows)
    chunk_arrays: list[ChunkArrays] = []
    refused = RejectedRows(writer)
    suggestion, read, self_loops, forgotten = "", 0, 0, 0
    for chunk in track(read_chunks(data, source), "reading the log"):
        rows = check_rows(chunk.rows, data, rules.latest_second)
        if erased:
            is_gone = is_erased(rows[ACTOR], erased) | is_erased(rows[TARGET], erased)
            forgotten += int(is_gone.sum())
            rows, chunk = rows.filter(~is_gone), chunk.only(~is_gone)
        read += rows.height
        sample.add(rows.select(ACTOR, ACTION, TARGET, TIMESTAMP, REASON))
        is_refused = rows[REASON].is_not_null()
        refused.add(chunk, rows)
        suggestion = suggestion or _suggestion(rows.filter(is_refused), chunk.rows, data)
        accepted = rows.filter(~is_refused)
        is_self_loop = accepted[ACTOR] == accepted[TARGET]
        self_loops += int(is_self_loop.sum())
        accepted = accepted.filter(~is_self_loop)
        codes = _action_codes(accepted[ACTION], labels)
        chunk_arrays.append(
            (*provisional_ids(accepted[ACTOR], accepted[TARGET]), codes.to_numpy(), accepted[TIMESTAMP].to_numpy())
        )
    events, users, duplicates = _assemble(
        chunk_arrays, provisional_ids.table[USER_ID], num_previous, labels, data, rules.duplicates
    )
    return IngestedEvents(
        events=events,
        users=users,
        read=read,
        rejected=refused.counts,
        forgotten=forgotten,
        self_loops=self_loops,
        duplicates=duplicates,
        examples=refused.examples,
        suggestion=suggestion,
        checked=sample.table(),
        stride=sample.stride,
    )


def _action_codes(actions: pl.Series, labels: dict[str, int]) -> pl.Series:
    """int16: the code of each action. `labels`, label -> code, gets the labels that are new to it."""
    for label in actions.unique().sort():
        labels.setdefault(label, len(labels))
    if len(labels) > MOST_ACTIONS:
        raise DataError(
            f"the log has more than {MOST_ACTIONS} different actions, such as {', '.join(list(labels)[-3:])}. "
            "Is data.columns.action the right column? data.rename_actions can merge labels."
        )
    return actions.replace_strict(labels, return_dtype=pl.Int16) if len(actions) else pl.Series([], dtype=pl.Int16)


def _assemble(
    chunk_arrays: list[ChunkArrays],
    ids: pl.Series,
    num_previous: int,
    labels: dict[str, int],
    data: DataSettings,
    duplicates: str,
) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """Events in time order with internal ids, the table of users, and the number of events that repeat an earlier one.

    ids: external ids by provisional id, the first `num_previous` from an earlier log. labels: action label -> code in
    `chunk_arrays`, which is emptied.
    """
    actor, target, action, second = _concatenated(chunk_arrays)
    order = np.argsort(second, kind="stable")
    second = second[order]
    actor, target, action = actor[order], target[order], action[order]
    del order
    first_seconds = first_seen(actor, target, second, len(ids))
    final_ids = _final_ids(ids, first_seconds, num_previous)
    actor, target = final_ids[actor], final_ids[target]
    labels_sorted = sorted(labels)
    label_rank = np.array([labels_sorted.index(label) for label in labels], dtype=np.int16)
    action = label_rank[action]
    roles = [data.roles.get(name, CONTACT) for name in labels_sorted]
    role_code = np.array([ROLES.categories.to_list().index(role) for role in roles], dtype=np.uint8)
    events = pl.DataFrame(
        {
            TIMESTAMP: second.astype(np.int64),
            ACTOR: actor,
            TARGET: target,
            ACTION: pl.Series(action.astype(np.uint8), dtype=pl.UInt8).cat.to(pl.Enum(labels_sorted)),
            ROLE: pl.Series(role_code[action], dtype=pl.UInt8).cat.to(ROLES),
        }
    )
    repeated = _repeated(second, actor, target, action)
    if len(repeated) and duplicates == "drop":
        is_first = np.ones(len(second), bool)
        is_first[repeated] = False
        events = events.filter(pl.Series(is_first))
    return events, _users(events, ids, final_ids), len(repeated)


def _concatenated(chunk_arrays: list[ChunkArrays]) -> list[np.ndarray]:
    """Actors, targets, actions and seconds of all chunks. Empties the list on the way, to free each chunk's memory."""
    dtypes = (np.int32, np.int32, np.int16, np.int64)
    arrays = [np.empty(sum(len(chunk[0]) for chunk in chunk_arrays), dtype) for dtype in dtypes]
    end = len(arrays[0])
    while chunk_arrays:
        chunk = chunk_arrays.pop()
        for array, values in zip(arrays, chunk, strict=True):
            array[end - len(values) : end] = values
        end -= len(chunk[0])
    return arrays


def _repeated(second: np.ndarray, *columns: np.ndarray) -> np.ndarray:
    """int64: indices of events that equal an earlier one in every column. second: ascending.

    Only events of the same second can repeat each other, so only events that share their second are sorted.
    """
    shares_second = np.zeros(len(second), bool)
    shares_second[1:] = second[1:] == second[:-1]
    shares_second[:-1] |= shares_second[1:]
    rows = np.flatnonzero(shares_second)
    keys = [*(column[rows] for column in columns), second[rows]]
    order = np.lexsort(keys)  # stable: the earlier of equal events comes first
    is_repeat = np.ones(max(len(order) - 1, 0), bool)
    for key in keys:
        key = key[order]
        is_repeat &= key[1:] == key[:-1]
    return rows[order[1:][is_repeat]]


def _final_ids(ids: pl.Series, first_seconds: np.ndarray, num_previous: int) -> np.ndarray:
    """int32[users], provisional id -> internal id: users of an earlier log keep theirs; new ones follow by first event.

    Ties are ordered by external id, so that the same events give the same internal ids, whatever the order of files.
    """
    new = pl.DataFrame({"id": ids, "first": first_seconds}).with_row_index("k")[num_previous:].sort("first", "id")
    final_ids = np.empty(len(ids), np.int32)
    final_ids[:num_previous] = np.arange(num_previous)
    final_ids[new["k"].to_numpy()] = np.arange(num_previous, len(ids))
    return final_ids


def _users(events: pl.DataFrame, ids: pl.Series, final_ids: np.ndarray) -> pl.DataFrame:
    """The table of users (contract USERS). ids: external ids by provisional id; final_ids: their internal ids."""
    n = len(ids)
    actor, target = events[ACTOR].to_numpy(), events[TARGET].to_numpy()
    second = events[TIMESTAMP].to_numpy()
    first, last = first_seen(actor, target, second, n), np.full(n, -1)
    last[actor] = second
    received = np.full(n, -1)
    received[target] = second
    last = np.maximum(last, received)
    has_event = last >= 0
    contact = (events[ROLE] == CONTACT).to_numpy()
    lower, higher = np.minimum(actor, target)[contact], np.maximum(actor, target)[contact]
    pairs = np.unique(lower.astype(np.int64) * n + higher)
    degree = np.bincount(np.concatenate([pairs // n, pairs % n]), minlength=n) if n else np.empty(0, np.int64)
    provisional_ids = np.argsort(final_ids)
    return pl.DataFrame(
        {
            USER: np.arange(n, dtype=np.int32),
            USER_ID: ids.gather(provisional_ids),
            FIRST_SEEN: pl.Series(np.where(has_event, first, 0), dtype=pl.Int64).set(pl.Series(~has_event), None),
            LAST_SEEN: pl.Series(np.where(has_event, last, 0), dtype=pl.Int64).set(pl.Series(~has_event), None),
            DONE: np.bincount(actor, minlength=n),
            RECEIVED: np.bincount(target, minlength=n),
            DEGREE: degree,
            OPTED_OUT: pl.repeat(False, n, eager=True),
        }
    )


def previous_ids(path: Path | None, data: DataSettings) -> pl.Series:
    """External ids of an earlier run's users.parquet, by internal id; empty without a path."""
    dtype = pl.Int64 if data.id_type == "integer" else pl.String
    if path is None:
        return pl.Series(USER_ID, [], dtype=dtype)
    if not path.is_file():
        raise DataError(
            f"validate.previous_users names {path}, which does not exist. Give an earlier run's users.parquet, or null."
        )
    ids = read_table(path, USERS)[USER_ID]
    if ids.dtype != dtype:
        raise DataError(
            f"{path} holds {ids.dtype} ids, but data.id_type is {data.id_type}. Use the id_type of the earlier run."
        )
    return ids


def _suggestion(refused: pl.DataFrame, raw: pl.DataFrame, data: DataSettings) -> str:
    """Which setting to change if timestamps are in another unit than declared or actions are not listed; else empty."""
    unlisted = refused.filter(pl.col(REASON) == "action_unknown")[ACTION].unique().sort()
    if len(unlisted):
        return f"The log also has: {', '.join(unlisted[:20])}. Add the ones you want to data.actions."
    too_far = refused.filter(pl.col(REASON) == "timestamp_unit")[ROW]
    if not len(too_far):
        return ""
    value = raw.filter(pl.col(ROW) == too_far[0])[TIMESTAMP].cast(pl.Float64, strict=False)[0]
    unit = finer_unit(data, value) if value is not None else None
    return f"The timestamps look like {unit}: set data.timestamp_unit: {unit}." if unit else ""
