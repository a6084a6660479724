"""A training that is killed again and again at random times writes the same bytes as an uninterrupted one."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from befriend import files
from tests.conftest import ROOT, file_digests
from tests.projects import prepare

pytestmark = [pytest.mark.proof, pytest.mark.timeout(1800)]

KILLS = 24
OUTPUTS = ("models", "reports/training")
BIN = Path(sys.executable).parent
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
SETTINGS = ["epochs=3", "threads=1", "checkpoint_every=5", "validation_events=60", "positions_per_batch=128"]
TRAIN = ["befriend", "train-two-tower", *(part for item in SETTINGS for part in ("--set", item))]


def checkpoint_time(project: Path) -> float:
    """The time at which the latest checkpoint was written; 0 if there is none."""
    return max((p.stat().st_mtime for p in (project / ".checkpoints").rglob("latest.safetensors")), default=0.0)


def prepare_project(root: Path, events: int) -> None:
    """Simulates a log with texts, validates it and embeds the texts."""
    prepare(root, users=events // 20, events=events, texts=2.0)
    shutil.copy(ROOT / "params.yaml", root)


def call(program: str, *arguments: str, cwd: Path) -> str:
    command = [str(BIN / program), *arguments]
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, check=True, capture_output=True, text=True).stdout


def test_killed_training_writes_the_same_bytes_as_an_uninterrupted_one(tmp_path: Path) -> None:
    prepare_project(tmp_path, events=36_000)
    uninterrupted = tmp_path / "uninterrupted"
    for part in ("prepared", "models"):
        shutil.copytree(tmp_path / part, uninterrupted / part)
    shutil.copy(tmp_path / "params.yaml", uninterrupted)
    call(*TRAIN, cwd=uninterrupted)
    rng = random.Random(0)
    for _ in range(KILLS):
        before = checkpoint_time(tmp_path)
        child = subprocess.Popen(
            [str(BIN / TRAIN[0]), *TRAIN[1:]],
            cwd=tmp_path,
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while checkpoint_time(tmp_path) == before:  # each run writes a checkpoint before it is killed
            assert child.poll() is None
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 1))
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    assert not (tmp_path / "models" / "two_tower").exists()
    call(*TRAIN, cwd=tmp_path)
    assert file_digests(tmp_path, *OUTPUTS) == file_digests(uninterrupted, *OUTPUTS)


def test_two_processes_train_one_model(tmp_path: Path) -> None:
    prepare_project(tmp_path, events=2000)
    output = call("torchrun", "--nproc_per_node", "2", "-m", "befriend.cli", *TRAIN[1:], cwd=tmp_path)
    assert output.count("train_two_tower: ") == 1
    assert sorted(p.name for p in (tmp_path / "models/two_tower").iterdir()) == ["model.json", "weights.safetensors"]
    assert files.read_json(tmp_path / "runs/train_two_tower.json")["status"] == "done"
