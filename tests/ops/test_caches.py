"""Nobody who asked to be forgotten is left in what only makes runs faster; what is clean of them stays."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from befriend import files, layout
from befriend.data.erasure import add_erased, erasure_digest
from befriend.errors import CallError
from befriend.ops import registry
from befriend.ops.forget_people import forget, prove, traces
from befriend.stages import validate
from befriend.text.encoding_cache import EncodingCache
from befriend.training import checkpoint
from befriend.training.checkpoint import Checkpoint
from tests.conftest import call

TEXTS, TRAINING = Path(".cache/text"), Path(".checkpoints")
LATEST = TRAINING / "train_two_tower" / "abc" / "latest.safetensors"
PART = TEXTS / "minilm"


def prepare(root: Path, users: list[int]) -> None:
    """A prepared log of these people."""
    files.remove(root / layout.PREPARED / "users.parquet")
    (root / layout.PREPARED).mkdir(exist_ok=True)
    pl.DataFrame({"user_id": users}).write_parquet(root / layout.PREPARED / "users.parquet")


def work(root: Path) -> None:
    """Reads what somebody wrote, and begins to train."""
    EncodingCache(root / PART).get(["what anna wrote"], lambda texts: np.ones((len(texts), 4), np.float32))
    checkpoint.save(root / LATEST, Checkpoint({"weights/users": torch.ones(3, 2)}, {}))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    prepare(tmp_path, [1, 2, 3])
    work(tmp_path)
    return tmp_path


def left(root: Path) -> list[bool]:
    return [any((root / cache).rglob("*.safetensors")) for cache in (TEXTS, TRAINING)]


def test_forgetting_reaches_what_was_read_and_half_trained(project: Path) -> None:
    assert left(project) == [True, True]
    forget(project, ["3"])
    assert left(project) == [False, False]


def tidy(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without DVC, which is another's affair."""
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=0))
    registry.tidy(project, keep=3, commits=1)


def test_caches_prove_nothing_before_the_log_is_prepared_without_them(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {str(TEXTS), str(TRAINING)} < set(traces(project, "3"))
    forget(project, ["3"])
    work(project)  # of the log that still has them
    tidy(project, monkeypatch)
    assert traces(project, "3") == ["prepared/users.parquet", str(TEXTS), str(TRAINING)]
    prepare(project, [1, 2])
    assert traces(project, "3") == [str(TEXTS), str(TRAINING)]
    tidy(project, monkeypatch)
    assert left(project) == [False, False]
    work(project)
    assert traces(project, "3") == []


def test_once_nobody_is_in_them_who_asked_caches_stay(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget(project, ["3"])
    prepare(project, [1, 2])
    tidy(project, monkeypatch)
    work(project)
    tidy(project, monkeypatch)
    assert left(project) == [True, True] and traces(project, "3") == []


def test_another_clone_that_learns_of_it_empties_its_own(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_erased(project / layout.PREPARED, [erasure_digest(3)])  # by git
    files.write_text(project / "params.yaml", "data: {}\n")

    def run(*_: object) -> validate.ValidateResult:
        prepare(project, [1, 2])
        return validate.ValidateResult(read=9, rejected=0, events=9, users=2, warnings=[])

    monkeypatch.setattr(validate, "run", run)
    done = call(project, "validate")
    assert done.returncode == 0, done.stderr
    assert left(project) == [False, False]


def test_who_comes_back_and_asks_again_is_looked_for_again(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget(project, ["3"])
    prepare(project, [1, 2])
    tidy(project, monkeypatch)
    files.remove(project / layout.PREPARED / "forgotten.txt")
    prepare(project, [1, 2, 3])
    tidy(project, monkeypatch)
    work(project)
    assert {str(TEXTS), str(TRAINING)} < set(traces(project, "3"))
    add_erased(project / layout.PREPARED, [erasure_digest(3)])
    prepare(project, [1, 2])
    tidy(project, monkeypatch)
    assert left(project) == [False, False]


def test_half_a_run_of_a_killed_promotion_goes(project: Path) -> None:
    half = project / layout.REGISTRY / ".0001.99.tmp" / "prepared" / "users.parquet"
    half.parent.mkdir(parents=True)
    pl.DataFrame({"user_id": [3]}).write_parquet(half)
    forget(project, ["3"])
    assert not half.exists()


def test_a_refused_row_that_names_somebody_is_a_trace(project: Path) -> None:
    prepare(project, [1, 2])
    rows = pl.DataFrame({"file": ["log.jsonl"], "row": [7], "reason": ["unreadable"], "raw": ['{"actor_id": 3, "act']})
    rows.write_parquet(project / layout.PREPARED / "rejected.parquet")
    assert "prepared/rejected.parquet" in traces(project, "3")
    assert "prepared/rejected.parquet" not in traces(project, "33")


def test_a_proof_tells_place_by_place_and_names_the_first_files(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files.remove(project / TRAINING)
    for model in range(40):
        files.write_text(project / layout.PREDICTIONS / f"{model:02}" / "note.txt", "by ann")
    (project / layout.PREPARED / "users.parquet").unlink()
    with pytest.raises(CallError, match="traces are left"):
        prove(project, ["ann"])
    assert capsys.readouterr().out.splitlines() == [
        "ann: traces are left",
        "  prepared: no trace",
        "  models: no trace",
        "  reports: reports/predictions/00/note.txt, reports/predictions/01/note.txt, reports/predictions/02/note.txt "
        "and 37 more",
        "  runs: no trace",
        "  .cache/text: started while the user was in the prepared log; its content cannot be separated by user",
        "  .checkpoints: no trace",
    ]
