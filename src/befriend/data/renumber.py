"""A prepared log in the numbers of an earlier one, so that models of the earlier one can look at it.

Numbers are given by first event, so events that came late, or people who were forgotten, shift them. A model knows
people by number alone: here everybody of the earlier log keeps theirs, whether they are left or not.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from befriend import files
from befriend.data.attributes import ATTRIBUTES_FILE
from befriend.data.columns import ACTOR, DEGREE, DONE, OPTED_OUT, RECEIVED, TARGET, TIMESTAMP, USER, USER_ID
from befriend.data.contracts import ATTRIBUTES, EVENTS, STATEMENTS, TEXTS, USERS, read_table
from befriend.data.log import EVENTS_FILE, SPLIT_FILE, STATEMENTS_FILE, TEXTS_FILE, USERS_FILE, EventLog
from befriend.errors import DataError


def renumber(prepared: Path, ids: pl.Series, out: Path) -> None:
    """Writes to `out` the log of `prepared`: users with these ids first, in this order, then all others in theirs."""
    users, events = read_table(prepared / USERS_FILE, USERS), read_table(prepared / EVENTS_FILE, EVENTS)
    if users[USER_ID].dtype != ids.dtype:
        raise DataError(
            f"users were {ids.dtype} ids and are {users[USER_ID].dtype} now: set data.id_type as it was, or train anew."
        )
    earlier = pl.DataFrame({USER_ID: ids})
    everyone = pl.concat([earlier, users.select(USER_ID).join(earlier, on=USER_ID, how="anti", maintain_order="left")])
    everyone = everyone.with_columns(pl.int_range(pl.len(), dtype=pl.Int32).alias(USER))
    number = users.select(USER_ID).join(everyone, on=USER_ID, how="left", maintain_order="left")[USER]
    moved = events.with_columns(number.gather(events[side]).alias(side) for side in (ACTOR, TARGET))
    rest = users.drop(USER)
    users = everyone.join(rest, on=USER_ID, how="left", maintain_order="left").select(users.columns)
    users = users.with_columns(pl.col(DONE, RECEIVED, DEGREE).fill_null(0), pl.col(OPTED_OUT).fill_null(False))
    attributes = read_table(prepared / ATTRIBUTES_FILE, ATTRIBUTES).with_columns(number.alias(USER))
    attributes = users.select(USER).join(attributes, on=USER, how="left", maintain_order="left")
    texts, statements = (
        table.with_columns(number.gather(table[USER]).alias(USER)).sort(USER, TIMESTAMP, maintain_order=True)
        for table in (read_table(prepared / TEXTS_FILE, TEXTS), read_table(prepared / STATEMENTS_FILE, STATEMENTS))
    )
    log = EventLog.from_tables(moved, users[USER_ID])
    split = files.read_json(prepared / SPLIT_FILE) | {"users": log.num_users, "lineage": log.lineage()}
    with files.atomic(out) as folder:
        folder.mkdir(parents=True)
        for name, table in (
            (EVENTS_FILE, moved),
            (USERS_FILE, users),
            (ATTRIBUTES_FILE, attributes),
            (TEXTS_FILE, texts),
            (STATEMENTS_FILE, statements),
        ):
            table.write_parquet(folder / name, compression="zstd", statistics=True)
        files.write_json(folder / SPLIT_FILE, split)
