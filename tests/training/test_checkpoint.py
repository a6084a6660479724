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


def test_what_was_saved_comes_back_to_the_last_bit(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a", Checkpoint(TENSORS, STATE))
    found = checkpoint.load(tmp_path / "a")
    assert found is not None
    assert found.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert torch.equal(found.tensors[name], tensor)
    assert json.dumps(found.state, sort_keys=True) == json.dumps(STATE, sort_keys=True)


def test_without_a_checkpoint_there_is_nothing_to_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert checkpoint.load(tmp_path / "a") is None
    assert capsys.readouterr().err == ""


def test_any_damage_is_found_out_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a"
    checkpoint.save(path, Checkpoint(TENSORS, STATE))
    sound = path.read_bytes()
    damaged = [sound[:place] + bytes([sound[place] ^ 4]) + sound[place + 1 :] for place in range(len(sound))]
    for content in [*damaged[::7], damaged[-1], sound[:-1], sound[: len(sound) // 2], sound[:4], b"", b"no checkpoint"]:
        path.write_bytes(content)
        assert checkpoint.load(path) is None
        assert "training starts anew" in capsys.readouterr().err


def test_a_failed_save_leaves_the_former_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    checkpoint.save(path, Checkpoint(TENSORS, {"step": 1}))

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(path, Checkpoint(TENSORS, {"step": 2}))
    found = checkpoint.load(path)
    assert found is not None
    assert found.state == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_what_a_kill_left_half_written_is_swept_up(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a", Checkpoint(TENSORS, STATE))
    (tmp_path / ".a.123.tmp").write_bytes(b"half")
    assert checkpoint.load(tmp_path / "a") is not None
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_what_somebody_still_writes_stays(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a", Checkpoint(TENSORS, {"step": 1}))
    with files.atomic(tmp_path / "a") as new:
        new.write_bytes((tmp_path / "a").read_bytes())
        assert checkpoint.load(tmp_path / "a") is not None
    assert checkpoint.load(tmp_path / "a") is not None
