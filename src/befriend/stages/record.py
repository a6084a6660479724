"""runs/<stage>.json: what differs between two equal runs of a stage, and how the last one ended.

Kept outside DVC, which turns every failure into the same exit code.
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
from befriend.progress import standing


class Result(Protocol):
    """What a stage returns; `measurements`, a dict, where it has some that no two runs have alike."""

    def summary(self) -> str: ...


T = TypeVar("T", bound=Result)
PACKAGES = ("befriend", "numpy", "polars", "torch")


def recorded(stage: str, runs: Path, work: Callable[[], T]) -> T:
    """Runs `work`, records when, where, with what and how it ended; a system's failure becomes a BefriendError."""
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
        known = explain(error)
        code, said = (known.exit_code, str(known)) if known else (70, repr(error))
        if isinstance(error, KeyboardInterrupt):
            code, said = STOPPED, f"stopped by Ctrl-C{f' at {standing()}' if standing() else ''}"
        record |= {"status": "failed", "exit_code": code, "error": said}
        _close(path, record, start)
        if known is None or known is error:
            raise
        raise known from error
    record |= {"status": "done", "exit_code": 0, "error": None, "summary": result.summary()}
    record |= getattr(result, "measurements", {})
    _close(path, record, start)
    return result


def _close(path: Path, record: dict[str, Any], start: float) -> None:
    record |= {"ended": _now(), "seconds": round(time.perf_counter() - start, 2)}
    try:
        files.write_json(path, record)
    except OSError as error:  # a full disk must not hide what the stage has to say
        print(f"befriend: {path} could not be written: {error}", file=sys.stderr)


def _revision() -> str | None:
    """The commit of the code, with a plus where files differ from it; None outside a git checkout."""
    git = ["git", "describe", "--always", "--dirty=+", "--abbrev=10", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
