"""Files: atomic writes, canonical JSON, digests, and the locks of folders and of the process that runs stages."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import glob
import hashlib
import json
import os
import secrets
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from befriend.errors import BusyError

LOCK_VARIABLE = "BEFRIEND_LOCK_HOLDER"
LOCK, NEW, OLD = "lock", "new", "old"
"""in the temporary folder of a writer: its lock, the new version, and the old one until the new one replaces it"""


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary path for a file or a folder, and moves it to `path` when the block ends without an error.

    At any time, and however the process ends, `path` is complete: the old version or the new one. The temporary path is
    in a folder `.<name>.*.tmp` next to `path`, locked while its writer runs; `recover` removes those of killed writers.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    recover(path)
    work, lock = _new_work_folder(path)
    try:
        temporary = work / NEW / path.name
        temporary.parent.mkdir()
        yield temporary
        if temporary.is_dir():
            for file in sorted(temporary.rglob("*")):
                if file.is_file():
                    _fsync(file)
        _fsync(temporary)
        if temporary.is_dir() and os.path.lexists(path):
            _swap(temporary, path, work / OLD / path.name)
        else:
            temporary.replace(path)
        _fsync(path.parent)
    except Exception as error:
        error.add_note(f"while {path} was written")
        raise
    finally:
        lock.close()
        _sweep(work, path.name)


def _new_work_folder(path: Path) -> tuple[Path, TextIO]:
    """Makes a temporary folder to write `path` in; returns it and its lock."""
    while True:
        work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        with contextlib.suppress(FileNotFoundError):
            lock = _try_lock(work / LOCK)
            if lock is not None:
                return work, lock
        # another process's `recover` removed it before it was locked, as if a killed writer had left it


def _swap(new: Path, path: Path, aside: Path) -> None:
    """Exchanges the folders at `new` and `path`; `aside` is where the old one waits if that takes several steps."""
    if _exchange(new, path):
        return
    aside.parent.mkdir()
    path.rename(aside)  # from here on `_sweep` puts it back, unless the new one has replaced it
    new.rename(path)
    aside.rename(new)


def _exchange(first: Path, second: Path) -> bool:
    """Exchanges two paths in one step; False if that is not possible. Linux can do it on most file systems."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    at_fdcwd, rename_exchange = -100, 2  # constants of the Linux headers
    return bool(renameat2(at_fdcwd, os.fsencode(first), at_fdcwd, os.fsencode(second), rename_exchange) == 0)


def recover(path: Path) -> None:
    """Cleans up after killed writers of `path`: puts the old version back if the new one has not replaced it yet."""
    for work in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if work.is_dir():
            _sweep(work, path.name)
        else:
            remove(work)


def _sweep(work: Path, name: str) -> None:
    """Removes the temporary folder of a writer, unless a running process, here or in another container, locks it."""
    with contextlib.suppress(FileNotFoundError):  # another process has just removed it
        lock = _try_lock(work / LOCK)
        if lock is None:
            return
        with lock:
            for old in (work / OLD).glob("*"):
                if not os.path.lexists(work.parent / old.name):
                    old.rename(work.parent / old.name)
            renamed = _rename_for_removal(work, name)
        remove(renamed)


def _rename_for_removal(folder: Path, name: str) -> Path:
    """Renames a folder whose lock is held, so that no other process can take the lock; returns the new path.

    The caller removes it after it has closed the lock, as NFS keeps open files in their folder. If the caller is killed
    before that, `recover` of `name` removes it.
    """
    return folder.rename(folder.with_name(f".{name}.{secrets.token_hex(4)}.tmp"))


def _try_lock(path: Path) -> TextIO | None:
    """Takes an exclusive lock on the file `path` until it is closed; None if another process holds it.

    The kernel drops the lock when its holder dies, so there are no stale locks to clean up.
    """
    while True:
        handle = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.close()
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle.fileno()), path.stat()):
                return handle
        handle.close()  # the previous holder removed it together with its folder


def remove(path: Path) -> None:
    """Removes a file, a link or a folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def to_json(value: Any) -> str:
    """Canonical JSON: sorted keys and a fixed layout, so that equal values give equal bytes. Refuses NaN."""
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
def folder_lock(folder: Path, problem: str) -> Iterator[None]:
    """Holds a folder exclusively; if another process does, BusyError with the text `problem` and that process.

    Makes the folder if it does not exist, and removes it at the end if it holds nothing but the lock.
    """
    recover(folder)
    handle = _make_folder_and_try_lock(folder / LOCK)
    if handle is None:
        raise _busy(folder / LOCK, problem)
    with contextlib.ExitStack() as after_unlock, handle:
        _sign(handle)
        try:
            yield
        finally:
            if folder.is_dir() and [path.name for path in folder.iterdir()] == [LOCK]:
                after_unlock.callback(remove, _rename_for_removal(folder, folder.name))


def _make_folder_and_try_lock(path: Path) -> TextIO | None:
    """`_try_lock`, after making the folder if it does not exist."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # the previous holder has just removed the folder
            return _try_lock(path)


def _sign(handle: TextIO, *more_lines: str) -> None:
    """Writes the process that holds a lock into the lock file, and more lines if there are any."""
    handle.truncate(0)
    process = f"process {os.getpid()}: {' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])}"
    handle.write("\n".join([process.replace("\n", " "), *more_lines, ""]))
    handle.flush()


def _busy(path: Path, problem: str, suffix: str = "") -> BusyError:
    """The error of a lock file that another process holds."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    holder = lines[0] if lines else "a process that just started"
    return BusyError(f"{problem}, by {holder}{suffix}. Wait for it to end, or stop it, then run the command again.")


_holder_threads: dict[Path, int] = {}
"""lock file -> the thread of this process in which stages run"""
_entry_lock = threading.Lock()


@contextmanager
def stage_lock(path: Path) -> Iterator[None]:
    """Holds the project's stage lock while stages run; BusyError names the holder if another process does.

    The thread that holds it may take it again. So may commands that the holder starts (a flow starts `dvc`, which
    starts a stage): they share the lock, which is free once the last of them has ended. They are recognised by a random
    key, which the holder writes into the lock file and passes on in the environment variable LOCK_VARIABLE.
    """
    lock = path.resolve()
    if _holder_threads.get(lock) == threading.get_ident():
        yield
        return
    with _entry_lock:
        handle, key = _share_stage_lock(lock)
        _holder_threads[lock] = threading.get_ident()
        os.environ[LOCK_VARIABLE] = " ".join([*_inherited_keys(), key])
    try:
        yield
    finally:
        with _entry_lock, handle:
            del _holder_threads[lock]
            keys = _inherited_keys()
            if key in keys:
                keys.remove(
                    key
                )  # one occurrence: a process that the holder started had the key in its environment before
            os.environ[LOCK_VARIABLE] = " ".join(keys)


def _inherited_keys() -> list[str]:
    """Keys of the locks that this process or the processes that started it hold."""
    return os.environ.get(LOCK_VARIABLE, "").split()


def _share_stage_lock(lock: Path) -> tuple[TextIO, str]:
    """Takes the lock, or joins the process that started this one; returns the open lock file and the lock's key."""
    message = "stages are being run here already", ", or by a process that it started"
    if lock in _holder_threads:
        raise _busy(lock, *message)
    handle = _make_folder_and_try_lock(lock)
    if handle is not None:
        keys = [secrets.token_hex(8)]
        _sign(handle, *keys)
    else:
        keys = _inherited_keys()
        handle = lock.open("a+", encoding="utf-8")
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        handle.seek(0)
        # between the exclusive and the shared lock another process may have taken it
        last_line = handle.read().splitlines()[-1:]
        if last_line and last_line[0] in keys:
            return handle, last_line[0]
    handle.close()
    raise _busy(lock, *message)
