"""Somebody who asked to be forgotten is nowhere: not in a log that is read, not in one that is prepared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from befriend.config import DataSettings, ValidateSettings
from befriend.data.columns import USER_ID
from befriend.data.contracts import USERS, read_table
from befriend.data.forgotten import add_marks, mark, marked, read_marks, without
from befriend.data.log import EventLog
from befriend.data.renumber import renumber
from befriend.data.split import read_split
from befriend.stages import validate
from tests.conftest import make_log


def test_marks_are_digests_that_add_up(tmp_path: Path) -> None:
    assert read_marks(tmp_path) == frozenset()
    add_marks(tmp_path, [mark(7)])
    add_marks(tmp_path, [mark("anna"), mark(7)])
    assert read_marks(tmp_path) == {mark("7"), mark("anna")}
    assert "anna" not in (tmp_path / "forgotten.txt").read_text()
    assert marked(pl.Series([6, 7, None, 7]), read_marks(tmp_path)).to_list() == [False, True, False, True]


def test_a_log_without_somebody_has_none_of_their_events_and_all_numbers() -> None:
    log = make_log([(0, "a", 1, 10), (1, "a", 2, 20), (2, "a", 0, 30)])
    left = without(log, frozenset({mark(101)}))
    assert left.timestamp.tolist() == [30]
    assert left.lineage() == log.lineage()
    assert left.first_seen[1] == np.iinfo(np.int64).max
    assert without(log, frozenset({mark(5)})) is log


def prepared(root: Path, events: pl.DataFrame) -> Path:
    events.write_parquet(root / "log.parquet")
    rules = ValidateSettings(min_days=0)
    validate.run(DataSettings(), rules, root / "log.parquet", root / "prepared", root / "reports")
    return root / "prepared"


def test_rows_without_an_id_are_refused_as_ever(raw_events: pl.DataFrame, tmp_path: Path) -> None:
    nobody = raw_events[:3].with_columns(actor_id=pl.lit(None, pl.Int64))
    (tmp_path / "prepared").mkdir()
    add_marks(tmp_path / "prepared", [mark(raw_events["actor_id"][0])])
    pl.concat([raw_events, nobody]).write_parquet(tmp_path / "log")
    folders = tmp_path / "log", tmp_path / "prepared", tmp_path / "reports"
    assert validate.run(DataSettings(), ValidateSettings(max_rejected=0.5), *folders).rejected == 3


@pytest.mark.parametrize("form", ["table", "text"])
def test_validate_leaves_them_out_of_everything(form: str, raw_events: pl.DataFrame, tmp_path: Path) -> None:
    gone = raw_events["actor_id"][0]
    bad = pl.DataFrame({"actor_id": [gone], "action": ["message"], "target_id": [3], "timestamp": [-5]})
    events = pl.concat([raw_events, bad.cast(raw_events.schema)])  # a row of theirs that would be refused
    (tmp_path / "prepared").mkdir()
    add_marks(tmp_path / "prepared", [mark(gone)])
    source = tmp_path / "log"
    settings = DataSettings() if form == "table" else DataSettings(format="csv")
    (events.write_parquet if form == "table" else events.write_csv)(source)
    validate.run(settings, ValidateSettings(), source, tmp_path / "prepared", tmp_path / "reports")
    log = EventLog.read(tmp_path / "prepared")
    theirs = (pl.col("actor_id") == gone) | (pl.col("target_id") == gone)
    assert gone not in log.user_ids.to_list()
    assert log.num_events == events.filter(~theirs).height
    assert pl.read_parquet(tmp_path / "prepared" / "rejected.parquet").height == 0
    told = (tmp_path / "reports" / "validation" / "report.md").read_text()
    assert f"{events.filter(theirs).height} rows that name people who asked to be forgotten" in told


def test_earlier_numbers_come_back_whoever_is_gone_and_whatever_came_late(
    raw_events: pl.DataFrame, tmp_path: Path
) -> None:
    earlier, later = tmp_path / "earlier", tmp_path / "later"
    earlier.mkdir()
    later.mkdir()
    ids = read_table(prepared(earlier, raw_events[100:350]) / "users.parquet", USERS)[USER_ID]
    gone = ids[2]
    now = raw_events.filter((pl.col("actor_id") != gone) & (pl.col("target_id") != gone))  # and a hundred late events
    folder = prepared(later, now)
    renumber(folder, ids, tmp_path / "view")
    before, after = EventLog.read(folder), EventLog.read(tmp_path / "view")
    assert after.user_ids[: len(ids)].equals(ids)
    assert after.lineage(len(ids)) == EventLog.read(earlier / "prepared").lineage()
    for side in ("actor", "target"):
        one = before.user_ids.gather(getattr(before, side))
        assert one.equals(after.user_ids.gather(getattr(after, side)))
    assert after.timestamp.tolist() == before.timestamp.tolist()
    assert after.first_seen[2] == np.iinfo(np.int64).max
    assert read_split(tmp_path / "view", after).test_start == read_split(folder, before).test_start
