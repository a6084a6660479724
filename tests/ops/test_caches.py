"""Caches lose data of erased users, and stay if they have none; traces of erased users are reported."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from befriend import files, layout
from befriend.data.erasure import add_erasure_digests, erasure_digest
from befriend.errors import CallError
from befriend.ops import registry
from befriend.ops.erase_users import erase, find_traces, verify_erasure
from befriend.stages import validate
from befriend.text.encoding_cache import EncodingCache
from befriend.training import checkpoint
from befriend.training.checkpoint import Checkpoint
from tests.conftest import call

TEXT_CACHE, CHECKPOINTS = Path(".cache/text"), Path(".checkpoints")
LATEST_CHECKPOINT = CHECKPOINTS / "train_two_tower" / "abc" / "latest.safetensors"
ENCODER_CACHE = TEXT_CACHE / "minilm"


def write_users(root: Path, users: list[int]) -> None:
    """Writes a prepared table of these users."""
    files.remove(root / layout.PREPARED / "users.parquet")
    (root / layout.PREPARED).mkdir(exist_ok=True)
    pl.DataFrame({"user_id": users}).write_parquet(root / layout.PREPARED / "users.parquet")


def fill_caches(root: Path) -> None:
    """Encodes a text, and saves a checkpoint of a training."""
    EncodingCache(root / ENCODER_CACHE).get(["what anna wrote"], lambda texts: np.ones((len(texts), 4), np.float32))
    checkpoint.save(root / LATEST_CHECKPOINT, Checkpoint({"weights/users": torch.ones(3, 2)}, {}))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_users(tmp_path, [1, 2, 3])
    fill_caches(tmp_path)
    return tmp_path


def has_content(root: Path) -> list[bool]:
    """For the text cache and the checkpoints: whether it has any tensors."""
    return [any((root / cache).rglob("*.safetensors")) for cache in (TEXT_CACHE, CHECKPOINTS)]


def test_erasure_removes_the_text_cache_and_the_checkpoints(project: Path) -> None:
    assert has_content(project) == [True, True]
    erase(project, ["3"])
    assert has_content(project) == [False, False]


def tidy(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes outdated caches; calls of DVC do nothing."""
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=0))
    registry.tidy(project, keep=3, commits=1)


def test_caches_count_as_traces_until_they_are_filled_from_a_log_without_the_erased_user(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {str(TEXT_CACHE), str(CHECKPOINTS)} < set(find_traces(project, "3"))
    erase(project, ["3"])
    fill_caches(project)  # from the log that still has user 3
    tidy(project, monkeypatch)
    assert find_traces(project, "3") == ["prepared/users.parquet", str(TEXT_CACHE), str(CHECKPOINTS)]
    write_users(project, [1, 2])
    assert find_traces(project, "3") == [str(TEXT_CACHE), str(CHECKPOINTS)]
    tidy(project, monkeypatch)
    assert has_content(project) == [False, False]
    fill_caches(project)
    assert find_traces(project, "3") == []


def test_caches_without_erased_users_stay(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    erase(project, ["3"])
    write_users(project, [1, 2])
    tidy(project, monkeypatch)
    fill_caches(project)
    tidy(project, monkeypatch)
    assert has_content(project) == [True, True] and find_traces(project, "3") == []


def test_another_clone_empties_its_caches_after_an_erasure(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_erasure_digests(project / layout.PREPARED, [erasure_digest(3)])  # as after `git pull`
    files.write_text(project / "params.yaml", "data: {}\n")

    def run(*_: object) -> validate.ValidateResult:
        write_users(project, [1, 2])
        return validate.ValidateResult(9, 0, 9, 2, warnings=[])

    monkeypatch.setattr(validate, "run", run)
    done = call(project, "validate")
    assert done.returncode == 0, done.stderr
    assert has_content(project) == [False, False]


def test_user_who_returns_and_is_erased_again_is_removed_from_caches_again(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    erase(project, ["3"])
    write_users(project, [1, 2])
    tidy(project, monkeypatch)
    files.remove(project / layout.PREPARED / "forgotten.txt")
    write_users(project, [1, 2, 3])
    tidy(project, monkeypatch)
    fill_caches(project)
    assert {str(TEXT_CACHE), str(CHECKPOINTS)} < set(find_traces(project, "3"))
    add_erasure_digests(project / layout.PREPARED, [erasure_digest(3)])
    write_users(project, [1, 2])
    tidy(project, monkeypatch)
    assert has_content(project) == [False, False]


def test_erasure_removes_the_incomplete_run_of_a_killed_promotion(project: Path) -> None:
    incomplete = project / layout.REGISTRY / ".0001.99.tmp" / "prepared" / "users.parquet"
    incomplete.parent.mkdir(parents=True)
    pl.DataFrame({"user_id": [3]}).write_parquet(incomplete)
    erase(project, ["3"])
    assert not incomplete.exists()


def test_rejected_row_that_names_the_user_is_a_trace(project: Path) -> None:
    write_users(project, [1, 2])
    rows = pl.DataFrame({"file": ["log.jsonl"], "row": [7], "reason": ["unreadable"], "raw": ['{"actor_id": 3, "act']})
    rows.write_parquet(project / layout.PREPARED / "rejected.parquet")
    assert "prepared/rejected.parquet" in find_traces(project, "3")
    assert "prepared/rejected.parquet" not in find_traces(project, "33")


def test_verification_lists_folders_and_names_the_first_files_of_each(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files.remove(project / CHECKPOINTS)
    for model in range(40):
        files.write_text(project / layout.PREDICTIONS / f"{model:02}" / "note.txt", "by ann")
    (project / layout.PREPARED / "users.parquet").unlink()
    with pytest.raises(CallError, match="traces are left"):
        verify_erasure(project, ["ann"])
    assert capsys.readouterr().out.splitlines() == [
        "ann: traces are left",
        "  prepared: no trace",
        "  models: no trace",
        "  reports: 40 files name this user",
        *(f"    reports/predictions/{model:02}/note.txt" for model in range(5)),
        "    and 35 more",
        "  runs: no trace",
        "  .cache/text: started while the user was in the prepared log; its content cannot be separated by user",
        "  .checkpoints: no trace",
    ]
