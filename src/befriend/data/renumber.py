"""Rewrites a prepared log with the internal ids of an earlier log, so that models of the earlier log can read it.

A user's internal id is a number from 0 to N - 1, in order of first events. A model knows users only by this number, but
events that arrive late and erased users shift it from one log to the next. Here all users of the earlier log keep their
internal ids, even those who are no longer in the log.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from befriend import files
from befriend.data.attributes import ATTRIBUTES_FILE
from befriend.data.columns import (
    ACTOR,
    DEGREE,
    EVENTS_DONE,
    EVENTS_RECEIVED,
    OPTED_OUT,
    TARGET,
    TIMESTAMP,
    USER,
    USER_ID,
)
from befriend.data.contracts import ATTRIBUTES, EVENTS, STATEMENTS, TEXTS, USERS, read_table
from befriend.data.event_log import EVENTS_FILE, SPLIT_FILE, STATEMENTS_FILE, TEXTS_FILE, USERS_FILE, EventLog
from befriend.errors import DataError


def renumber(prepared: Path, earlier_ids: pl.Series, out: Path) -> None:
    """Writes the log in the folder `prepared` to the folder `out`, with the internal ids of an earlier log.

    earlier_ids: the external ids of the earlier log (ids as in the raw log), by internal id. New users get the internal
    ids after these, in the order that they have in `prepared`. Raises a DataError if the two logs have ids of different
    types.
    """
    users, events = read_table(prepared / USERS_FILE, USERS), read_table(prepared / EVENTS_FILE, EVENTS)
    if users[USER_ID].dtype != earlier_ids.dtype:
        raise DataError(
            f"user ids were {earlier_ids.dtype} and are {users[USER_ID].dtype} now: "
            "set data.id_type to its former value, or train the models again."
        )
    earlier_users = pl.DataFrame({USER_ID: earlier_ids})
    new_users = users.select(USER_ID).join(earlier_users, on=USER_ID, how="anti", maintain_order="left")
    all_users = pl.concat([earlier_users, new_users])
    all_users = all_users.with_columns(pl.int_range(pl.len(), dtype=pl.Int32).alias(USER))
    new_ids = users.select(USER_ID).join(all_users, on=USER_ID, how="left", maintain_order="left")[USER]
    renumbered = events.with_columns(new_ids.gather(events[side]).alias(side) for side in (ACTOR, TARGET))
    users_without_ids = users.drop(USER)
    users = all_users.join(users_without_ids, on=USER_ID, how="left", maintain_order="left").select(users.columns)
    users = users.with_columns(
        pl.col(EVENTS_DONE, EVENTS_RECEIVED, DEGREE).fill_null(0), pl.col(OPTED_OUT).fill_null(False)
    )
    attributes = read_table(prepared / ATTRIBUTES_FILE, ATTRIBUTES).with_columns(new_ids.alias(USER))
    attributes = users.select(USER).join(attributes, on=USER, how="left", maintain_order="left")
    texts, statements = (
        table.with_columns(new_ids.gather(table[USER]).alias(USER)).sort(USER, TIMESTAMP, maintain_order=True)
        for table in (read_table(prepared / TEXTS_FILE, TEXTS), read_table(prepared / STATEMENTS_FILE, STATEMENTS))
    )
    log = EventLog.from_tables(renumbered, users[USER_ID])
    split = files.read_json(prepared / SPLIT_FILE) | {"users": log.num_users, "lineage": log.lineage()}
    with files.atomic(out) as folder:
        folder.mkdir(parents=True)
        for name, table in (
            (EVENTS_FILE, renumbered),
            (USERS_FILE, users),
            (ATTRIBUTES_FILE, attributes),
            (TEXTS_FILE, texts),
            (STATEMENTS_FILE, statements),
        ):
            table.write_parquet(folder / name, compression="zstd", statistics=True)
        files.write_json(folder / SPLIT_FILE, split)
