"""The rules as Great Expectations checks them, compared with plain comparisons in polars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from befriend.data.columns import ACTION, ACTOR, REASON, TARGET, TIMESTAMP
from befriend.readers.data_settings import DataSettings
from befriend.validation.expectations import check_log, profile_rules
from befriend.validation.validate_settings import ValidateSettings
from tests.projects import check_with_polars

ROWS: dict[str, list[Any]] = {
    ACTOR: ["1", "2", "3", "4"],
    ACTION: ["message", "message", "view", "message"],
    TARGET: ["2", "3", "1", "1"],
    TIMESTAMP: [10, 20, 30, 40],
    REASON: [None, None, None, None],
}
CASES: dict[str, tuple[dict[str, list[Any]], float, dict[str, Any]]] = {
    "a valid log": ({}, 1.0, {}),
    "a field that is missing": ({ACTOR: ["1", None, "3", "4"], REASON: [None, "actor_id", None, None]}, 1.0, {}),
    "a timestamp after the latest": ({TIMESTAMP: [10, 20, 30, 2**40]}, 1.0, {}),
    "timestamps that are missing or out of range": ({TIMESTAMP: [None, -1, 30, 40]}, 1.0, {}),
    "no timestamp at all": ({TIMESTAMP: [None] * 4}, 1.0, {}),
    "an action that is not listed": ({}, 1.0, {"actions": ["message"]}),
    "values below and above every bound": ({}, -1.0, {}),
}


@pytest.mark.system
@pytest.mark.parametrize("case", CASES)
def test_great_expectations_gives_the_same_results_as_polars(case: str, tmp_path: Path) -> None:
    changed_columns, sign, data = CASES[case]
    settings = ValidateSettings(max_rejected=0.2, latest="2100-01-01")
    schema = {ACTOR: pl.String, ACTION: pl.String, TARGET: pl.String, TIMESTAMP: pl.Int64, REASON: pl.String}
    table = pl.DataFrame(ROWS | changed_columns, schema=schema)
    values = {
        rule.name: (rule.minimum + sign if rule.minimum is not None else (rule.maximum or 0.0) - sign)
        for rule in profile_rules(settings)
        if rule.name != "users_with_attributes"  # as in a log without attributes
    }
    results = check_log(table, values, DataSettings(**data), settings, tmp_path / "docs")
    polars_results = check_with_polars(table, values, DataSettings(**data), settings, tmp_path / "polars")
    assert {result.name: result for result in results} == {result.name: result for result in polars_results}
    assert {result.passed for result in results if not result.name.startswith("rows:")} == {sign > 0}
    assert (tmp_path / "docs" / "index.html").is_file()
