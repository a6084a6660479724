"""Turns raw tables of texts and statements into tables by internal id, and adds users who occur only in these tables.

Refused rows are set aside like those of the log. Accepted texts stay in memory until all are read and sorted.
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
    DONE,
    OPTED_OUT,
    PLATFORM,
    REASON,
    RECEIVED,
    ROW,
    STATEMENT,
    TAGGED,
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
from befriend.validation.ingest import NONE_ERASED
from befriend.validation.rejected import RejectedRows, RejectedWriter
from befriend.validation.row_rules import check_statement_rows, check_text_rows


@dataclass(frozen=True)
class IngestedTable:
    """The texts of all users, or the statements about them, and counts of all other rows."""

    table: pl.DataFrame
    """the table as in texts.parquet or statements.parquet"""
    read: int
    """number of rows read, without those of erased users"""
    rejected: dict[str, int]
    """reason -> number of refused rows"""
    examples: pl.DataFrame
    """the first refused rows"""

    def figures(self, users: pl.DataFrame) -> dict[str, Any]:
        """The section of this table in validation.json. users: the table of all N users.

        per_user: median and maximum over users who have at least one row.
        """
        refused = sum(self.rejected.values())
        per_user = self.table.group_by(USER).len()
        without_events = users.filter(pl.col(DONE) + pl.col(RECEIVED) == 0)

        return {
            "rows": self.read,
            "rejected": refused,
            "rejected_share": round(refused / self.read, 6) if self.read else 0.0,
            "rejected_by_reason": self.rejected,
            "kept": self.table.height,
            "users": per_user.height,
            "users_without": users.height - per_user.height,
            "users_without_events": per_user.join(without_events, on=USER, how="semi").height,
            "per_user": {"median": float(per_user["len"].median() or 0), "max": int(per_user["len"].max() or 0)},  # type: ignore[arg-type]
        }


@dataclass(frozen=True)
class IngestedTexts:
    """The texts of users, the statements about them, and the table of all users."""

    texts: IngestedTable
    """user Int32, timestamp Int64, platform and text String; by user, then in time order, then as in the file"""
    statements: IngestedTable
    """user Int32, timestamp Int64 (null: known from the beginning), statement and context String; by user and time"""
    users: pl.DataFrame
    """the users of the events, followed by those who occur only in texts or statements"""


def ingest_texts(
    source: Path,
    data: DataSettings,
    latest: int | None,
    users: pl.DataFrame,
    writer: RejectedWriter,
    erased: frozenset[str] = NONE_ERASED,
) -> IngestedTexts:
    """Reads the tables of texts and statements next to the log at `source`; refused rows go to `writer`.

    latest: UTC second after which a text is refused. users: the users of the events; row k is the user with internal
    id k. erased: erasure digests of users whose rows are left out.
    """
    common_fields = {USER_ID: users[USER_ID].dtype, TIMESTAMP: pl.Int64()}
    text_fields = {PLATFORM: pl.String(), TEXT: pl.String(), TITLE: pl.String(), TAGS: pl.List(pl.String)}
    statement_fields = {STATEMENT: pl.String(), CONTEXT: pl.String()}
    chunks = track(read_text_chunks(data, source), "reading the texts")
    texts = _read(chunks, lambda rows: check_text_rows(rows, data, latest), common_fields | text_fields, writer, erased)
    chunks = track(read_statement_chunks(data, source), "reading the statements")
    statements = _read(
        chunks, lambda rows: check_statement_rows(rows, data), common_fields | statement_fields, writer, erased
    )
    all_statements = pl.concat([statements.table, *_statements_of_texts(texts.table)], how="diagonal")
    users = _with_new_users(users, texts.table, all_statements)
    user_texts = _with_internal_ids(texts.table, users, [PLATFORM, TEXT]).sort(USER, TIMESTAMP, maintain_order=True)
    user_statements = _with_internal_ids(all_statements, users, [STATEMENT, CONTEXT]).sort(
        USER, TIMESTAMP, STATEMENT, CONTEXT
    )
    user_statements = user_statements.unique([USER, STATEMENT, CONTEXT], keep="first", maintain_order=True)
    return IngestedTexts(replace(texts, table=user_texts), replace(statements, table=user_statements), users)


def _read(
    chunks: Iterator[Chunk],
    check: Callable[[pl.DataFrame], pl.DataFrame],
    fields: dict[str, Any],
    writer: RejectedWriter,
    erased: frozenset[str],
) -> IngestedTable:
    """The accepted rows of a table, with external ids; fields that the settings do not name are null.

    check: converts the fields of a chunk's rows and adds the reason to refuse a row. fields: field -> dtype.
    """
    tables = [pl.DataFrame(schema=fields)]
    refused, read = RejectedRows(writer), 0
    for chunk in chunks:
        rows = check(chunk.rows)
        if erased:
            is_gone = is_erased(rows[USER_ID], erased)
            rows, chunk = rows.filter(~is_gone), chunk.only(~is_gone)
        refused.add(chunk, rows)
        read += rows.height
        tables.append(rows.filter(pl.col(REASON).is_null()).drop(ROW, REASON))
    return IngestedTable(pl.concat(tables, how="diagonal"), read, refused.counts, refused.examples)


def _statements_of_texts(texts: pl.DataFrame) -> list[pl.DataFrame]:
    """The statements made from titles and tags, each known since the time of its text."""
    titles = texts.select(USER_ID, TIMESTAMP, pl.col(TITLE).alias(STATEMENT))
    tags = texts.select(USER_ID, TIMESTAMP, TAGS).explode(TAGS).drop_nulls(TAGS)
    tagged = tags.select(USER_ID, TIMESTAMP, pl.format(TAGGED, TAGS).alias(STATEMENT))
    return [titles.drop_nulls(STATEMENT), tagged]


def _with_new_users(users: pl.DataFrame, texts: pl.DataFrame, statements: pl.DataFrame) -> pl.DataFrame:
    """The users, followed by new ones: writers by the time of their first text, then users with only statements.

    Ties are ordered by external id, as for users of events.
    """
    mentions = pl.concat([texts.select(USER_ID, TIMESTAMP), statements.select(USER_ID, TIMESTAMP)])
    first_times = mentions.group_by(USER_ID).agg(pl.col(TIMESTAMP).min()).join(users, on=USER_ID, how="anti")
    first_times = first_times.sort(TIMESTAMP, USER_ID, nulls_last=True)
    internal_ids = pl.int_range(users.height, users.height + first_times.height, dtype=pl.Int32, eager=True)
    new_users = first_times.select(internal_ids.alias(USER), USER_ID).join(
        users, on=USER_ID, how="left", maintain_order="left"
    )
    new_users = new_users.with_columns(pl.col(DONE, RECEIVED, DEGREE).fill_null(0), pl.col(OPTED_OUT).fill_null(False))
    return pl.concat([users, new_users.select(users.columns)])


def _with_internal_ids(table: pl.DataFrame, users: pl.DataFrame, fields: list[str]) -> pl.DataFrame:
    """The table with internal instead of external ids, and with empty text where a field is null."""
    joined = table.join(users.select(USER_ID, USER), on=USER_ID, how="left", maintain_order="left")
    return joined.select(USER, TIMESTAMP, pl.col(fields).fill_null(""))
