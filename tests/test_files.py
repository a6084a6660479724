"""Outputs appear complete or not at all."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from befriend import files
from befriend.errors import StorageError, explain


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a", "old")
    with pytest.raises(RuntimeError), files.atomic(tmp_path / "a") as path:
        path.write_text("half")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for content in ("one", "two"):
        with files.atomic(tmp_path / "folder") as path:
            path.mkdir()
            (path / content).write_text(content)
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["two"]


def test_a_killed_writer_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a", "old")
    code = f"""
import time
from pathlib import Path
from befriend import files
with files.atomic(Path({str(tmp_path / "a")!r})) as path:
    path.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"writing\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    time.sleep(0.05)
    assert (tmp_path / "a").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    files.write_text(tmp_path / "a", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]  # what it left is gone


def test_json_is_canonical_and_refuses_nan(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a", {"b": 1, "a": [1.5, "é"]})
    assert (tmp_path / "a").read_bytes() == '{\n "a": [\n  1.5,\n  "é"\n ],\n "b": 1\n}\n'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "a", float("nan"))


def test_failures_of_the_system_become_messages() -> None:
    full = explain(OSError(errno.ENOSPC, "No space left on device", "x/events.parquet"))
    assert isinstance(full, StorageError)
    assert "the disk is full (x/events.parquet)" in str(full)
    assert isinstance(explain(RuntimeError("write failed: No space left on device (os error 28)")), StorageError)
    assert explain(KeyError("a defect of our own")) is None
