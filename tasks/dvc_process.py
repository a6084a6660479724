"""Runs `dvc repro` for one stage as a process, and turns a failure into an error. Without Prefect."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from befriend import files, layout
from befriend.errors import BefriendError, KilledError

DATA = "data.dvc"
STOP_TIMEOUT = 15  # seconds in which a stage may end by itself when its run is cancelled

# messages of DVC that need no change of the project: another process works in it, or a remote source is down
TRANSIENT_FAILURE = re.compile(
    r"Unable to acquire lock|is busy, it is being blocked by|Cannot connect to host|timed out|"
    r"Connection reset|Temporary failure in name resolution"
)
# beginnings of lines that DVC prints for interactive use, which are not logged
_ADVICE_LINES = (
    "To track the changes with git",
    "\tgit add",
    "To enable auto staging",
    "\tdvc config",
    "Use `dvc push`",
    "Data and pipelines are up",
)
_KILL_EXIT_CODES = ("-9", "-15", "137", "143")  # of a stage that got SIGKILL or SIGTERM


@dataclass(frozen=True)
class StageOutcome:
    """The result of bringing a stage up to date."""

    stage: str
    ran: bool
    """DVC ran the stage; False: its outputs were up to date or in DVC's cache"""
    seconds: float


class StageError(BefriendError):
    """A stage, or another command of a task, failed. The message is that of the stage, if it left one.

    exit_code: exit code of the stage, 137 if it was killed, 1 if DVC itself failed; began: the stage was started, so
    files in reports/ may be from this run; is_transient: the same command may succeed later without any change.
    """

    def __init__(self, message: str, exit_code: int = 1, began: bool = False, is_transient: bool = False) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.began = began
        self.is_transient = is_transient


def bring_up_to_date(
    target: str, force: bool, on_line: Callable[[str], None], own_session: bool = True
) -> StageOutcome:
    """Runs `dvc repro --single-item target`. StageError if it fails.

    force: run the stage also if nothing changed; on_line: is called with each line of output; own_session: as in
    `run_streaming`.
    """
    start = time.perf_counter()
    record = layout.RUNS / f"{target}.json"
    before = modified_ns(record)
    # Stages may run at the same time: each DVC waits for the other to read or write dvc.lock.
    command = [str(environment_bin() / "dvc"), "--wait-for-lock", "repro", "--single-item"]
    code, lines = run_streaming([*command, *["--force"] * force, target], on_line, own_session)
    if code != 0:
        raise stage_error(target, code, lines, record if modified_ns(record) != before else None)
    ran = any(line.startswith((f"Running stage '{target}'", "Importing '")) for line in lines)
    return StageOutcome(target, ran, round(time.perf_counter() - start, 2))


def changed_stages() -> set[str]:
    """The stages, and the import of the log, whose inputs or outputs differ from dvc.lock, by `dvc status`."""
    status = subprocess.run([str(environment_bin() / "dvc"), "status", "--json"], capture_output=True, text=True)
    if status.returncode != 0:
        raise StageError(f"`dvc status` failed: {error_message(status.stderr.splitlines()) or status.stderr.strip()}")
    return set(json.loads(status.stdout.splitlines()[-1]))


def stage_error(target: str, code: int, lines: list[str], record: Path | None) -> StageError:
    """The StageError for a failed `dvc repro`.

    code: exit code of DVC, the same for all failures of stages, negative if a signal ended it; lines: its output;
    record: path of runs/<stage>.json, in which a stage notes its status, if this run wrote it, else None.
    """
    run_record = files.read_json(record) if record else {}
    if run_record.get("status") == "failed":
        is_killed = run_record["exit_code"] == KilledError.exit_code
        return StageError(run_record["error"], run_record["exit_code"], began=True, is_transient=is_killed)
    text = "\n".join(lines)
    ended = re.search(r"exited with (-?\d+)", text)
    if code < 0 or (ended[1] in _KILL_EXIT_CODES if ended else run_record.get("status") == "running"):
        return StageError(
            f"{target} was killed, most often for lack of memory. Run it again, with more memory if it happens again.",
            exit_code=137,
            began=record is not None,
            is_transient=True,
        )
    blocked = re.search(r"is busy, it is being blocked by:\s+\(PID (\d+)\): (.+)", text)
    blocked_message = blocked and (
        f"{target} has to wait: another DVC command uses its files, process {blocked[1]}: {blocked[2]}. Wait for it to "
        "end, or stop it, then run this again. A flow tries it again by itself."
    )
    return StageError(
        blocked_message
        or error_message(lines)
        or f"`dvc repro {target}` failed with exit code {code} and without a message",
        exit_code=int(ended[1]) if ended else 1,
        began=record is not None,
        is_transient=bool(TRANSIENT_FAILURE.search(text)),
    )


def error_message(lines: list[str]) -> str:
    """The error message in the output of a command: that of befriend ("befriend: ..."), else that of DVC; or empty."""
    for k, line in enumerate(lines):
        if line.startswith("befriend: "):
            end = next((j for j in range(k, len(lines)) if lines[j].startswith("ERROR: ")), len(lines))
            return "\n".join([line.removeprefix("befriend: "), *lines[k + 1 : end]])
    first = next((k for k, line in enumerate(lines) if line.startswith("ERROR: ")), len(lines))
    return "\n".join(line.removeprefix("ERROR: ") for line in lines[first:])


def run_streaming(
    arguments: list[str], on_line: Callable[[str], None], own_session: bool = True
) -> tuple[int, list[str]]:
    """Runs a command, and calls on_line with each line of its output. Returns its exit code and the lines.

    Leaves out blank lines, and advice of DVC for interactive use. own_session: start a session, so that a cancelled run
    can stop the command together with all that it started; False: the command gets the Ctrl-C of this terminal itself.
    """
    path = f"{environment_bin()}{os.pathsep}{os.environ.get('PATH', '')}"  # stages call `befriend`
    lines = []
    with subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=os.environ | {"PATH": path, "PYTHONUNBUFFERED": "1"},
        start_new_session=own_session,
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.strip() and not line.startswith(_ADVICE_LINES):
                    lines.append(line.rstrip())
                    on_line(line.rstrip())
            return process.wait(), lines
        finally:
            if own_session:
                _stop(process)


def _stop(process: subprocess.Popen[str]) -> None:
    """Ends a command and what it started: first with SIGINT, so that a stage can clean up, then with SIGKILL."""
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is not None:
            return
        os.killpg(process.pid, number)
        try:
            process.wait(timeout=STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            continue


def environment_bin() -> Path:
    """The folder of the programs of this Python environment."""
    return Path(sys.executable).parent


def modified_ns(path: Path) -> int:
    """The time at which a file was written, in nanoseconds; 0 if there is no file."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
