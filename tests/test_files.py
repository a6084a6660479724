"""Outputs appear complete or not at all."""

from __future__ import annotations

import errno
import functools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest

from befriend import files
from befriend.errors import BusyError, NetworkError, StorageError, explain


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


def folder_of(path: Path, content: str) -> Path:
    """A folder with one file, written as the stages do."""
    with files.atomic(path) as new:
        new.mkdir()
        (new / "content").write_text(content)
    return path


def test_a_folder_that_cannot_be_moved_into_place_leaves_the_former_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tmp_path / "folder", "old")

    def breaks(self: Path, target: Path, move: Callable[[Path, Path], Path]) -> Path:
        if (self / "content").is_file() and (self / "content").read_text() == "new":
            raise OSError("it breaks")
        return move(self, target)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="it breaks"):
        for name in ("rename", "replace"):
            patch.setattr(Path, name, functools.partialmethod(breaks, move=getattr(Path, name)))
        patch.setattr(files, "_exchange", lambda *_: False, raising=False)
        folder_of(folder, "new")
    assert (folder / "content").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


KILLED_AT_EVERY_STEP = """
import os, signal, sys
from pathlib import Path
from befriend import files

folder = Path(sys.argv[1]) / "folder"
mode = sys.argv[2]

def write(content):
    with files.atomic(folder) as new:
        new.mkdir()
        for name in ("one", "two"):
            (new / name).write_text(content)

def kill_at(step):
    def count(event, arguments):
        nonlocal step
        if event.startswith(("os.", "shutil.", "open")):
            step -= 1
            if step == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)

if mode != "in one step":
    files._exchange = lambda first, second: False
for step in range(1, 1000):
    write("old")
    child = os.fork()
    if child == 0:
        kill_at(step)
        write("new")
        os._exit(0)
    killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    if mode == "in two, and removed then":
        files.remove(folder)
    if mode != "in one step":
        files.recover(folder)
    print("-".join(path.read_text() for path in folder.glob("*")) or "nothing")
    if not killed:
        break
"""


@pytest.mark.parametrize(
    ("mode", "states"),
    [
        ("in one step", {"old-old", "new-new"}),
        ("in two", {"old-old", "new-new"}),
        ("in two, and removed then", {"old-old", "nothing"}),  # as DVC removes outputs before it runs a stage
    ],
)
def test_killed_at_any_step_of_the_swap_a_folder_is_the_former_or_the_new_one(
    mode: str, states: set[str], tmp_path: Path
) -> None:
    """In two steps, as on file systems that cannot exchange folders, it is once `recover` was called."""
    command = [sys.executable, "-c", KILLED_AT_EVERY_STEP, str(tmp_path), mode]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert set(found) == states
    assert len(found) > 10
    folder_of(tmp_path / "folder", "later")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]  # what the killed ones left is gone


def test_a_writer_of_another_container_keeps_what_it_writes(tmp_path: Path) -> None:
    """Its process number says nothing here; in this test nobody has it."""
    code = f"""
import os, sys
from pathlib import Path
os.getpid = lambda: 2**22 + 1
from befriend import files
with files.atomic(Path({str(tmp_path / "a")!r})) as path:
    path.write_text("theirs")
    print("writing", flush=True)
    sys.stdin.readline()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"writing\n"
        files.write_text(tmp_path / "a", "ours")
        other.communicate(b"go on\n")
    assert other.returncode == 0
    assert (tmp_path / "a").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_stage_lock_holds_other_threads_and_lets_its_own_in_again(tmp_path: Path) -> None:
    lock = tmp_path / "lock"

    def enter() -> str:
        with files.stage_lock(lock):
            return "in"

    with ThreadPoolExecutor(1) as other:
        with files.stage_lock(lock):
            assert enter() == "in"
            with pytest.raises(BusyError, match=f"stages are being run here already, by process {os.getpid()}"):
                other.submit(enter).result()
            with files.stage_lock(tmp_path / "another project's"), pytest.raises(BusyError):
                other.submit(enter).result()
        assert other.submit(enter).result() == "in"


ENTER = """
import sys
from pathlib import Path
from befriend import files
from befriend.errors import BusyError
if sys.argv[2] == "late":
    sys.stdin.readline()
try:
    with files.stage_lock(Path(sys.argv[1])):
        print("in", flush=True)
        sys.stdin.readline()
except BusyError as error:
    print(error)
"""
START_AND_END = """
import subprocess, sys
from pathlib import Path
from befriend import files
with files.stage_lock(Path(sys.argv[1])):
    subprocess.Popen([sys.executable, "-c", *sys.argv[2:]])
    if sys.argv[4] == "soon":
        sys.stdin.readline()
"""


@contextmanager
def outlives_its_holder(lock: Path, when: str) -> Iterator[subprocess.Popen[str]]:
    """Something that a holder of the lock started and that still runs, `soon` inside of the lock."""
    command = [sys.executable, "-c", START_AND_END, str(lock), ENTER, str(lock), when]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        if when == "soon":
            assert holder.stdout.readline() == "in\n"
            holder.kill()
        holder.wait()
        yield holder


def test_what_outlives_its_holder_does_not_come_in_beside_the_next(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with outlives_its_holder(lock, "late") as other, files.stage_lock(lock):
        assert other.stdin is not None and other.stdout is not None
        other.stdin.write("now\n")
        other.stdin.flush()
        assert other.stdout.readline().startswith(f"stages are being run here already, by process {os.getpid()}")


def test_the_lock_is_not_free_while_what_its_killed_holder_started_is_inside(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with outlives_its_holder(lock, "soon") as other:
        with (
            pytest.raises(BusyError, match=f"by process {other.pid}: .*, or by a process that it started"),
            files.stage_lock(lock),
        ):
            pass
        assert other.stdin is not None and other.stdout is not None
        other.stdin.close()  # it ends
        assert other.stdout.read() == ""
        with files.stage_lock(lock):
            pass


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


def test_a_message_claims_no_more_than_is_known() -> None:
    refused = explain(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"))
    unknown = explain(socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
    for found in (refused, unknown, explain(RuntimeError("error sending request (os error 111)"))):
        assert isinstance(found, NetworkError)
        assert "another machine could not be reached" in str(found) and "the network" in str(found)
        assert "file" not in str(found)
    missing = explain(FileNotFoundError(errno.ENOENT, "No such file or directory", "models/about.json"))
    assert str(missing).startswith("there is no such file or folder (models/about.json): ")
    assert "half-written" not in str(missing)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("Permission denied: you have no permission to read this model"),
        ValueError("bad row (os error 13)"),
        PermissionError(errno.EPERM, "Operation not permitted"),  # of a process, for example
        OSError(errno.EBADF, "Bad file descriptor"),
        OSError("something odd"),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
    ],
    ids=repr,
)
def test_what_is_no_failure_of_a_file_or_the_network_keeps_its_traceback(error: Exception) -> None:
    assert explain(error) is None


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        pl.exceptions.ComputeError("parquet: underlying IO error: No space left on device (os error 28)"),
    ],
    ids=["the system's", "a table library's"],
)
def test_a_failure_names_the_output_that_was_written(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as caught, files.atomic(tmp_path / "a"):
        raise error
    assert str(explain(caught.value)).startswith(f"the disk is full (while {tmp_path / 'a'} was written): ")
