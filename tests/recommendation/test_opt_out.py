"""Users who opt out are on no list, and no model sees their opt-out as a feature."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from befriend.api import Befriend
from befriend.data.attributes import Attributes
from befriend.readers.data_settings import DataSettings
from befriend.validation.validate_settings import ValidateSettings
from tests.projects import validate_log


def test_an_opt_out_in_the_data_keeps_users_off_every_list(trained_project: Path, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    events = pl.read_parquet(trained_project / "log" / "events.parquet")
    events.write_parquet(tmp_path / "log" / "events.parquet")
    ids = events["target_id"].value_counts(sort=True)["target_id"]
    opt_outs = pl.DataFrame({"user_id": ids, "quiet": ["yes", "TRUE", "1", *["no"] * (len(ids) - 4), None]})
    opt_outs.write_csv(tmp_path / "log" / "people.csv")
    data = DataSettings(
        roles={"view": "signal", "block": "exclude"}, attributes={"file": "people.csv", "opt_out": "quiet"}
    )
    validate_log(data, ValidateSettings(), tmp_path / "log", tmp_path / "prepared", tmp_path / "reports")
    users = pl.read_parquet(tmp_path / "prepared" / "users.parquet")
    assert set(users.filter("opted_out")["user_id"]) == set(ids[:3])
    assert Attributes.read(tmp_path / "prepared").vocabulary == {}
    befriend = Befriend(trained_project, prepared=tmp_path / "prepared")
    for model in ("two-tower", "stu", "both"):
        lists = befriend.recommend(befriend.log.user_ids, k=115, model=model)
        assert lists["recommended"].n_unique() > 100
        assert not set(lists["recommended"]) & set(ids[:3])
        assert set(lists.filter("known")["user"]) >= set(ids[:3])  # they get lists of their own
