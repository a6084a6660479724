"""Turns a raw table of users and their attributes into one with a row for each user of the log, by internal id.

Users of the log are all who have an internal id, also those known only by texts. Rows of others are only counted.
Rejected rows are written to rejected.parquet, like those of the log.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from befriend.data.columns import CATEGORICAL, REASON, ROW, USER, USER_ID
from befriend.data.erasure import is_erased
from befriend.progress import track
from befriend.readers.chunk import attribute_columns
from befriend.readers.data_settings import DataSettings
from befriend.readers.sources import read_attribute_chunks
from befriend.validation.ingest import NO_ERASED_USERS
from befriend.validation.rejected_rows import RejectedRows, RejectedWriter
from befriend.validation.row_rules import check_attribute_rows

OPT_OUT_VALUES = ("1", "1.0", "true", "yes")


@dataclass(frozen=True)
class IngestedAttributes:
    """The attributes of N users, and counts of the rows that were not used."""

    table: pl.DataFrame
    """N rows: user Int32, an Enum for each categorical column, Float32 for each numeric one; null where missing"""
    opted_out: pl.Series
    """bool, N rows: users who must not be recommended"""
    file: str | None
    """name of the raw table; None without attributes"""
    num_rows_read: int
    """number of rows read, without those of erased users"""
    rejected_by_reason: dict[str, int]
    """reason -> number of rejected rows"""
    num_not_in_log: int
    """number of rows of users who are not in the log"""
    num_not_finite: dict[str, int]
    """numeric column -> number of infinite and NaN values in the accepted rows; they count as missing"""
    rejected_examples: pl.DataFrame
    """the first rejected rows"""

    def metrics(self) -> dict[str, Any]:
        """The section `attributes` of validation.json."""
        num_rejected = sum(self.rejected_by_reason.values())
        columns: dict[str, dict[str, int]] = {}
        for name in self.table.columns[1:]:
            column = self.table[name]
            columns[name] = {"missing": column.null_count()}
            if isinstance(column.dtype, pl.Enum):
                columns[name]["labels"] = len(column.dtype.categories)
            else:
                columns[name]["not_finite"] = self.num_not_finite[name]
        return {
            "rows": self.num_rows_read,
            "rejected": num_rejected,
            "rejected_share": round(num_rejected / self.num_rows_read, 6) if self.num_rows_read else 0.0,
            "rejected_by_reason": self.rejected_by_reason,
            "not_in_log": self.num_not_in_log,
            "users": self.num_rows_read - num_rejected - self.num_not_in_log,
            "users_without": self.table.height - (self.num_rows_read - num_rejected - self.num_not_in_log),
            "opted_out": int(self.opted_out.sum()),
            "columns": columns,
        }


def ingest_attributes(
    source: Path,
    data_settings: DataSettings,
    user_ids: pl.Series,
    writer: RejectedWriter,
    erased: frozenset[str] = NO_ERASED_USERS,
) -> IngestedAttributes:
    """Reads and checks the table of users next to the log at `source`; writes rejected rows to `writer`.

    Of several valid rows of a user, the first is used and the others are rejected. user_ids: N external ids, by
    internal id. erased: digests of erased users, whose rows are left out.
    """
    internal_ids = pl.DataFrame({USER_ID: user_ids, USER: pl.int_range(len(user_ids), dtype=pl.Int32, eager=True)})
    fields = [field for field in attribute_columns(data_settings.attributes).columns if field != USER_ID]
    dtypes = {field: pl.String() if _is_categorical(field) else pl.Float32() for field in fields}
    tables = [pl.DataFrame(schema={USER: pl.Int32(), **dtypes})]
    has_row = np.zeros(len(user_ids), bool)
    rejected_rows = RejectedRows(writer)
    num_rows_read, num_not_in_log = 0, 0
    for chunk in track(read_attribute_chunks(data_settings, source), "reading the attributes"):
        rows = check_attribute_rows(chunk.rows, data_settings)
        if erased:
            is_erased_row = is_erased(rows[USER_ID], erased)
            rows, chunk = rows.filter(~is_erased_row), chunk.filter(~is_erased_row)
        rows = _reject_repeated(rows.join(internal_ids, on=USER_ID, how="left", maintain_order="left"), has_row)
        rejected_rows.add(chunk, rows)
        accepted = rows.filter(pl.col(REASON).is_null())
        tables.append(accepted.filter(pl.col(USER).is_not_null()).select(USER, *fields))
        num_rows_read += rows.height
        num_not_in_log += accepted[USER].null_count()
    attributes = pl.concat(tables)
    numeric_fields = [field for field in fields if not _is_categorical(field)]
    num_not_finite = {_column_name(field): int((~attributes[field].is_finite()).sum()) for field in numeric_fields}
    attributes = attributes.with_columns(
        pl.when(pl.col(field).is_finite()).then(pl.col(field)).alias(field) for field in numeric_fields
    )
    attributes = attributes.with_columns(_as_enum(attributes[field]) for field in fields if _is_categorical(field))
    table = internal_ids.select(USER).join(attributes, on=USER, how="left", maintain_order="left")
    table = table.rename({field: _column_name(field) for field in fields})
    opt_out_column = data_settings.attributes.opt_out
    opted_out = (
        table[opt_out_column].cast(pl.String).str.to_lowercase().is_in(OPT_OUT_VALUES).fill_null(False)
        if opt_out_column
        else None
    )
    return IngestedAttributes(
        table=table.drop(opt_out_column) if opt_out_column else table,
        opted_out=pl.repeat(False, len(user_ids), eager=True) if opted_out is None else opted_out,
        file=data_settings.attributes.file,
        num_rows_read=num_rows_read,
        rejected_by_reason=rejected_rows.counts,
        num_not_in_log=num_not_in_log,
        num_not_finite=num_not_finite,
        rejected_examples=rejected_rows.examples,
    )


def _is_categorical(field: str) -> bool:
    """Whether a field holds labels: True for `categorical.country`, False for `numeric.age`."""
    return field.startswith(f"{CATEGORICAL}.")


def _column_name(field: str) -> str:
    """The name of the column of a field: `country` for `categorical.country`."""
    return field.split(".", 1)[1]


def _reject_repeated(rows: pl.DataFrame, has_row: np.ndarray) -> pl.DataFrame:
    """The rows, with a reason to reject each one whose user already has a row.

    has_row: bool[N], whether a user has a row in an earlier chunk; set to True for the users of `rows`.
    """
    valid_rows = rows.filter(pl.col(REASON).is_null() & pl.col(USER).is_not_null())
    user = valid_rows[USER].to_numpy()
    repeated_rows = valid_rows[ROW].filter(pl.Series(has_row[user]) | ~valid_rows[USER].is_first_distinct())
    has_row[user] = True
    reason = pl.when(pl.col(ROW).is_in(repeated_rows.implode())).then(pl.lit("user_id_again"))
    return rows.with_columns(pl.coalesce(REASON, reason).alias(REASON))


def _as_enum(column: pl.Series) -> pl.Series:
    """A column of text as an Enum of its labels, in alphabetical order."""
    return column.cast(pl.Enum(column.drop_nulls().unique().sort()))
