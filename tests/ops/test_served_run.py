"""The run that serves, and the messages about it: a champion, its log, and what is missing."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest

from befriend import files, layout
from befriend.errors import CallError
from befriend.ops.served_run import find_served_run
from tests.cli.small_project import make_project
from tests.conftest import call


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose champion knows all users but the last, 19."""
    root = make_project(tmp_path / "project")
    champion = root / layout.REGISTRY / "0001"
    shutil.copytree(root / layout.PREPARED, champion / layout.PREPARED)
    users = champion / layout.PREPARED / "users.parquet"
    pl.read_parquet(users).head(9).write_parquet(users)
    for folder in layout.MODEL_FOLDERS:
        shutil.copytree(root / folder, champion / folder)
    files.write_json(champion / "manifest.json", {"number": 1, "promoted": "2026-01-01", "previous": None})
    (root / layout.CHAMPION).symlink_to("registry/0001")
    monkeypatch.chdir(root)
    return root


def test_the_champion_serves_unless_another_run_is_named(project: Path) -> None:
    served = find_served_run(None)
    assert served.folder == project / "models" / "registry" / "0001"
    assert served.champion is not None and served.log_name == "the log of champion 1"
    latest = find_served_run(None, use_latest_log=True)
    assert (latest.folder, latest.prepared, latest.log_name) == (served.folder, layout.PREPARED, "the log (prepared/)")
    current = find_served_run(Path())
    assert (current.folder, current.prepared, current.champion) == (Path(), layout.PREPARED, None)
    (project / layout.CHAMPION).unlink()
    assert find_served_run(None) == current
    with pytest.raises(CallError, match="--newest is for a champion"):
        find_served_run(None, use_latest_log=True)


def test_a_user_who_joined_after_the_champion_was_promoted_needs_the_newest_log(project: Path) -> None:
    done = call(project, "recommend", "--user", "19")
    assert done.returncode == 2
    assert "there is no user 19 in the log of champion 1. Did you mean 18" in done.stderr
    assert "prepared has this user: add --newest, which uses the log that was prepared last" in done.stderr
    for options in (["--user", "99"], ["--user", "99", "--newest"]):
        done = call(project, "recommend", *options)
        assert done.returncode == 2 and "--cold-start makes lists" in done.stderr and "add --newest" not in done.stderr


def test_a_champion_without_its_models_is_to_be_replaced(project: Path) -> None:
    files.remove(project / layout.REGISTRY / "0001" / layout.STU)
    for command in (("recommend", "--user", "10"), ("export", "vectors.parquet")):
        done = call(project, *command)
        assert done.returncode == 1
        assert "models/stu. Choose another promoted run: befriend rollback --to NUMBER" in done.stderr
