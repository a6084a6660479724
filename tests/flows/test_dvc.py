"""Reproducing one target: what ran, what a failure says, and what is tried again."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.dvc import StageError, _NoTraceback, may_pass, reproduce, stream
from tests.flows.conftest import BIN


def failed(target: str) -> StageError:
    with pytest.raises(StageError) as caught:
        reproduce(target)
    return caught.value


class State:
    """As much of a Prefect state as the question of a retry looks at."""

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


def test_who_wants_to_hears_each_line(project: Path) -> None:
    lines: list[str] = []
    reproduce("good", force=True, on_line=lines.append)
    assert "Running stage 'good':" in lines


def test_a_failed_check_speaks_for_itself_and_is_not_tried_again(project: Path) -> None:
    error = failed("bad")
    assert str(error) == "the log was refused\n  row 3: no target"
    assert (error.exit_code, error.began, error.may_pass) == (1, True, False)
    assert not may_pass(None, None, State(error))


def test_the_record_of_an_earlier_run_is_not_this_ones(project: Path) -> None:
    (project / "runs").mkdir(exist_ok=True)
    (project / "runs" / "refused.json").write_text(json.dumps({"status": "failed", "exit_code": 1, "error": "old"}))
    error = failed("refused")
    assert str(error) == "params.yaml: 1 setting cannot be used\n  bad.one: unknown"
    assert (error.exit_code, error.began, error.may_pass) == (2, False, False)


def test_a_killed_stage_is_tried_again(project: Path) -> None:
    error = failed("killed")
    assert "killed was killed before it could say why" in str(error)
    assert error.began and may_pass(None, None, State(error))


def test_a_stage_that_breaks_its_promise_to_dvc_fails_with_dvcs_words(project: Path) -> None:
    error = failed("careless")
    assert "output 'never.txt' does not exist" in str(error)
    assert not error.may_pass


def test_a_defect_is_not_tried_again(project: Path) -> None:
    error = failed("defect")
    assert str(error) == "ValueError('a defect')" and error.exit_code == 70
    assert not may_pass(None, None, State(error))
    assert not may_pass(None, None, State(ValueError("timed out")))


@pytest.mark.system
def test_a_stage_another_process_works_on_is_tried_again(project: Path) -> None:
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
            error = failed("slow")
        finally:
            os.killpg(other.pid, 9)
    assert str(other.pid) in str(error)
    assert error.may_pass and not error.began


@pytest.mark.system
def test_a_cancelled_run_leaves_nothing_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cancel(line: str) -> None:
        raise KeyboardInterrupt

    child = "import os, pathlib, time; pathlib.Path('pid').write_text(str(os.getpid())); print('here', flush=True); time.sleep(60)"
    (tmp_path / "parent.py").write_text(f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])")
    monkeypatch.chdir(tmp_path)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        stream([sys.executable, "parent.py"], cancel)
    assert time.monotonic() - start < 10
    status = Path("/proc") / (tmp_path / "pid").read_text() / "status"
    while status.exists() and "State:\tZ" not in status.read_text():  # a zombie only waits to be counted
        assert time.monotonic() - start < 10
        time.sleep(0.05)


def test_a_message_for_a_person_is_logged_without_a_traceback() -> None:
    def logged(error: Exception) -> logging.LogRecord:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "it broke: %r", (error,), (type(error), error, None))
        assert _NoTraceback().filter(record)
        return record

    said = logged(StageError("50 % of the rows\nare bad"))
    assert said.getMessage() == "50 % of the rows\nare bad" and said.exc_info is None
    assert logged(ValueError("a defect")).exc_info is not None
