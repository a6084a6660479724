"""Erased users: they are in no prepared table and in no log in memory, and internal ids stay the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from befriend.data.columns import USER_ID
from befriend.data.contracts import USERS, read_table
from befriend.data.erasure import (
    add_erasure_digests,
    drop_erased_users,
    erasure_digest,
    is_erased,
    read_erasure_digests,
)
from befriend.data.event_log import EventLog
from befriend.data.renumber import renumber
from befriend.data.split import read_split
from befriend.readers.data_settings import DataSettings
from befriend.validation.validate_settings import ValidateSettings
from tests.conftest import make_log
from tests.projects import validate_log


def test_digests_of_erased_users_accumulate(tmp_path: Path) -> None:
    assert read_erasure_digests(tmp_path) == frozenset()
    add_erasure_digests(tmp_path, [erasure_digest(7)])
    add_erasure_digests(tmp_path, [erasure_digest("anna"), erasure_digest(7)])
    assert read_erasure_digests(tmp_path) == {erasure_digest("7"), erasure_digest("anna")}
    assert "anna" not in (tmp_path / "forgotten.txt").read_text()
    assert is_erased(pl.Series([6, 7, None, 7]), read_erasure_digests(tmp_path)).to_list() == [False, True, False, True]


def test_drop_erased_users_removes_events_and_keeps_internal_ids() -> None:
    log = make_log([(0, "a", 1, 10), (1, "a", 2, 20), (2, "a", 0, 30)])
    remaining = drop_erased_users(log, frozenset({erasure_digest(101)}))
    assert remaining.timestamp.tolist() == [30]
    assert remaining.lineage() == log.lineage()
    assert remaining.first_seen[1] == np.iinfo(np.int64).max
    assert drop_erased_users(log, frozenset({erasure_digest(5)})) is log


def prepared(root: Path, events: pl.DataFrame) -> Path:
    events.write_parquet(root / "log.parquet")
    rules = ValidateSettings(min_days=0)
    validate_log(DataSettings(), rules, root / "log.parquet", root / "prepared", root / "reports")
    return root / "prepared"


def test_rows_without_an_id_are_rejected_also_if_users_are_erased(raw_events: pl.DataFrame, tmp_path: Path) -> None:
    without_actor = raw_events[:3].with_columns(actor_id=pl.lit(None, pl.Int64))
    (tmp_path / "prepared").mkdir()
    add_erasure_digests(tmp_path / "prepared", [erasure_digest(raw_events["actor_id"][0])])
    pl.concat([raw_events, without_actor]).write_parquet(tmp_path / "log")
    folders = tmp_path / "log", tmp_path / "prepared", tmp_path / "reports"
    assert validate_log(DataSettings(), ValidateSettings(max_rejected=0.5), *folders).num_rejected_rows == 3


@pytest.mark.parametrize("file_format", ["parquet", "csv"])
def test_validate_leaves_erased_users_out_of_all_tables(
    file_format: str, raw_events: pl.DataFrame, tmp_path: Path
) -> None:
    erased = raw_events["actor_id"][0]
    invalid_row = pl.DataFrame({"actor_id": [erased], "action": ["message"], "target_id": [3], "timestamp": [-5]})
    events = pl.concat([raw_events, invalid_row.cast(raw_events.schema)])  # of the erased user
    (tmp_path / "prepared").mkdir()
    add_erasure_digests(tmp_path / "prepared", [erasure_digest(erased)])
    source = tmp_path / "log"
    settings = DataSettings() if file_format == "parquet" else DataSettings(format="csv")
    (events.write_parquet if file_format == "parquet" else events.write_csv)(source)
    validate_log(settings, ValidateSettings(), source, tmp_path / "prepared", tmp_path / "reports")
    log = EventLog.read(tmp_path / "prepared")
    names_erased = (pl.col("actor_id") == erased) | (pl.col("target_id") == erased)
    assert erased not in log.user_ids.to_list()
    assert log.num_events == events.filter(~names_erased).height
    assert pl.read_parquet(tmp_path / "prepared" / "rejected.parquet").height == 0
    report = (tmp_path / "reports" / "validation" / "report.md").read_text()
    assert f"{events.filter(names_erased).height} rows that name erased users" in report


def test_renumber_restores_earlier_internal_ids_after_erasure_and_late_events(
    raw_events: pl.DataFrame, tmp_path: Path
) -> None:
    earlier, later = tmp_path / "earlier", tmp_path / "later"
    earlier.mkdir()
    later.mkdir()
    ids = read_table(prepared(earlier, raw_events[100:350]) / "users.parquet", USERS)[USER_ID]
    erased = ids[2]
    # Without the erased user, and with events before and after those of the earlier log.
    current = raw_events.filter((pl.col("actor_id") != erased) & (pl.col("target_id") != erased))
    folder = prepared(later, current)
    renumber(folder, ids, tmp_path / "view")
    before, after = EventLog.read(folder), EventLog.read(tmp_path / "view")
    assert after.user_ids[: len(ids)].equals(ids)
    assert after.lineage(len(ids)) == EventLog.read(earlier / "prepared").lineage()
    for side in ("actor", "target"):
        external_ids = before.user_ids.gather(getattr(before, side))
        assert external_ids.equals(after.user_ids.gather(getattr(after, side)))
    assert after.timestamp.tolist() == before.timestamp.tolist()
    assert after.first_seen[2] == np.iinfo(np.int64).max
    assert read_split(tmp_path / "view", after).test_start == read_split(folder, before).test_start
