"""Killed at a random moment, five times in a row, training ends with the same bytes as one that was not."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from befriend import files
from tests.conftest import ROOT

BEFRIEND = Path(sys.executable).parent / "befriend"
SETTINGS = ["epochs=3", "threads=1", "checkpoint_every=5", "validation_events=60", "positions_per_batch=128"]
TRAIN = [str(BEFRIEND), "train-two-tower", *(part for item in SETTINGS for part in ("--set", item))]


def digests(project: Path) -> dict[str, str]:
    found = [p for folder in ("models", "reports/training") for p in (project / folder).rglob("*") if p.is_file()]
    return {str(p.relative_to(project)): files.sha256(p) for p in found}


def written(project: Path) -> float:
    """When the latest checkpoint was written; 0 without one."""
    return max((p.stat().st_mtime for p in (project / ".checkpoints").rglob("latest.safetensors")), default=0.0)


@pytest.mark.system
@pytest.mark.timeout(900)
def test_five_kills_leave_no_trace(tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "data").mkdir()
    table = pl.read_parquet(ROOT / "src/befriend/sample/events.parquet").head(6000)
    table.write_parquet(tmp_path / "data" / "events.parquet")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([str(BEFRIEND), "validate"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    whole = tmp_path / "whole"
    shutil.copytree(tmp_path / "prepared", whole / "prepared")
    shutil.copy(tmp_path / "params.yaml", whole)
    subprocess.run(TRAIN, cwd=whole, env=environment, check=True, capture_output=True)
    chance = random.Random()
    for _ in range(5):
        before = written(tmp_path)
        child = subprocess.Popen(
            TRAIN, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while written(tmp_path) == before:  # each run gets somewhere before it is killed
            assert child.poll() is None
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 1))
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    assert not (tmp_path / "models").exists()
    subprocess.run(TRAIN, cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert digests(tmp_path) == digests(whole) != {}
