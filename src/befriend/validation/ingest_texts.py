"""Turns raw tables of texts and statements into tables by internal id, and adds users who occur only in these tables.

A statement is something that may be true of a user, such as "interested in hiking"; titles and tags of texts become
statements too. Rejected rows are written to rejected.parquet, like those of the log. All accepted texts are held in
memory at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from befriend.data.columns import (
    CONTEXT,
    DEGREE,
    EVENTS_DONE,
    EVENTS_RECEIVED,
    OPTED_OUT,
    PLATFORM,
    REASON,
    ROW,
    STATEMENT,
    TAG_STATEMENT,
    TAGS,
    TEXT,
    TIMESTAMP,
    TITLE,
    USER,
    USER_ID,
)
from befriend.data.erasure import is_erased
from befriend.progress import track
from befriend.readers.chunk import Chunk
from befriend.readers.data_settings import DataSettings
from befriend.readers.sources import read_statement_chunks, read_text_chunks
from befriend.validation.ingest import NO_ERASED_USERS
from befriend.validation.rejected_rows import RejectedRows, RejectedWriter
from befriend.validation.row_rules import check_statement_rows, check_text_rows


@dataclass(frozen=True)
class IngestedTable:
    """The texts of all users, or the statements about them, and counts of the rows read and rejected."""

    table: pl.DataFrame
    """the accepted rows"""
    num_rows_read: int
    """number of rows read from the raw table, without those of erased users"""
    rejected_by_reason: dict[str, int]
    """reason -> number of rejected rows"""
    rejected_examples: pl.DataFrame
    """the first rejected rows"""

    def metrics(self, users: pl.DataFrame) -> dict[str, Any]:
        """The section of this table in validation.json. users: the table of all users.

        per_user: number of rows of a user, over users who have at least one.
        """
        num_rejected = sum(self.rejected_by_reason.values())
        num_rows_by_user = self.table.group_by(USER).len()
        users_without_events = users.filter(pl.col(EVENTS_DONE) + pl.col(EVENTS_RECEIVED) == 0)
        return {
            "rows": self.num_rows_read,
            "rejected": num_rejected,
            "rejected_share": round(num_rejected / self.num_rows_read, 6) if self.num_rows_read else 0.0,
            "rejected_by_reason": self.rejected_by_reason,
            "kept": self.table.height,
            "users": num_rows_by_user.height,
            "users_without": users.height - num_rows_by_user.height,
            "users_without_events": num_rows_by_user.join(users_without_events, on=USER, how="semi").height,
            "per_user": {
                "median": float(num_rows_by_user["len"].median() or 0),  # type: ignore[arg-type]
                "max": int(num_rows_by_user["len"].max() or 0),  # type: ignore[arg-type]
            },
        }


@dataclass(frozen=True)
class IngestedTexts:
    """The texts of users, the statements about them, and the table of all users."""

    texts: IngestedTable
    """user Int32, timestamp Int64, platform and text String; sorted by user and time, ties in file order"""
    statements: IngestedTable
    """user Int32, timestamp Int64 (null: known at any time), statement and context String; sorted by user and time;
    also those from titles and tags of texts. Of equal statements about a user, the first one in time"""
    users: pl.DataFrame
    """the users of the events, followed by users who occur only in texts or statements"""


def ingest_texts(
    source: Path,
    data_settings: DataSettings,
    latest: int | None,
    users: pl.DataFrame,
    writer: RejectedWriter,
    erased: frozenset[str] = NO_ERASED_USERS,
) -> IngestedTexts:
    """Reads and checks the texts and statements next to the log at `source`; writes rejected rows to `writer`.

    latest: UTC second after which a text is rejected; None accepts any. users: the users of the events; row k is the
    user with internal id k. erased: digests of erased users, whose rows are left out.
    """
    common_fields = {USER_ID: users[USER_ID].dtype, TIMESTAMP: pl.Int64()}
    text_fields = {PLATFORM: pl.String(), TEXT: pl.String(), TITLE: pl.String(), TAGS: pl.List(pl.String)}
    statement_fields = {STATEMENT: pl.String(), CONTEXT: pl.String()}
    chunks = track(read_text_chunks(data_settings, source), "reading the texts")
    texts = _read_table(
        chunks, lambda rows: check_text_rows(rows, data_settings, latest), common_fields | text_fields, writer, erased
    )
    chunks = track(read_statement_chunks(data_settings, source), "reading the statements")
    statements = _read_table(
        chunks, lambda rows: check_statement_rows(rows, data_settings), common_fields | statement_fields, writer, erased
    )
    all_statements = pl.concat([statements.table, *_statements_from_texts(texts.table)], how="diagonal")
    users = _with_new_users(users, texts.table, all_statements)
    user_texts = _with_internal_ids(texts.table, users, [PLATFORM, TEXT]).sort(USER, TIMESTAMP, maintain_order=True)
    user_statements = _with_internal_ids(all_statements, users, [STATEMENT, CONTEXT]).sort(
        USER, TIMESTAMP, STATEMENT, CONTEXT
    )
    user_statements = user_statements.unique([USER, STATEMENT, CONTEXT], keep="first", maintain_order=True)
    return IngestedTexts(replace(texts, table=user_texts), replace(statements, table=user_statements), users)


def _read_table(
    chunks: Iterator[Chunk],
    check_rows: Callable[[pl.DataFrame], pl.DataFrame],
    fields: dict[str, Any],
    writer: RejectedWriter,
    erased: frozenset[str],
) -> IngestedTable:
    """The accepted rows of a table, with external ids. Fields that have no column in the settings are null.

    check_rows: converts the fields of raw rows, and adds the reason to reject a row. fields: field -> dtype.
    """
    tables = [pl.DataFrame(schema=fields)]
    rejected_rows, num_rows_read = RejectedRows(writer), 0
    for chunk in chunks:
        rows = check_rows(chunk.rows)
        if erased:
            is_erased_row = is_erased(rows[USER_ID], erased)
            rows, chunk = rows.filter(~is_erased_row), chunk.filter(~is_erased_row)
        rejected_rows.add(chunk, rows)
        num_rows_read += rows.height
        tables.append(rows.filter(pl.col(REASON).is_null()).drop(ROW, REASON))
    return IngestedTable(pl.concat(tables, how="diagonal"), num_rows_read, rejected_rows.counts, rejected_rows.examples)


def _statements_from_texts(texts: pl.DataFrame) -> list[pl.DataFrame]:
    """The statements from titles and from tags, each with the timestamp of its text."""
    titles = texts.select(USER_ID, TIMESTAMP, pl.col(TITLE).alias(STATEMENT))
    tags = texts.select(USER_ID, TIMESTAMP, TAGS).explode(TAGS).drop_nulls(TAGS)
    tag_statements = tags.select(USER_ID, TIMESTAMP, pl.format(TAG_STATEMENT, TAGS).alias(STATEMENT))
    return [titles.drop_nulls(STATEMENT), tag_statements]


def _with_new_users(users: pl.DataFrame, texts: pl.DataFrame, statements: pl.DataFrame) -> pl.DataFrame:
    """The users, followed by new ones: users with texts by their first timestamp, then users with only statements.

    Ties are ordered by external id, as for users of events.
    """
    mentions = pl.concat([texts.select(USER_ID, TIMESTAMP), statements.select(USER_ID, TIMESTAMP)])
    first_mentions = mentions.group_by(USER_ID).agg(pl.col(TIMESTAMP).min()).join(users, on=USER_ID, how="anti")
    first_mentions = first_mentions.sort(TIMESTAMP, USER_ID, nulls_last=True)
    internal_ids = pl.int_range(users.height, users.height + first_mentions.height, dtype=pl.Int32, eager=True)
    new_users = first_mentions.select(internal_ids.alias(USER), USER_ID).join(
        users, on=USER_ID, how="left", maintain_order="left"
    )
    new_users = new_users.with_columns(
        pl.col(EVENTS_DONE, EVENTS_RECEIVED, DEGREE).fill_null(0), pl.col(OPTED_OUT).fill_null(False)
    )
    return pl.concat([users, new_users.select(users.columns)])


def _with_internal_ids(table: pl.DataFrame, users: pl.DataFrame, fields: list[str]) -> pl.DataFrame:
    """The table with internal instead of external ids, and with empty text where a field is null."""
    joined = table.join(users.select(USER_ID, USER), on=USER_ID, how="left", maintain_order="left")
    return joined.select(USER, TIMESTAMP, pl.col(fields).fill_null(""))
