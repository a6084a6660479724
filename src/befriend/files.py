"""Files: atomic writes, canonical JSON, digests, and the lock of whoever runs stages."""

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from befriend.errors import BusyError

LOCK_VARIABLE = "BEFRIEND_LOCK_HOLDER"


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` for a file or a folder, and moves it there once it is complete.

    After an error, or when the process is killed, `path` is as it was before; what a killed one left beside it goes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if not _runs(left.name.split(".")[-2]):
            remove(left)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    remove(temporary)
    try:
        yield temporary
        if temporary.is_dir():
            for file in sorted(temporary.rglob("*")):
                if file.is_file():
                    _fsync(file)
        _fsync(temporary)
        if temporary.is_dir():
            remove(path)
        temporary.replace(path)
        _fsync(path.parent)
    finally:
        remove(temporary)


def _runs(process: str) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True


def remove(path: Path) -> None:
    """Removes a file, a link or a folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def to_json(value: Any) -> str:
    """Canonical JSON: sorted keys, one layout, so that equal values are equal bytes. NaN is refused."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def write_text(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, to_json(value))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextmanager
def stage_lock(path: Path) -> Iterator[None]:
    """Holds the project's one lock while stages run; BusyError names the holder if somebody else does.

    The kernel drops the lock when its holder dies, so there is no stale lock to clean up. A command that
    the holder itself starts (a flow starts `dvc`, which starts a stage) finds the lock taken for it.
    """
    if os.environ.get(LOCK_VARIABLE):
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            raise BusyError(
                f"stages are being run here already, by {handle.read().strip() or 'a process that just started'}. "
                "Wait for it to end, or stop it, then run the command again."
            ) from None
        handle.truncate(0)
        handle.write(f"process {os.getpid()}: {' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])}\n")
        handle.flush()
        os.environ[LOCK_VARIABLE] = str(os.getpid())
        try:
            yield
        finally:
            del os.environ[LOCK_VARIABLE]
            handle.truncate(0)
