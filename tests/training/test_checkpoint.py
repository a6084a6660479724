from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from befriend import files
from befriend.training import checkpoint
from befriend.training.checkpoint import Checkpoint

TENSORS = {
    "matrix": torch.arange(6.0).reshape(2, 3),
    "scalar": torch.tensor(0.1),
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "empty": torch.zeros(0, 4),
    "flags": torch.tensor([True, False]),
    "turned": torch.arange(6.0).reshape(2, 3).T,
}
STATE = {"step": 7, "figures": [0.1 + 0.2, math.pi, 1e-300, -0.0], "history": [{"epoch": 1, "loss": 2 / 3}]}


def test_a_saved_checkpoint_is_loaded_bit_for_bit(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a", Checkpoint(TENSORS, STATE))
    loaded = checkpoint.load(tmp_path / "a")
    assert loaded is not None
    assert loaded.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert loaded.tensors[name].dtype == tensor.dtype
        assert torch.equal(loaded.tensors[name], tensor)
    assert json.dumps(loaded.state, sort_keys=True) == json.dumps(STATE, sort_keys=True)


def test_a_missing_checkpoint_loads_as_none_without_a_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checkpoint.load(tmp_path / "a") is None
    assert capsys.readouterr().err == ""


def test_any_damage_is_detected_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a"
    checkpoint.save(path, Checkpoint(TENSORS, STATE))
    intact = path.read_bytes()
    damaged = [intact[:offset] + bytes([intact[offset] ^ 4]) + intact[offset + 1 :] for offset in range(len(intact))]
    truncated = [intact[:-1], intact[: len(intact) // 2], intact[:4], b""]
    for content in [*damaged[::7], damaged[-1], *truncated, b"no checkpoint"]:
        path.write_bytes(content)
        assert checkpoint.load(path) is None
        assert "training starts from the beginning" in capsys.readouterr().err


def test_a_failed_save_keeps_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    checkpoint.save(path, Checkpoint(TENSORS, {"step": 1}))

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(path, Checkpoint(TENSORS, {"step": 2}))
    loaded = checkpoint.load(path)
    assert loaded is not None
    assert loaded.state == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_a_half_written_file_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a", Checkpoint(TENSORS, STATE))
    (tmp_path / ".a.123.tmp").write_bytes(b"half")
    assert checkpoint.load(tmp_path / "a") is not None
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_a_file_that_is_being_written_is_not_removed(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a", Checkpoint(TENSORS, {"step": 1}))
    with files.atomic(tmp_path / "a") as new:
        new.write_bytes((tmp_path / "a").read_bytes())
        assert checkpoint.load(tmp_path / "a") is not None
    assert checkpoint.load(tmp_path / "a") is not None
