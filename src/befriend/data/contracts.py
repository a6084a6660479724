"""The contracts of the tables that stages hand to each other, as pandera schemas. `check` compares a table with one.

What makes a raw row valid is defined in `befriend.validation.row_rules`.
"""

from __future__ import annotations

from pathlib import Path

import pandera.polars as pa
import polars as pl
from pandera.errors import SchemaErrors

from befriend.data.columns import (
    ACTION,
    ACTOR,
    CONTEXT,
    DEGREE,
    DONE,
    FILE,
    FIRST_SEEN,
    LAST_SEEN,
    OPTED_OUT,
    PLATFORM,
    RAW,
    REASON,
    REASONS,
    RECEIVED,
    ROLE,
    ROLES,
    ROW,
    STATEMENT,
    TARGET,
    TEXT,
    TIMESTAMP,
    USER,
    USER_ID,
)
from befriend.errors import DataError

CHECKED_AT_ONCE = 5_000_000  # rows of events.parquet


def _in_time_order(data: pa.PolarsData) -> pl.LazyFrame:
    return data.lazyframe.select(pl.col(TIMESTAMP).diff().fill_null(0) >= 0)


def _between_two_users(data: pa.PolarsData) -> pl.LazyFrame:
    return data.lazyframe.select(pl.col(ACTOR) != pl.col(TARGET))


def _action_is_a_label(data: pa.PolarsData) -> bool:
    return isinstance(data.lazyframe.collect_schema()[ACTION], pl.Enum)


def _numbered_in_order(data: pa.PolarsData) -> pl.LazyFrame:
    return data.lazyframe.select(pl.col(USER).diff().fill_null(1) == 1)


def _unique_ids(data: pa.PolarsData) -> pl.LazyFrame:
    return data.lazyframe.select(pl.col(USER_ID).is_unique() & pl.col(USER_ID).is_not_null())


def _labels_and_numbers(data: pa.PolarsData) -> bool:
    kinds = list(data.lazyframe.collect_schema().items())[1:]
    return all(isinstance(dtype, pl.Enum) or dtype == pl.Float32 for _, dtype in kinds)


def _finite_or_missing(data: pa.PolarsData) -> bool:
    finite = data.lazyframe.select(pl.col(pl.Float32).is_finite().all()).collect()
    return all(column.item() for column in finite.get_columns())


def _by_user_and_time(data: pa.PolarsData) -> pl.LazyFrame:
    """Rows without a time come first within a user."""
    user, second = pl.col(USER).diff().fill_null(1), pl.col(TIMESTAMP).fill_null(-1).diff().fill_null(0)
    return data.lazyframe.select((user > 0) | ((user == 0) & (second >= 0)))


def _unique_statements(data: pa.PolarsData) -> pl.LazyFrame:
    return data.lazyframe.select(pl.struct(USER, STATEMENT, CONTEXT).is_unique())


NOT_NEGATIVE = pa.Check.ge(0)
NOT_BLANK = pa.Check.str_contains(r"\S")

EVENTS = pa.DataFrameSchema(
    {
        TIMESTAMP: pa.Column(pl.Int64, NOT_NEGATIVE),
        ACTOR: pa.Column(pl.Int32, NOT_NEGATIVE),
        TARGET: pa.Column(pl.Int32, NOT_NEGATIVE),
        ACTION: pa.Column(None),
        ROLE: pa.Column(ROLES),
    },
    checks=[
        pa.Check(_in_time_order, name="in time order"),
        pa.Check(_between_two_users, name="between two users"),
        pa.Check(_action_is_a_label, name="action is an Enum of labels"),
    ],
    strict=True,
    ordered=True,
    name="events.parquet: accepted events in time order, users by internal id",
)

USERS = pa.DataFrameSchema(
    {
        USER: pa.Column(pl.Int32, NOT_NEGATIVE),
        USER_ID: pa.Column(None),
        FIRST_SEEN: pa.Column(pl.Int64, NOT_NEGATIVE, nullable=True),
        LAST_SEEN: pa.Column(pl.Int64, NOT_NEGATIVE, nullable=True),
        DONE: pa.Column(pl.Int64, NOT_NEGATIVE),
        RECEIVED: pa.Column(pl.Int64, NOT_NEGATIVE),
        DEGREE: pa.Column(pl.Int64, NOT_NEGATIVE),
        OPTED_OUT: pa.Column(pl.Boolean),
    },
    checks=[pa.Check(_numbered_in_order, name="numbered in order"), pa.Check(_unique_ids, name="unique user ids")],
    strict=True,
    ordered=True,
    name="users.parquet: row k is the user with internal id k",
)

ATTRIBUTES = pa.DataFrameSchema(
    {USER: pa.Column(pl.Int32, NOT_NEGATIVE)},
    checks=[
        pa.Check(_numbered_in_order, name="numbered in order"),
        pa.Check(_labels_and_numbers, name="attributes are Enums of labels or Float32"),
        pa.Check(_finite_or_missing, name="numbers are finite or missing"),
    ],
    name="attributes.parquet: row k is the user with internal id k, with a column for each attribute",
)

TEXTS = pa.DataFrameSchema(
    {
        USER: pa.Column(pl.Int32, NOT_NEGATIVE),
        TIMESTAMP: pa.Column(pl.Int64, NOT_NEGATIVE),
        PLATFORM: pa.Column(pl.String),
        TEXT: pa.Column(pl.String, NOT_BLANK),
    },
    checks=[pa.Check(_by_user_and_time, name="by user, in time order")],
    strict=True,
    ordered=True,
    name="texts.parquet: what users wrote, by internal id, each user's texts in time order",
)

STATEMENTS = pa.DataFrameSchema(
    {
        USER: pa.Column(pl.Int32, NOT_NEGATIVE),
        TIMESTAMP: pa.Column(pl.Int64, NOT_NEGATIVE, nullable=True),
        STATEMENT: pa.Column(pl.String, NOT_BLANK),
        CONTEXT: pa.Column(pl.String),
    },
    checks=[
        pa.Check(_by_user_and_time, name="by user, in time order"),
        pa.Check(_unique_statements, name="unique statements"),
    ],
    strict=True,
    ordered=True,
    name="statements.parquet: statements about users, by internal id, and since when they are known (null: always)",
)

REJECTED = pa.DataFrameSchema(
    {
        FILE: pa.Column(pl.String),
        ROW: pa.Column(pl.Int64, pa.Check.ge(1)),
        REASON: pa.Column(pl.String, pa.Check.isin(list(REASONS))),
        RAW: pa.Column(pl.String),
    },
    strict=True,
    ordered=True,
    name="rejected.parquet: every refused row in its original form, with its file, row number and reason",
)


def read_table(path: Path, contract: pa.DataFrameSchema) -> pl.DataFrame:
    """Reads a Parquet table and checks its contract; DataError if the file is missing, damaged or breaks it."""
    if not path.is_file():
        raise DataError(f"there is no {path}. Run `dvc repro validate` first.")
    try:
        table = pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path} is damaged: {error}. Run `dvc repro --force validate`.") from None
    return check(table, contract, path)


def check(table: pl.DataFrame, contract: pa.DataFrameSchema, path: Path) -> pl.DataFrame:
    """Returns the table if it satisfies its contract; else a DataError lists every violation.

    Events are checked in slices to bound memory. A slice starts with the last row of the one before, so that time order
    is checked across slices too.
    """
    slice_rows = CHECKED_AT_ONCE if contract is EVENTS else max(table.height, 1)
    for start in range(0, max(table.height, 1), slice_rows):
        try:
            contract.validate(table[max(start - 1, 0) : start + slice_rows], lazy=True)
        except SchemaErrors as error:
            cases = error.failure_cases.group_by("column", "check").len().sort("column", "check")
            violations = "\n".join(
                f"  {column or 'table'}: {check_name} ({n}x)" for column, check_name, n in cases.iter_rows()
            )
            raise DataError(
                f"{path} breaks its contract ({contract.name}):\n{violations}\n"
                "The file was changed or damaged after it was written. Run `dvc repro --force validate`."
            ) from None
    return table
