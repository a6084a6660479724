"""Running one stage with DVC in a task: whether it ran, the error after a failure, and whether it is retried."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.dvc import _NoTraceback, reproduce, should_retry
from tasks.dvc_process import StageError, run_streaming
from tests.flows.conftest import BIN

pytestmark = pytest.mark.system  # starts DVC


def reproduce_and_fail(target: str) -> StageError:
    with pytest.raises(StageError) as caught:
        reproduce(target)
    return caught.value


class State:
    """The part of a Prefect state that `should_retry` uses."""

    def __init__(self, data: object) -> None:
        self.data = data


def test_dvc_decides_whether_a_stage_runs(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    (project / "input.txt").write_text("one")
    with caplog.at_level(logging.INFO, "run"):
        first, second = reproduce("good"), reproduce("good")
    (project / "input.txt").write_text("two")
    third = reproduce("good")
    (project / "input.txt").write_text("one")
    fourth, forced = reproduce("good"), reproduce("good", force=True)
    assert [run.ran for run in (first, second, third, fourth, forced)] == [True, False, True, False, True]
    assert first.stage == "good" and 0 < first.seconds < 60
    assert "Stage 'good' didn't change, skipping" in caplog.messages
    assert not any("git add" in line for line in caplog.messages)


def test_callback_gets_each_line_of_output(project: Path) -> None:
    lines: list[str] = []
    reproduce("good", force=True, on_line=lines.append)
    assert "Running stage 'good':" in lines


def test_failed_check_has_the_message_of_the_stage_and_is_not_retried(project: Path) -> None:
    error = reproduce_and_fail("bad")
    assert str(error) == "the log was refused\n  row 3: no target"
    assert (error.exit_code, error.began, error.is_transient) == (1, True, False)
    assert not should_retry(None, None, State(error))


def test_run_record_of_an_earlier_run_is_ignored(project: Path) -> None:
    (project / "runs").mkdir(exist_ok=True)
    (project / "runs" / "refused.json").write_text(json.dumps({"status": "failed", "exit_code": 1, "error": "old"}))
    error = reproduce_and_fail("refused")
    assert str(error) == "params.yaml: 1 setting cannot be used\n  bad.one: unknown"
    assert (error.exit_code, error.began, error.is_transient) == (2, False, False)


def test_killed_stage_is_retried(project: Path) -> None:
    error = reproduce_and_fail("killed")
    assert "killed was killed, most often for lack of memory" in str(error)
    assert error.began and should_retry(None, None, State(error))


def test_stage_without_its_output_fails_with_the_message_of_dvc(project: Path) -> None:
    error = reproduce_and_fail("careless")
    assert "output 'never.txt' does not exist" in str(error)
    assert not error.is_transient


def test_bug_in_a_stage_is_not_retried(project: Path) -> None:
    error = reproduce_and_fail("defect")
    assert error.exit_code == 70
    assert str(error) == (
        "ValueError('a defect'), a fault of befriend. Please report it; runs/defect.json has the traceback."
    )
    assert "ValueError: a defect" in json.loads((project / "runs" / "defect.json").read_text())["traceback"]
    assert not should_retry(None, None, State(error))
    assert not should_retry(None, None, State(ValueError("timed out")))


def test_stage_that_another_process_runs_is_retried(project: Path) -> None:
    with subprocess.Popen(
        [BIN / "dvc", "repro", "--single-item", "slow"],
        cwd=project,
        start_new_session=True,
        stdout=subprocess.PIPE,
        env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"},
        text=True,
    ) as other:
        try:
            assert other.stdout and any("slow begins" in line for line in other.stdout)
            error = reproduce_and_fail("slow")
        finally:
            os.killpg(other.pid, 9)
    expected = f"slow has to wait: another DVC command uses its files, process {other.pid}: "
    assert str(error).startswith(expected) and "A flow tries it again by itself" in str(error)
    assert error.is_transient and not error.began


def test_cancelled_run_ends_all_child_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cancel(line: str) -> None:
        raise KeyboardInterrupt

    child = "import os, pathlib, time; pathlib.Path('pid').write_text(str(os.getpid())); print('here', flush=True); time.sleep(60)"
    (tmp_path / "parent.py").write_text(f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])")
    monkeypatch.chdir(tmp_path)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_streaming([sys.executable, "parent.py"], cancel)
    assert time.monotonic() - start < 10
    status = Path("/proc") / (tmp_path / "pid").read_text() / "status"
    while status.exists() and "State:\tZ" not in status.read_text():  # a zombie process has ended
        assert time.monotonic() - start < 10
        time.sleep(0.05)


def test_error_with_a_message_for_the_user_is_logged_without_a_traceback() -> None:
    def logged(error: Exception) -> logging.LogRecord:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "it broke: %r", (error,), (type(error), error, None))
        assert _NoTraceback().filter(record)
        return record

    record = logged(StageError("50 % of the rows\nare bad"))
    assert record.getMessage() == "50 % of the rows\nare bad" and record.exc_info is None
    assert logged(ValueError("a defect")).exc_info is not None
