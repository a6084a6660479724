"""Writes runs/<stage>.json: time, host, versions and outcome of the last run of a stage.

These differ between runs with equal outputs, so the file is not a DVC output. It has the exit code of a failed stage,
since DVC ends with the same code after every failure.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, TypeVar

from befriend import files
from befriend.errors import STOPPED, explain
from befriend.progress import current_progress


class Result(Protocol):
    """What a stage returns. It may also have `measurements`, a dict of values that differ from run to run."""

    def summary(self) -> str: ...


T = TypeVar("T", bound=Result)
PACKAGES = ("befriend", "numpy", "polars", "torch")
FAULT = 70  # the exit code after an error that no user can mend, EX_SOFTWARE of sysexits.h


def record_run(stage: str, runs: Path, run_stage: Callable[[], T]) -> T:
    """Runs a stage and returns its result; writes <stage>.json in the folder `runs`, at the start and at the end.

    A failure of a file or the network is raised as a BefriendError.
    """
    record: dict[str, Any] = {
        "stage": stage,
        "status": "running",
        "started": _now(),
        "process": os.getpid(),
        "command": sys.argv,
        "revision": _revision(),
        "host": platform.node(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }
    path = runs / f"{stage}.json"
    start = time.perf_counter()
    try:
        files.write_json(path, record)
        result = run_stage()
    except BaseException as error:
        explained = explain(error)
        if explained:
            code, message = explained.exit_code, str(explained)
        elif isinstance(error, KeyboardInterrupt):
            code, message = STOPPED, f"stopped by Ctrl-C{f' at {current_progress()}' if current_progress() else ''}"
        else:
            code, message = FAULT, f"{error!r}, a fault of befriend. Please report it; {path} has the traceback."
            record["traceback"] = traceback.format_exc()
        record |= {"status": "failed", "exit_code": code, "error": message}
        _write_end(path, record, start)
        if explained is None or explained is error:
            raise
        raise explained from error
    record |= {"status": "done", "exit_code": 0, "error": None, "summary": result.summary()}
    record |= getattr(result, "measurements", {})
    _write_end(path, record, start)
    return result


def _write_end(path: Path, record: dict[str, Any], start: float) -> None:
    """Adds the end time and the duration since `start`, in seconds of `time.perf_counter`, and writes the record."""
    record |= {"ended": _now(), "seconds": round(time.perf_counter() - start, 2)}
    try:
        files.write_json(path, record)
    except OSError as error:  # a full disk must not hide the result or error of the stage
        print(f"befriend: {path} could not be written: {error}", file=sys.stderr)


def _revision() -> str | None:
    """The git commit of the code, with a plus if files differ from it; None outside a git repository."""
    git = ["git", "describe", "--always", "--dirty=+", "--abbrev=10", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
