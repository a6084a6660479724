"""`befriend use`: a source that cannot be used, or a killed process, never loses the old log."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from ruamel.yaml import YAML

from befriend.config import load_params
from befriend.errors import BusyError, CallError, SourceError
from befriend.files import stage_lock
from befriend.ops import use_log as ops
from befriend.ops.detect import Hints
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
    ops.use(source, Hints({}), actions={}, roles=roles, side_tables={})


def state(project: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in project.iterdir() if path.is_file()}


def test_the_size_of_the_models_is_that_of_the_log_or_the_given_one(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use("log.parquet")
    assert load_params().train_stu.embedding_dim == 32  # a small log
    assert "size: small (embeddings 32 wide, 1 layer); all stages take about 2 minutes" in capsys.readouterr().out
    ops.use("log.parquet", Hints({}), actions={}, roles={}, side_tables={}, size="large")
    assert (load_params().train_two_tower.layers, load_params().train_ranker.first_contacts) == (2, 4000)


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


def test_a_file_that_is_no_import_is_not_replaced(project: Path) -> None:
    (project / "data").write_text("mine")
    with pytest.raises(CallError, match=r"data was not imported"):
        use("log.parquet")
    assert (project / "data").read_text() == "mine"


@pytest.mark.system
def test_files_that_were_not_imported_are_not_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (["git", "init", "-q"], [str(Path(sys.executable).with_name("dvc")), "init", "-q"]):
        subprocess.run(command, check=True, timeout=60)
    Path("dvc.yaml").write_text("stages: {}\n")
    Path("params.yaml").write_text("data: {}\n")
    Path("logs").mkdir()
    Path("logs/log.csv").write_text("src,dst,ts\n1,2,1700000000\n2,1,1700000060\n")
    Path("data").mkdir()
    Path("data/mine.csv").touch()
    with pytest.raises(CallError, match=r"data/mine.csv was not imported.* move it elsewhere first"):
        use("logs")
    Path("data/mine.csv").unlink()
    Path("data").rmdir()
    use("logs")
    use("logs")  # what was imported may be replaced
    Path("data/mine.csv").touch()
    with pytest.raises(CallError, match=r"data/mine.csv was not imported"):
        use("logs")
    assert Path("data/mine.csv").is_file()


def test_log_cannot_be_changed_while_stages_run(project: Path) -> None:
    with in_another_thread(stage_lock(project / "runs" / "lock")), pytest.raises(BusyError):
        use("log.parquet")


def write_log(rows: list[tuple[object, object, object]]) -> None:
    Path("log.csv").write_text(
        "src,dst,ts\n" + "".join(f"{actor},{target},{second}\n" for actor, target, second in rows)
    )


def pairs(num_rows: int) -> list[tuple[object, object, object]]:
    return [(k % 20, (7 * k + 3) % 20, 1_700_000_000 + 60 * k) for k in range(num_rows) if (6 * k + 3) % 20]


def id_type() -> str:
    return YAML().load(Path("params.yaml"))["data"]["id_type"]


@pytest.mark.parametrize("name", ["guest_14", "9223372036854775821"])
def test_ids_are_integers_only_if_all_of_them_are(name: str, project: Path) -> None:
    write_log(pairs(500))
    use("log.csv")
    assert id_type() == "integer"
    write_log([*pairs(500), (name, 3, 1_700_000_000)])
    use("log.csv")
    assert id_type() == "string"


def test_log_that_validate_would_refuse_is_refused_with_a_row_of_each_reason(project: Path) -> None:
    write_log(pairs(500))
    use("log.csv")
    before = state(project)
    write_log([*pairs(500), *((1, 2, f"noon {k}") for k in range(6))])
    rejected = state(project)
    with pytest.raises(
        CallError, match=r"6 of 506 rows of log.csv cannot be used, more than .* \(1%\).* such as 1,2,noon 0"
    ):
        use("log.csv")
    assert state(project) == rejected and rejected["params.yaml"] == before["params.yaml"]


def test_summary_of_a_log_can_be_checked_by_a_person_who_knows_it(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_log([("a", "b", 0), ("a", "c", 86_400), ("b", "a", 86_460), ("a", "a", 5), ("a", "b", 2**33)])
    use("log.csv")
    shown = " ".join(capsys.readouterr().out.split())
    assert (
        "4 events between 3 users, from 1970-01-01 00:00 to 2242-03-16 12:56; 0 of 5 rows rejected, 1 self-loops left out"
        in shown
    )
    assert (
        "most frequent actors: a (3), b (1)" in shown
        and "targets: b (2), a (1), c (1); 2 users are on both sides" in shown
    )
    assert (
        "1 events are later than now, the last at 2242-03-16 12:56: if that is a mistake, set validate.latest" in shown
    )


@pytest.mark.parametrize(
    ("rows", "warning"),
    [
        ([(f"u{k}", f"i{k}", k) for k in range(9)], "actors and targets have hardly an id in common"),
        ([(f"u{k}", f"U{k + 1}", k) for k in range(9)], "alike but for capital letters"),
        ([("u", "null", k) for k in range(3)] + [("null", "u", 4)], "the id null is on 4 events"),
        ([(f"u{k}", f"u{k + 1}", k) for k in range(9)], ""),
    ],
)
def test_unusual_ids_are_warned_of(
    rows: list[tuple[object, object, object]], warning: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_log(rows)
    use("log.csv")
    shown = " ".join(capsys.readouterr().out.split())
    assert warning in shown
    assert any(text in shown for text in ("in common", "capital letters", "no id")) == bool(warning)


def test_pipe_is_refused(project: Path) -> None:
    os.mkfifo("pipe")
    with pytest.raises(CallError, match="perhaps a pipe, which can be read only once"):
        use("pipe")
