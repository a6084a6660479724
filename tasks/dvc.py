"""Reproduces one DVC target as part of a Prefect task: owns the call of `dvc repro`, and what its failure means.

Knows no stage in particular. DVC alone decides whether a stage has to run: nothing is cached here.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from befriend import files, layout
from befriend.errors import BefriendError

P = ParamSpec("P")
R = TypeVar("R")

DATA = "data.dvc"
RETRY_DELAYS = [10.0, 60.0]  # seconds: a lock is soon free, memory may take longer
STOPPING = 15  # seconds a stage has to end by itself when its run is cancelled

# What DVC says where nothing is wrong with the project: another process works in it, or a remote source is down.
PASSING = re.compile(
    r"Unable to acquire lock|is busy, it is being blocked by|Cannot connect to host|timed out|"
    r"Connection reset|Temporary failure in name resolution"
)
# What DVC adds for a person at a keyboard.
_ADVICE = (
    "To track the changes with git",
    "\tgit add",
    "To enable auto staging",
    "\tdvc config",
    "Use `dvc push`",
    "Data and pipelines are up",
)
_KILLED = ("-9", "-15", "137", "143")


@dataclass(frozen=True)
class Reproduced:
    """A target that is up to date. `ran`: DVC ran it, rather than finding it unchanged or in its cache."""

    stage: str
    ran: bool
    seconds: float


class StageError(BefriendError):
    """A stage failed; the message is the stage's own.

    exit_code: the stage's. began: the stage started, so reports/ holds its own work. may_pass: the same command may
    succeed later with nothing changed.
    """

    def __init__(self, message: str, exit_code: int = 1, began: bool = False, may_pass: bool = False) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.began = began
        self.may_pass = may_pass


def may_pass(_task: Any, _run: Any, state: Any) -> bool:
    """Whether Prefect should retry.

    Yes for failures that may pass by themselves: the stage or DVC was killed (most often for lack of memory), another
    process holds DVC's lock or the files of the stage, a remote source did not answer. No for everything that a stage
    reports itself: a failed check, a wrong setting or source, a full disk, a defect.
    """
    error = state.data
    return isinstance(error, StageError) and error.may_pass


def stage_task(name: str, description: str, run_name: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Decorates a task that runs a command of the pipeline. DVC is the only cache; results stay in memory."""
    return task(
        name=name,
        description=description,
        task_run_name=run_name,
        retries=len(RETRY_DELAYS),
        retry_delay_seconds=RETRY_DELAYS,
        retry_condition_fn=may_pass,
        cache_policy=NO_CACHE,
        persist_result=False,
    )


@stage_task("update-data", "Bring data/ up to date with its source.", run_name="data")
def update_data() -> Reproduced:
    """Reproduces data.dvc. A stage alone (`--single-item`) never looks at the source, so this comes first."""
    return reproduce(DATA)


def reproduce(target: str, force: bool = False, on_line: Callable[[str], None] | None = None) -> Reproduced:
    """Runs `dvc repro --single-item target`, its output line by line in the run's log; StageError if it fails.

    on_line: is called with each line as well, as it comes.
    """
    start = time.perf_counter()
    record = layout.RUNS / f"{target}.json"
    before = _stamp(record)
    logger = get_run_logger()

    def log_line(line: str) -> None:
        logger.info("%s", line)
        if on_line:
            on_line(line)

    code, lines = stream(command(target, force), log_line)
    if code != 0:
        raise failure(target, code, lines, record if _stamp(record) != before else None)
    ran = any(line.startswith((f"Running stage '{target}'", "Importing '")) for line in lines)
    return Reproduced(target, ran, round(time.perf_counter() - start, 2))


def command(target: str, force: bool) -> list[str]:
    """DVC of this environment, whether or not it is activated."""
    return [str(bin_of() / "dvc"), "repro", "--single-item", *["--force"] * force, target]


def failure(target: str, code: int, lines: list[str], record: Path | None) -> StageError:
    """The error behind a failed `dvc repro`. DVC's own exit code says nothing: it is 255 for everything.

    record: runs/<stage>.json if this very run wrote it, else None.
    """
    run_record = files.read_json(record) if record else {}
    if run_record.get("status") == "failed":
        return StageError(run_record["error"], run_record["exit_code"], began=True)
    text = "\n".join(lines)
    ended = re.search(r"exited with (-?\d+)", text)
    if code < 0 or (ended[1] in _KILLED if ended else run_record.get("status") == "running"):
        return StageError(
            f"{target} was killed before it could say why, most often for lack of memory. "
            "Run it again, with more memory if it happens again.",
            exit_code=137,
            began=record is not None,
            may_pass=True,
        )
    return StageError(
        message(lines) or f"`dvc repro {target}` failed with exit code {code} and said nothing",
        exit_code=int(ended[1]) if ended else 1,
        began=record is not None,
        may_pass=bool(PASSING.search(text)),
    )


def message(lines: list[str]) -> str:
    """The error in some output: of a command that failed before its work began ("befriend: ..."), else DVC's."""
    for k, line in enumerate(lines):
        if line.startswith("befriend: "):
            end = next((j for j in range(k, len(lines)) if lines[j].startswith("ERROR: ")), len(lines))
            return "\n".join([line.removeprefix("befriend: "), *lines[k + 1 : end]])
    first = next((k for k, line in enumerate(lines) if line.startswith("ERROR: ")), len(lines))
    return "\n".join(line.removeprefix("ERROR: ") for line in lines[first:])


def stream(arguments: list[str], on_line: Callable[[str], None]) -> tuple[int, list[str]]:
    """Runs a command in the project's folder, calls on_line with each line of output. Returns exit code and output."""
    path = f"{bin_of()}{os.pathsep}{os.environ.get('PATH', '')}"  # stages call `befriend`
    lines = []
    with subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=os.environ | {"PATH": path, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,  # so that a cancelled run can stop DVC together with the stage under it
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.strip() and not line.startswith(_ADVICE):
                    lines.append(line.rstrip())
                    on_line(line.rstrip())
            return process.wait(), lines
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[str]) -> None:
    """Ends DVC and the stage under it if they still run: first with SIGINT, which lets a stage clean up."""
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is not None:
            return
        os.killpg(process.pid, number)
        try:
            process.wait(timeout=STOPPING)
        except subprocess.TimeoutExpired:
            continue


def bin_of() -> Path:
    return Path(sys.executable).parent


def _stamp(path: Path) -> int:
    """The time at which a file was written, in nanoseconds; 0 if there is no file."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


class _NoTraceback(logging.Filter):
    """Makes Prefect log an error with a message for a person as that message, without a traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, BefriendError):
            record.exc_info, record.exc_text = None, None
            record.msg, record.args = str(error), ()
        return True


for _name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(_NoTraceback())
