"""Turns raw tables of texts and of statements into ones by the users' numbers; people who only write become users.

Refused rows are kept aside like those of the log. Accepted texts stay in memory until all of them are in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from befriend.config import DataSettings
from befriend.data.chunk import Chunk
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
from befriend.data.forgotten import marked
from befriend.data.ingest import NOBODY
from befriend.data.judging import judge_statements, judge_texts
from befriend.data.rejected import Refused, RejectedWriter
from befriend.data.sources import read_statement_chunks, read_text_chunks
from befriend.progress import track


@dataclass(frozen=True)
class IngestedTable:
    """The texts of all users, or the statements about them, and an account of every other row."""

    table: pl.DataFrame
    """as texts.parquet or statements.parquet holds it"""
    read: int
    """rows of the raw table, without those of people who are forgotten"""
    rejected: dict[str, int]
    """refused rows by reason"""
    examples: pl.DataFrame
    """the first refused rows"""

    def figures(self, users: pl.DataFrame) -> dict[str, Any]:
        """What validation.json says of them, and how many each of those has who have any. users: N rows."""
        refused = sum(self.rejected.values())
        each = self.table.group_by(USER).len()
        silent = users.filter(pl.col(DONE) + pl.col(RECEIVED) == 0)
        return {
            "rows": self.read,
            "rejected": refused,
            "rejected_share": round(refused / self.read, 6) if self.read else 0.0,
            "rejected_by_reason": self.rejected,
            "kept": self.table.height,
            "users": each.height,
            "users_without": users.height - each.height,
            "users_without_events": each.join(silent, on=USER, how="semi").height,
            "per_user": {"median": float(each["len"].median() or 0), "max": int(each["len"].max() or 0)},  # type: ignore[arg-type]
        }


@dataclass(frozen=True)
class IngestedTexts:
    """What users wrote, what is said of them, and the users that there are with them."""

    texts: IngestedTable
    """user Int32, timestamp Int64, platform and text String; by user, then in time order, then as in the file"""
    statements: IngestedTable
    """user Int32, timestamp Int64 (null: known from the beginning), statement and context String; by user and time"""
    users: pl.DataFrame
    """those of the events and, behind them, those whom only texts or statements know"""


def ingest_texts(
    source: Path,
    data: DataSettings,
    latest: int | None,
    users: pl.DataFrame,
    keep: RejectedWriter,
    marks: frozenset[str] = NOBODY,
) -> IngestedTexts:
    """Reads the tables of texts and statements beside the log at `source`; refused rows go to `keep` as they are met.

    latest: UTC second after which a text is refused. users: those of the events, row k the user with number k.
    marks: of people who asked to be forgotten, whose rows are left out.
    """
    fields = {USER_ID: users[USER_ID].dtype, TIMESTAMP: pl.Int64()}
    posts = {PLATFORM: pl.String(), TEXT: pl.String(), TITLE: pl.String(), TAGS: pl.List(pl.String)}
    said = {STATEMENT: pl.String(), CONTEXT: pl.String()}
    chunks = track(read_text_chunks(data, source), "reading the texts")
    texts = _read(chunks, lambda rows: judge_texts(rows, data, latest), fields | posts, keep, marks)
    chunks = track(read_statement_chunks(data, source), "reading the statements")
    statements = _read(chunks, lambda rows: judge_statements(rows, data), fields | said, keep, marks)
    everything = pl.concat([statements.table, *_in_texts(texts.table)], how="diagonal")
    users = _with_newcomers(users, texts.table, everything)
    by_user = _numbered(texts.table, users, [PLATFORM, TEXT]).sort(USER, TIMESTAMP, maintain_order=True)
    about = _numbered(everything, users, [STATEMENT, CONTEXT]).sort(USER, TIMESTAMP, STATEMENT, CONTEXT)
    about = about.unique([USER, STATEMENT, CONTEXT], keep="first", maintain_order=True)
    return IngestedTexts(replace(texts, table=by_user), replace(statements, table=about), users)


def _read(
    chunks: Iterator[Chunk],
    judge: Callable[[pl.DataFrame], pl.DataFrame],
    fields: dict[str, Any],
    keep: RejectedWriter,
    marks: frozenset[str],
) -> IngestedTable:
    """The accepted rows with these fields, null where the settings do not name one."""
    parts = [pl.DataFrame(schema=fields)]
    refused, read = Refused(keep), 0
    for chunk in chunks:
        rows = judge(chunk.rows)
        if marks:
            gone = marked(rows[USER_ID], marks)
            rows, chunk = rows.filter(~gone), chunk.only(~gone)
        refused.add(chunk, rows)
        read += rows.height
        parts.append(rows.filter(pl.col(REASON).is_null()).drop(ROW, REASON))
    return IngestedTable(pl.concat(parts, how="diagonal"), read, refused.counts, refused.examples)


def _in_texts(texts: pl.DataFrame) -> list[pl.DataFrame]:
    """The statements that titles and tags make, known since their texts."""
    titles = texts.select(USER_ID, TIMESTAMP, pl.col(TITLE).alias(STATEMENT))
    tags = texts.select(USER_ID, TIMESTAMP, TAGS).explode(TAGS).drop_nulls(TAGS)
    tagged = tags.select(USER_ID, TIMESTAMP, pl.format(TAGGED, TAGS).alias(STATEMENT))
    return [titles.drop_nulls(STATEMENT), tagged]


def _with_newcomers(users: pl.DataFrame, texts: pl.DataFrame, statements: pl.DataFrame) -> pl.DataFrame:
    """The users and, behind them, whoever only writes by the time of the first text, then who is only talked of.

    By time and id, as users of events are numbered.
    """
    met = pl.concat([texts.select(USER_ID, TIMESTAMP), statements.select(USER_ID, TIMESTAMP)])
    new = met.group_by(USER_ID).agg(pl.col(TIMESTAMP).min()).join(users, on=USER_ID, how="anti")
    new = new.sort(TIMESTAMP, USER_ID, nulls_last=True)
    number = pl.int_range(users.height, users.height + new.height, dtype=pl.Int32, eager=True)
    blank = new.select(number.alias(USER), USER_ID).join(users, on=USER_ID, how="left", maintain_order="left")
    blank = blank.with_columns(pl.col(DONE, RECEIVED, DEGREE).fill_null(0), pl.col(OPTED_OUT).fill_null(False))
    return pl.concat([users, blank.select(users.columns)])


def _numbered(table: pl.DataFrame, users: pl.DataFrame, fields: list[str]) -> pl.DataFrame:
    """The table by the users' numbers, with an empty text where a field has none."""
    joined = table.join(users.select(USER_ID, USER), on=USER_ID, how="left", maintain_order="left")
    return joined.select(USER, TIMESTAMP, pl.col(fields).fill_null(""))
