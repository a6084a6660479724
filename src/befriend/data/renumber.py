"""Rewrites a prepared log with the internal ids of an earlier one, so that models of the earlier log can use it.

Internal ids are assigned by first event, so late events and erased users shift them. A model knows users only by
internal id: here every user of the earlier log keeps theirs, even users who are no longer in the log.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from befriend import files
from befriend.data.attributes import ATTRIBUTES_FILE
from befriend.data.columns import ACTOR, DEGREE, DONE, OPTED_OUT, RECEIVED, TARGET, TIMESTAMP, USER, USER_ID
from befriend.data.contracts import ATTRIBUTES, EVENTS, STATEMENTS, TEXTS, USERS, read_table
from befriend.data.event_log import EVENTS_FILE, SPLIT_FILE, STATEMENTS_FILE, TEXTS_FILE, USERS_FILE, EventLog
from befriend.errors import DataError


def renumber(prepared: Path, ids: pl.Series, out: Path) -> None:
    """Writes the log of `prepared` to `out` with new internal ids: users in `ids` first, in that order, then the rest.

    ids: external ids of the earlier log. The remaining users keep their order.
    """
    users, events = read_table(prepared / USERS_FILE, USERS), read_table(prepared / EVENTS_FILE, EVENTS)
    if users[USER_ID].dtype != ids.dtype:
        raise DataError(
            f"user ids were {ids.dtype} and are {users[USER_ID].dtype} now: set data.id_type as it was, or train anew."
        )
    earlier = pl.DataFrame({USER_ID: ids})
    all_users = pl.concat([earlier, users.select(USER_ID).join(earlier, on=USER_ID, how="anti", maintain_order="left")])
    all_users = all_users.with_columns(pl.int_range(pl.len(), dtype=pl.Int32).alias(USER))
    new_ids = users.select(USER_ID).join(all_users, on=USER_ID, how="left", maintain_order="left")[USER]
    renumbered = events.with_columns(new_ids.gather(events[side]).alias(side) for side in (ACTOR, TARGET))
    details = users.drop(USER)
    users = all_users.join(details, on=USER_ID, how="left", maintain_order="left").select(users.columns)
    users = users.with_columns(pl.col(DONE, RECEIVED, DEGREE).fill_null(0), pl.col(OPTED_OUT).fill_null(False))
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
