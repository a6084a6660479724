"""The contracts of the prepared tables, which stage `validate` writes: columns, types and checks, as pandera schemas.

`check_contract` checks a table against its contract. Raw rows are checked by `befriend.validation.row_rules`.
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
    EVENTS_DONE,
    EVENTS_RECEIVED,
    FILE,
    FIRST_SEEN,
    LAST_SEEN,
    OPTED_OUT,
    PLATFORM,
    RAW,
    REASON,
    REASONS,
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

EVENTS_PER_CHECK = 5_000_000  # rows of events.parquet that are checked at once


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
    dtypes = list(data.lazyframe.collect_schema().values())[1:]
    return all(isinstance(dtype, pl.Enum) or dtype == pl.Float32 for dtype in dtypes)


def _finite_or_missing(data: pa.PolarsData) -> bool:
    is_finite = data.lazyframe.select(pl.col(pl.Float32).is_finite().all()).collect()
    return all(column.item() for column in is_finite.get_columns())


def _by_user_and_time(data: pa.PolarsData) -> pl.LazyFrame:
    """Whether rows are sorted by user, then by time, with rows without a timestamp first."""
    user_step, time_step = pl.col(USER).diff().fill_null(1), pl.col(TIMESTAMP).fill_null(-1).diff().fill_null(0)
    return data.lazyframe.select((user_step > 0) | ((user_step == 0) & (time_step >= 0)))


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
        ROLE: pa.Column(pl.Enum(ROLES)),
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
        EVENTS_DONE: pa.Column(pl.Int64, NOT_NEGATIVE),
        EVENTS_RECEIVED: pa.Column(pl.Int64, NOT_NEGATIVE),
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
    name="rejected.parquet: every rejected row in its original form, with its file, row number and reason",
)


def read_table(path: Path, contract: pa.DataFrameSchema) -> pl.DataFrame:
    """Reads a Parquet table and checks its contract.

    Raises a DataError if the file is missing or damaged, or if the table breaks its contract.
    """
    if not path.is_file():
        raise DataError(f"there is no {path}. Run `dvc repro validate` first.")
    try:
        table = pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path} is damaged: {error}. Run `dvc repro --force validate`.") from None
    return check_contract(table, contract, path)


def check_contract(table: pl.DataFrame, contract: pa.DataFrameSchema, path: Path) -> pl.DataFrame:
    """Returns the table if it satisfies its contract; else raises a DataError that lists the failed checks.

    Events are checked in slices, to bound memory; the error lists the failed checks of the first bad slice. Each slice
    starts with the last row of the slice before it, so that time order is also checked across slices. path: of the
    table, for the message.
    """
    slice_rows = EVENTS_PER_CHECK if contract is EVENTS else max(table.height, 1)
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
