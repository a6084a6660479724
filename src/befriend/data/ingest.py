"""Turns a raw event log into a dense one: rows judged, refused ones kept aside, users numbered.

Goes through the log once, chunk by chunk. What stays in memory is 18 bytes an event and the users' ids; at the end,
while events are put in order and users counted, some 90 bytes more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from befriend.config import DataSettings, ValidateSettings
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
from befriend.data.forgotten import marked
from befriend.data.judging import finer_unit, judge
from befriend.data.log import first_seen
from befriend.data.rejected import Refused, RejectedWriter
from befriend.data.sources import read_chunks
from befriend.errors import DataError
from befriend.progress import track

NOBODY: frozenset[str] = frozenset()
MOST_ACTIONS = 255  # an action is a byte
Part = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""actors, targets, actions and seconds of a chunk, by provisional numbers"""


@dataclass
class Ingested:
    """The accepted events of a log, and an account of every other row."""

    events: pl.DataFrame
    """timestamp Int64, actor_id Int32, target_id Int32, action Enum, role Enum, in time order, ties in file order"""
    users: pl.DataFrame
    """one row a user, row k the user with dense number k"""
    read: int
    """rows of the log, without those of people who are forgotten"""
    forgotten: int
    """rows that name somebody who asked to be forgotten"""
    rejected: dict[str, int]
    """refused rows by reason"""
    self_loops: int
    duplicates: int
    """exact repetitions of an earlier event (among the events only if they are kept)"""
    examples: pl.DataFrame
    """the first refused rows"""
    suggestion: str
    """what to set when a setting, not the data, looks wrong; else empty"""
    checked: pl.DataFrame
    """evenly spaced rows of the log with typed fields (null where unreadable) and reason, for the report"""
    stride: int
    """every how many rows one is in `checked`"""


class _Numbering:
    """Provisional user numbers, in the order in which ids are met."""

    def __init__(self, ids: pl.Series):
        self.table = pl.DataFrame({USER_ID: ids, USER: pl.int_range(len(ids), dtype=pl.Int32, eager=True)})

    def __call__(self, actors: pl.Series, targets: pl.Series) -> tuple[np.ndarray, np.ndarray]:
        met = pl.concat([actors, targets]).unique(maintain_order=True).alias(USER_ID).to_frame()
        new = met.join(self.table, on=USER_ID, how="anti", maintain_order="left")
        if new.height:
            start = self.table.height
            numbers = pl.int_range(start, start + new.height, dtype=pl.Int32, eager=True).alias(USER)
            self.table = pl.concat([self.table, new.with_columns(numbers)])
        columns = (
            ids.alias(USER_ID).to_frame().join(self.table, on=USER_ID, how="left", maintain_order="left")
            for ids in (actors, targets)
        )
        actor, target = (column[USER].to_numpy() for column in columns)
        return actor, target


@dataclass
class _Sample:
    """Every `stride`-th row of the log; the stride doubles whenever more than `limit` rows have come together."""

    limit: int
    stride: int = 1
    seen: int = 0
    parts: list[pl.DataFrame] = field(default_factory=list)

    def add(self, rows: pl.DataFrame) -> None:
        place = pl.int_range(self.seen, self.seen + rows.height, dtype=pl.Int64).alias("_place")
        self.seen += rows.height
        self.parts.append(rows.with_columns(place).filter(pl.col("_place") % self.stride == 0))
        while sum(part.height for part in self.parts) > self.limit:
            self.stride *= 2
            self.parts = [part.filter(pl.col("_place") % self.stride == 0) for part in self.parts]

    def table(self) -> pl.DataFrame:
        if not self.parts:
            return pl.DataFrame(schema=[*EVENT_FIELDS, REASON])
        return pl.concat(self.parts).drop("_place")


def ingest(
    source: Path, data: DataSettings, rules: ValidateSettings, keep: RejectedWriter, marks: frozenset[str] = NOBODY
) -> Ingested:
    """Reads the log at `source`; refused rows go to `keep` as they are met.

    marks: of people who asked to be forgotten: their rows are counted, and kept nowhere.
    """
    earlier = previous_ids(rules.previous_users, data)
    number = _Numbering(earlier.filter(~marked(earlier, marks)) if marks else earlier)
    previous = number.table.height
    labels: dict[str, int] = {}
    sample = _Sample(rules.checked_rows)
    parts: list[Part] = []
    refused = Refused(keep)
    suggestion, read, self_loops, forgotten = "", 0, 0, 0
    for chunk in track(read_chunks(data, source), "reading the log"):
        rows = judge(chunk.rows, data, rules.latest_second)
        if marks:
            gone = marked(rows[ACTOR], marks) | marked(rows[TARGET], marks)
            forgotten += int(gone.sum())
            rows, chunk = rows.filter(~gone), chunk.only(~gone)
        read += rows.height
        sample.add(rows.select(ACTOR, ACTION, TARGET, TIMESTAMP, REASON))
        bad = rows[REASON].is_not_null()
        refused.add(chunk, rows)
        suggestion = suggestion or _suggestion(rows.filter(bad), chunk.rows, data)
        good = rows.filter(~bad)
        loops = good[ACTOR] == good[TARGET]
        self_loops += int(loops.sum())
        good = good.filter(~loops)
        for label in good[ACTION].unique().sort():
            labels.setdefault(label, len(labels))
        if len(labels) > MOST_ACTIONS:
            raise DataError(
                f"the log has more than {MOST_ACTIONS} different actions, such as {', '.join(list(labels)[-3:])}. "
                "Is data.columns.action the right column? data.rename_actions can merge labels."
            )
        codes = (
            good[ACTION].replace_strict(labels, return_dtype=pl.Int16) if good.height else pl.Series([], dtype=pl.Int16)
        )
        parts.append((*number(good[ACTOR], good[TARGET]), codes.to_numpy(), good[TIMESTAMP].to_numpy()))
    events, users, duplicates = _assemble(parts, number.table[USER_ID], previous, labels, data, rules.duplicates)
    return Ingested(
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


def _assemble(
    parts: list[Part],
    ids: pl.Series,
    previous: int,
    labels: dict[str, int],
    data: DataSettings,
    duplicates: str,
) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """Events in time order with final user numbers, the users, and how many events repeat an earlier one."""
    actor, target, action, second = _joined(parts)
    order = np.argsort(second, kind="stable")
    second = second[order]
    actor, target, action = actor[order], target[order], action[order]
    del order
    first = first_seen(actor, target, second, len(ids))
    final = _final_numbers(ids, first, previous)
    actor, target = final[actor], final[target]
    names = sorted(labels)
    rank = np.array([names.index(label) for label in labels], dtype=np.int16)
    action = rank[action]
    roles = [data.roles.get(name, CONTACT) for name in names]
    role_code = np.array([ROLES.categories.to_list().index(role) for role in roles], dtype=np.uint8)
    events = pl.DataFrame(
        {
            TIMESTAMP: second.astype(np.int64),
            ACTOR: actor,
            TARGET: target,
            ACTION: pl.Series(action.astype(np.uint8), dtype=pl.UInt8).cat.to(pl.Enum(names)),
            ROLE: pl.Series(role_code[action], dtype=pl.UInt8).cat.to(ROLES),
        }
    )
    again = _repeated(second, actor, target, action)
    if len(again) and duplicates == "drop":
        first_time = np.ones(len(second), bool)
        first_time[again] = False
        events = events.filter(pl.Series(first_time))
    return events, _users(events, ids, final), len(again)


def _joined(parts: list[Part]) -> list[np.ndarray]:
    """Actors, targets, actions and seconds of all parts, which are given back one by one: the list is empty then."""
    kinds = (np.int32, np.int32, np.int16, np.int64)
    arrays = [np.empty(sum(len(part[0]) for part in parts), kind) for kind in kinds]
    end = len(arrays[0])
    while parts:
        part = parts.pop()
        for array, piece in zip(arrays, part, strict=True):
            array[end - len(piece) : end] = piece
        end -= len(part[0])
    return arrays


def _repeated(second: np.ndarray, *columns: np.ndarray) -> np.ndarray:
    """int64: places of events that repeat an earlier one in every column. second: ascending.

    Only events of one second can repeat each other, so only those that share theirs are sorted.
    """
    shared = np.zeros(len(second), bool)
    shared[1:] = second[1:] == second[:-1]
    shared[:-1] |= shared[1:]
    place = np.flatnonzero(shared)
    keys = [*(column[place] for column in columns), second[place]]
    order = np.lexsort(keys)  # stable: of equal events the earlier first
    same = np.ones(max(len(order) - 1, 0), bool)
    for key in keys:
        key = key[order]
        same &= key[1:] == key[:-1]
    return place[order[1:][same]]


def _final_numbers(ids: pl.Series, first: np.ndarray, previous: int) -> np.ndarray:
    """int32[users], provisional number -> dense number: earlier users as they were, then by first event, then by id.

    By time and id, so that the same events give the same numbers in whatever order files are read.
    """
    new = pl.DataFrame({"id": ids, "first": first}).with_row_index("k")[previous:].sort("first", "id")
    final = np.empty(len(ids), np.int32)
    final[:previous] = np.arange(previous)
    final[new["k"].to_numpy()] = np.arange(previous, len(ids))
    return final


def _users(events: pl.DataFrame, ids: pl.Series, final: np.ndarray) -> pl.DataFrame:
    n = len(ids)
    actor, target = events[ACTOR].to_numpy(), events[TARGET].to_numpy()
    second = events[TIMESTAMP].to_numpy()
    first, last = first_seen(actor, target, second, n), np.full(n, -1)
    last[actor] = second
    received = np.full(n, -1)
    received[target] = second
    last = np.maximum(last, received)
    met = last >= 0
    contact = (events[ROLE] == CONTACT).to_numpy()
    low, high = np.minimum(actor, target)[contact], np.maximum(actor, target)[contact]
    pairs = np.unique(low.astype(np.int64) * n + high)
    degree = np.bincount(np.concatenate([pairs // n, pairs % n]), minlength=n) if n else np.empty(0, np.int64)
    by_number = np.argsort(final)
    return pl.DataFrame(
        {
            USER: np.arange(n, dtype=np.int32),
            USER_ID: ids.gather(by_number),
            FIRST_SEEN: pl.Series(np.where(met, first, 0), dtype=pl.Int64).set(pl.Series(~met), None),
            LAST_SEEN: pl.Series(np.where(met, last, 0), dtype=pl.Int64).set(pl.Series(~met), None),
            DONE: np.bincount(actor, minlength=n),
            RECEIVED: np.bincount(target, minlength=n),
            DEGREE: degree,
            OPTED_OUT: pl.repeat(False, n, eager=True),
        }
    )


def previous_ids(path: Path | None, data: DataSettings) -> pl.Series:
    """Ids of an earlier run's users, in their order; empty without one."""
    dtype = pl.Int64 if data.id_type == "integer" else pl.String
    if path is None:
        return pl.Series(USER_ID, [], dtype=dtype)
    if not path.is_file():
        raise DataError(
            f"validate.previous_users names {path}, which is not there. Give an earlier run's users.parquet, or null."
        )
    ids = read_table(path, USERS)[USER_ID]
    if ids.dtype != dtype:
        raise DataError(
            f"{path} holds {ids.dtype} ids, but data.id_type is {data.id_type}. Use the id_type of the earlier run."
        )
    return ids


def _suggestion(refused: pl.DataFrame, raw: pl.DataFrame, data: DataSettings) -> str:
    """What to set, when timestamps are in another unit than declared, or actions are not listed."""
    unlisted = refused.filter(pl.col(REASON) == "action_unknown")[ACTION].unique().sort()
    if len(unlisted):
        return f"The log also has: {', '.join(unlisted[:20])}. Add to data.actions what is wanted."
    far = refused.filter(pl.col(REASON) == "timestamp_unit")[ROW]
    if not len(far):
        return ""
    value = raw.filter(pl.col(ROW) == far[0])[TIMESTAMP].cast(pl.Float64, strict=False)[0]
    unit = finer_unit(data, value) if value is not None else None
    return f"The timestamps look like {unit}: set data.timestamp_unit: {unit}." if unit else ""
