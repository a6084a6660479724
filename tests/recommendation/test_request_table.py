"""Files of requests: valid columns and types, default values, and the messages for invalid ones."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from befriend.errors import CallError
from befriend.recommendation.request_table import COLUMNS, read_requests

JUNE = 1_717_200_000  # 2024-06-01


def write_requests(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "requests.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_missing_columns_default_to_live_any_and_the_end_of_the_log(tmp_path: Path) -> None:
    rows = [
        {"user_id": 7},
        {"user_id": 8, "action": "ask"},
        {"user_id": 9, "at": "2024-06-01", "filter_at": "2024-06-01T02:00:00+02:00", "regime": "daily", "list": "new"},
    ]
    table = read_requests(write_requests(tmp_path, rows))
    assert table.columns == list(COLUMNS)
    assert table.rows() == [
        (7, None, None, "live", None, "any"),
        (8, None, None, "streaming", "ask", "any"),
        (9, JUNE, JUNE, "daily", None, "new"),
    ]


@pytest.mark.parametrize(
    "times",
    [
        pl.Series([JUNE, None]),
        pl.Series([datetime(2024, 6, 1), None], dtype=pl.Datetime("ms")),
        pl.Series([datetime(2024, 6, 1, tzinfo=UTC), None]),
        pl.Series([date(2024, 6, 1), None]),
    ],
    ids=["seconds", "milliseconds", "zone", "date"],
)
def test_times_in_parquet_may_have_any_unit(times: pl.Series, tmp_path: Path) -> None:
    path = tmp_path / "requests.parquet"
    pl.DataFrame({"user_id": pl.Series(["a", "b"], dtype=pl.Categorical), "at": times}).write_parquet(path)
    table = read_requests(path)
    assert table["at"].to_list() == [JUNE, None] and table["user_id"].to_list() == ["a", "b"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"user_id": 7, "at": 1}, {"user_id": 8, "at": JUNE * 1000}],
            "column at, row 2: 1717200000000 lies beyond the",
        ),
        ([{"user_id": 7, "at": ""}], "column at, row 1: nothing: write it as 2024-05-31"),
        ([{"user_id": 7, "at": "May"}], "column at, row 1: May: write it as"),
        ([{"user_id": 7, "at": 1.5}], "column at, holds Float64: write times as UTC seconds"),
        ([{"user_id": 7, "regime": ["live"]}], r"column regime, holds List\(String\), and should hold text"),
        ([{"user_id": 7, "action": 3}], "column action, holds Int64"),
        ([{"user_id": [7]}], "ids of users are numbers or text, and user_id holds List"),
        ([{"user_id": 7, "when": 3}], "has the column when. Columns of requests: user_id, at,"),
        ([{"user": 7}], "has the column user"),
        ([{}], "has no column user_id"),
    ],
)
def test_invalid_requests_are_named_in_the_error(rows: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    with pytest.raises(CallError, match=message):
        read_requests(write_requests(tmp_path, rows))


@pytest.mark.parametrize(
    ("column", "value"), [("at", timedelta(3)), ("at", time(3)), ("list", b"new"), ("at", 2**64 - 1)]
)
def test_columns_of_other_types_are_errors(column: str, value: Any, tmp_path: Path) -> None:
    path = tmp_path / "requests.parquet"
    dtype = pl.UInt64 if isinstance(value, int) else None
    pl.DataFrame({"user_id": [7], column: pl.Series([value], dtype=dtype)}).write_parquet(path)
    with pytest.raises(CallError, match=f"column {column}"):
        read_requests(path)


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "requests.parquet"
    pl.DataFrame(schema={"user_id": pl.Int64}).write_parquet(path)
    with pytest.raises(CallError, match="holds no requests"):
        read_requests(path)
