"""Turns a raw table of users into one that is lined up with the log: one row for each of its users, in their order.

Refused rows are kept aside like those of the log; rows of users whom the log does not know are counted and left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from befriend.config import DataSettings
from befriend.data.chunk import wanted_of_users
from befriend.data.columns import CATEGORICAL, REASON, ROW, USER, USER_ID
from befriend.data.forgotten import marked
from befriend.data.ingest import NOBODY
from befriend.data.judging import judge_attributes
from befriend.data.rejected import Refused, RejectedWriter
from befriend.data.sources import read_attribute_chunks
from befriend.progress import track

YES = ("1", "1.0", "true", "yes")


@dataclass(frozen=True)
class IngestedAttributes:
    """The attributes of N users, and an account of every other row."""

    table: pl.DataFrame
    """N rows: user Int32, an Enum for each categorical column, Float32 for each numeric one; null where missing"""
    opted_out: pl.Series
    """bool, N rows: who must not be recommended"""
    file: str | None
    """its name; None without attributes"""
    read: int
    """rows of the raw table"""
    rejected: dict[str, int]
    """refused rows by reason"""
    not_in_log: int
    """rows of users whom the log does not know"""
    not_finite: dict[str, int]
    """numeric column -> infinite numbers and NaN in the rows used, which count as missing"""
    examples: pl.DataFrame
    """the first refused rows"""

    def figures(self) -> dict[str, Any]:
        """What validation.json says of them."""
        refused = sum(self.rejected.values())
        columns: dict[str, dict[str, int]] = {}
        for name in self.table.columns[1:]:
            column = self.table[name]
            columns[name] = {"missing": column.null_count()}
            if isinstance(column.dtype, pl.Enum):
                columns[name]["labels"] = len(column.dtype.categories)
            else:
                columns[name]["not_finite"] = self.not_finite[name]
        return {
            "rows": self.read,
            "rejected": refused,
            "rejected_share": round(refused / self.read, 6) if self.read else 0.0,
            "rejected_by_reason": self.rejected,
            "not_in_log": self.not_in_log,
            "users": self.read - refused - self.not_in_log,
            "users_without": self.table.height - (self.read - refused - self.not_in_log),
            "opted_out": int(self.opted_out.sum()),
            "columns": columns,
        }


def ingest_attributes(
    source: Path, data: DataSettings, user_ids: pl.Series, keep: RejectedWriter, marks: frozenset[str] = NOBODY
) -> IngestedAttributes:
    """Reads the table of users beside the log at `source`; refused rows go to `keep` as they are met.

    marks: of people who asked to be forgotten, whose rows are left out.

    user_ids: N original ids in the order of the users' numbers. Of several rows for one user the first is used.
    """
    number = pl.DataFrame({USER_ID: user_ids, USER: pl.int_range(len(user_ids), dtype=pl.Int32, eager=True)})
    fields = [field for field in wanted_of_users(data.attributes).places if field != USER_ID]
    kinds = {field: pl.String() if _is_categorical(field) else pl.Float32() for field in fields}
    parts = [pl.DataFrame(schema={USER: pl.Int32(), **kinds})]
    met = np.zeros(len(user_ids), bool)
    refused = Refused(keep)
    read, not_in_log = 0, 0
    for chunk in track(read_attribute_chunks(data, source), "reading the attributes"):
        rows = judge_attributes(chunk.rows, data)
        if marks:
            gone = marked(rows[USER_ID], marks)
            rows, chunk = rows.filter(~gone), chunk.only(~gone)
        rows = _refuse_repeated(rows.join(number, on=USER_ID, how="left", maintain_order="left"), met)
        refused.add(chunk, rows)
        good = rows.filter(pl.col(REASON).is_null())
        parts.append(good.filter(pl.col(USER).is_not_null()).select(USER, *fields))
        read += rows.height
        not_in_log += good[USER].null_count()
    used = pl.concat(parts)
    numbers = [field for field in fields if not _is_categorical(field)]
    not_finite = {_name(field): int((~used[field].is_finite()).sum()) for field in numbers}
    used = used.with_columns(pl.when(pl.col(field).is_finite()).then(pl.col(field)).alias(field) for field in numbers)
    used = used.with_columns(_labelled(used[field]) for field in fields if _is_categorical(field))
    table = number.select(USER).join(used, on=USER, how="left", maintain_order="left")
    table = table.rename({field: _name(field) for field in fields})
    out = data.attributes.opt_out
    opted_out = table[out].cast(pl.String).str.to_lowercase().is_in(YES).fill_null(False) if out else None
    return IngestedAttributes(
        table=table.drop(out) if out else table,
        opted_out=pl.repeat(False, len(user_ids), eager=True) if opted_out is None else opted_out,
        file=data.attributes.file,
        read=read,
        rejected=refused.counts,
        not_in_log=not_in_log,
        not_finite=not_finite,
        examples=refused.examples,
    )


def _is_categorical(field: str) -> bool:
    return field.startswith(f"{CATEGORICAL}.")


def _name(field: str) -> str:
    """The column's own name: `country` of `categorical.country`."""
    return field.split(".", 1)[1]


def _refuse_repeated(rows: pl.DataFrame, met: np.ndarray) -> pl.DataFrame:
    """The rows with a reason where the user has one already. met: bool[N], users so far; those of `rows` are added."""
    usable = rows.filter(pl.col(REASON).is_null() & pl.col(USER).is_not_null())
    user = usable[USER].to_numpy()
    again = usable[ROW].filter(pl.Series(met[user]) | ~usable[USER].is_first_distinct())
    met[user] = True
    repeated = pl.when(pl.col(ROW).is_in(again.implode())).then(pl.lit("user_id_again"))
    return rows.with_columns(pl.coalesce(REASON, repeated).alias(REASON))


def _labelled(column: pl.Series) -> pl.Series:
    """Text as an Enum of the labels that occur, in the order of their names."""
    return column.cast(pl.Enum(column.drop_nulls().unique().sort()))
