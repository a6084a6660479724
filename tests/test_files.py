"""Atomic writes and locks, also when processes are killed, and errors of the operating system."""

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


def test_a_failed_write_leaves_the_file_unchanged(tmp_path: Path) -> None:
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


def test_a_killed_writer_leaves_the_file_unchanged(tmp_path: Path) -> None:
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
    assert [path.name for path in tmp_path.iterdir()] == ["a"]  # its temporary folder is removed


def write_folder(path: Path, content: str) -> Path:
    """Writes a folder with one file, as the stages do; returns its path."""
    with files.atomic(path) as new:
        new.mkdir()
        (new / "content").write_text(content)
    return path


def test_a_new_folder_that_cannot_be_renamed_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "folder", "old")

    def fail_for_new(self: Path, target: Path, move: Callable[[Path, Path], Path]) -> Path:
        if (self / "content").is_file() and (self / "content").read_text() == "new":
            raise OSError("rename fails")
        return move(self, target)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="rename fails"):
        for name in ("rename", "replace"):
            patch.setattr(Path, name, functools.partialmethod(fail_for_new, move=getattr(Path, name)))
        patch.setattr(files, "_exchange_atomically", lambda *_: False, raising=False)
        write_folder(folder, "new")
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

if mode != "one step":
    files._exchange_atomically = lambda first, second: False
for step in range(1, 1000):
    write("old")
    child = os.fork()
    if child == 0:
        kill_at(step)
        write("new")
        os._exit(0)
    killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    if mode == "several steps, old one removed":
        files.remove(folder)
    if mode != "one step":
        files.recover(folder)
    print("-".join(path.read_text() for path in folder.glob("*")) or "nothing")
    if not killed:
        break
"""


@pytest.mark.parametrize(
    ("mode", "states"),
    [
        ("one step", {"old-old", "new-new"}),
        ("several steps", {"old-old", "new-new"}),
        ("several steps, old one removed", {"old-old", "nothing"}),  # as DVC removes outputs before it runs a stage
    ],
)
def test_a_writer_killed_at_any_step_leaves_the_old_or_the_new_folder(
    mode: str, states: set[str], tmp_path: Path
) -> None:
    """Some file systems cannot exchange folders in one step. There, the folder is complete after a call of `recover`."""
    command = [sys.executable, "-c", KILLED_AT_EVERY_STEP, str(tmp_path), mode]
    states_after_kills = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert set(states_after_kills) == states
    assert len(states_after_kills) > 10
    write_folder(tmp_path / "folder", "later")
    assert [path.name for path in tmp_path.iterdir()] == [
        "folder"
    ]  # the temporary folders of killed writers are removed


def test_recover_does_not_remove_what_a_writer_in_another_container_writes(tmp_path: Path) -> None:
    """Its process id means nothing here. The test uses one that no process has."""
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


def test_the_stage_lock_excludes_other_threads_and_is_reentrant(tmp_path: Path) -> None:
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
def process_that_outlives_holder(lock: Path, when: str) -> Iterator[subprocess.Popen[str]]:
    """A process that outlives the holder of the lock that started it.

    when: it takes the lock `soon`, before the holder is killed, or `late`, after the holder has ended.
    """
    command = [sys.executable, "-c", START_AND_END, str(lock), ENTER, str(lock), when]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        if when == "soon":
            assert holder.stdout.readline() == "in\n"
            holder.kill()
        holder.wait()
        yield holder


def test_a_process_whose_holder_has_ended_cannot_share_the_lock_of_the_next_holder(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with process_that_outlives_holder(lock, "late") as other, files.stage_lock(lock):
        assert other.stdin is not None and other.stdout is not None
        other.stdin.write("now\n")
        other.stdin.flush()
        assert other.stdout.readline().startswith(f"stages are being run here already, by process {os.getpid()}")


def test_the_lock_is_held_while_a_process_of_its_killed_holder_has_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with process_that_outlives_holder(lock, "soon") as other:
        with (
            pytest.raises(BusyError, match=f"by process {other.pid}: .*, or by a process that it started"),
            files.stage_lock(lock),
        ):
            pass
        assert other.stdin is not None and other.stdout is not None
        other.stdin.close()  # the process ends
        assert other.stdout.read() == ""
        with files.stage_lock(lock):
            pass


def test_json_is_canonical_and_refuses_nan(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a", {"b": 1, "a": [1.5, "é"]})
    assert (tmp_path / "a").read_bytes() == '{\n "a": [\n  1.5,\n  "é"\n ],\n "b": 1\n}\n'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "a", float("nan"))


def test_a_full_disk_becomes_a_storage_error() -> None:
    full = explain(OSError(errno.ENOSPC, "No space left on device", "x/events.parquet"))
    assert isinstance(full, StorageError)
    assert "the disk is full (x/events.parquet)" in str(full)
    assert isinstance(explain(RuntimeError("write failed: No space left on device (os error 28)")), StorageError)
    assert explain(KeyError("a bug")) is None


def test_network_errors_and_missing_files_have_different_messages() -> None:
    refused = explain(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"))
    unknown_host = explain(socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
    for error in (refused, unknown_host, explain(RuntimeError("error sending request (os error 111)"))):
        assert isinstance(error, NetworkError)
        assert "another machine could not be reached" in str(error) and "the network" in str(error)
        assert "file" not in str(error)
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
def test_other_errors_are_not_explained(error: Exception) -> None:
    assert explain(error) is None


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        pl.exceptions.ComputeError("parquet: underlying IO error: No space left on device (os error 28)"),
    ],
    ids=["the system's", "a table library's"],
)
def test_a_disk_error_names_the_output_that_was_written(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as caught, files.atomic(tmp_path / "a"):
        raise error
    assert str(explain(caught.value)).startswith(f"the disk is full (while {tmp_path / 'a'} was written): ")
