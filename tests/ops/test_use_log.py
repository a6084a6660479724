"""`befriend use`: a source that cannot be used, or a killed process, never loses the old log."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from befriend.errors import BusyError, CallError, SourceError
from befriend.files import stage_lock
from befriend.ops import use_log as ops
from tests.ops.test_erase_users import in_another_thread

KILLED_AT_EVERY_STEP = """
import contextlib, os, signal, sys
from pathlib import Path
from befriend import files
from befriend.ops.use_log import _backup_of_old_log

os.chdir(sys.argv[1])

def write_log(content):
    files.remove(Path("data"))
    Path("data").mkdir()
    for name in ("one", "two"):
        (Path("data") / name).write_text(content)
    Path("data.dvc").write_text(content)

def state():
    paths = [*sorted(Path("data").glob("*")), Path("data.dvc")]
    return "-".join(path.read_text() if path.is_file() else "nothing" for path in paths)

def kill_at(step):
    def count(event, arguments):
        nonlocal step
        if event.startswith(("os.", "shutil.", "open")):
            step -= 1
            if step == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)

for step in range(1, 1000):
    write_log("old")
    child = os.fork()
    if child == 0:
        kill_at(step)
        with _backup_of_old_log():
            write_log("new")
        os._exit(0)
    killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    with contextlib.suppress(LookupError), _backup_of_old_log():
        raise LookupError
    print(state())
    if not killed:
        break
"""


@pytest.mark.system
def test_after_a_kill_at_any_step_the_next_call_has_the_old_log_or_the_new_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED_AT_EVERY_STEP, str(tmp_path)]
    states = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert set(states) == {"old-old-old", "new-new-new"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "data.dvc"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raw_events: pl.DataFrame) -> Path:
    """A project without a log, where an import copies the file instead of calling DVC."""

    def copy(source: str) -> None:
        Path("data").write_bytes(Path(source).read_bytes())
        Path("data.dvc").write_text(source)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ops, "_import", copy)
    Path("dvc.yaml").touch()
    Path("params.yaml").write_text("data: {}\n")
    raw_events.write_parquet("log.parquet")
    return tmp_path


def use(source: str, **roles: str) -> None:
    detected: dict[str, Any] = dict.fromkeys(("unit", "separator", "header", "default_action"))
    ops.use(source, columns={}, roles=roles, side_tables={}, **detected)


def state(project: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in project.iterdir() if path.is_file()}


def test_source_that_cannot_be_used_leaves_the_old_log_and_its_settings(project: Path) -> None:
    use("log.parquet")
    before = state(project)
    assert {"data", "data.dvc"} < before.keys()
    with pytest.raises(SourceError, match="nowhere does not exist"):
        use("nowhere")
    with pytest.raises(CallError, match="the log has no action wave"):
        use("log.parquet", wave="signal")
    assert state(project) == before


def test_settings_that_cannot_be_written_leave_the_old_log(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use("log.parquet")
    before = state(project)

    def raise_disk_full(settings: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(ops, "_write_settings", raise_disk_full)
    pl.read_parquet("log.parquet")[:100].write_parquet("shorter.parquet")
    with pytest.raises(OSError, match="the disk is full"):
        use("shorter.parquet")
    (project / "shorter.parquet").unlink()
    assert state(project) == before


def test_source_in_the_data_folder_is_refused_before_data_is_moved(project: Path) -> None:
    (project / "data").mkdir()
    (project / "log.parquet").rename(project / "data" / "mine.parquet")
    with pytest.raises(CallError, match=r"data/mine.parquet is in data/, .* Move it elsewhere"):
        use("data/mine.parquet")
    assert (project / "data" / "mine.parquet").is_file()


def test_log_cannot_be_changed_while_stages_run(project: Path) -> None:
    with in_another_thread(stage_lock(project / "runs" / "lock")), pytest.raises(BusyError):
        use("log.parquet")
