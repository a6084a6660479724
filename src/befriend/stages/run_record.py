"""Writes runs/<stage>.json: what differs between equal runs of a stage (times, host, versions), and how the last ended.

It is not a DVC output. It holds the exit code of a failure, as DVC turns every failure into the same one.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
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


def record_run(stage: str, runs: Path, work: Callable[[], T]) -> T:
    """Runs `work`, and records when, where, with which versions it ran and how it ended.

    Returns its result. A failure of the operating system is raised as a BefriendError.
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
        result = work()
    except BaseException as error:
        explained = explain(error)
        code, message = (explained.exit_code, str(explained)) if explained else (70, repr(error))
        if isinstance(error, KeyboardInterrupt):
            code, message = STOPPED, f"stopped by Ctrl-C{f' at {current_progress()}' if current_progress() else ''}"
        record |= {"status": "failed", "exit_code": code, "error": message}
        _close(path, record, start)
        if explained is None or explained is error:
            raise
        raise explained from error
    record |= {"status": "done", "exit_code": 0, "error": None, "summary": result.summary()}
    record |= getattr(result, "measurements", {})
    _close(path, record, start)
    return result


def _close(path: Path, record: dict[str, Any], start: float) -> None:
    """Adds the end and the duration to the record, and writes it."""
    record |= {"ended": _now(), "seconds": round(time.perf_counter() - start, 2)}
    try:
        files.write_json(path, record)
    except OSError as error:  # a full disk must not hide the result or error of the stage
        print(f"befriend: {path} could not be written: {error}", file=sys.stderr)


def _revision() -> str | None:
    """The commit of the code, with a plus if files differ from it; None outside a git checkout."""
    git = ["git", "describe", "--always", "--dirty=+", "--abbrev=10", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
