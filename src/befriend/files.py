"""Atomic writes, canonical JSON, digests, and locks between processes."""

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

from befriend.errors import BusyError, DamagedFileError

LOCK_VARIABLE = "BEFRIEND_LOCK_HOLDER"
"""environment variable with the keys of held stage locks, see `stage_lock`"""
LOCK_FILE, NEW_FOLDER, OLD_FOLDER = "lock", "new", "old"
"""names in the temporary folder of a writer: its lock, the new version, and the old version while it is replaced"""


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary path for a file or a folder, and moves it to `path` when the block ends without an error.

    However the process ends, what is at `path` is complete: the old version or the new one. Only where a file system
    cannot exchange two folders in one step, a killed writer may leave nothing at `path`: then `recover` moves the old
    version back. The temporary path lies in a folder `.<name>.*.tmp` next to `path`, which is locked while its writer
    runs. `recover` removes the folders of killed writers.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    recover(path)
    work_folder, lock = _make_work_folder(path)
    try:
        temporary = work_folder / NEW_FOLDER / path.name
        temporary.parent.mkdir()
        yield temporary
        if temporary.is_dir():
            for file in sorted(temporary.rglob("*")):
                if file.is_file():
                    _fsync(file)
        _fsync(temporary)
        if temporary.is_dir() and os.path.lexists(path):
            _exchange(temporary, path, work_folder / OLD_FOLDER / path.name)
        else:
            temporary.replace(path)
        _fsync(path.parent)
    except Exception as error:
        error.add_note(f"while {path} was written")
        raise
    finally:
        lock.close()
        _clean_up_work_folder(work_folder, path.name)


def _make_work_folder(path: Path) -> tuple[Path, TextIO]:
    """Makes a temporary folder to write `path` in; returns it and its lock."""
    while True:
        work_folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        with contextlib.suppress(FileNotFoundError):
            lock = _try_lock(work_folder / LOCK_FILE)
            if lock is not None:
                return work_folder, lock
        # `recover` in another process removed the folder before it was locked. Try again.


def _exchange(new: Path, path: Path, old_path: Path) -> None:
    """Exchanges the folders `new` and `path`; if that takes several steps, the old one is at `old_path` in between."""
    if _exchange_atomically(new, path):
        return
    old_path.parent.mkdir()
    path.rename(old_path)  # from here on, `recover` moves it back if the process is killed before the next step
    new.rename(path)
    old_path.rename(new)


def _exchange_atomically(first: Path, second: Path) -> bool:
    """Exchanges two paths in one step, which Linux can do on most file systems; returns False if it is not possible."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    at_fdcwd, rename_exchange = -100, 2  # constants of the Linux headers
    return bool(renameat2(at_fdcwd, os.fsencode(first), at_fdcwd, os.fsencode(second), rename_exchange) == 0)


def recover(path: Path) -> None:
    """Removes what killed writers of `path` left; moves the old version back if the new one has not replaced it."""
    for work_folder in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if work_folder.is_dir():
            _clean_up_work_folder(work_folder, path.name)
        else:
            remove(work_folder)


def _clean_up_work_folder(work_folder: Path, name: str) -> None:
    """Removes the temporary folder of a writer, unless a running process holds its lock, here or in another container.

    Moves an old version in it back to its path, if there is nothing at that path. name: of the file or folder written.
    """
    with contextlib.suppress(FileNotFoundError):  # if another process has just removed it
        lock = _try_lock(work_folder / LOCK_FILE)
        if lock is None:
            return
        with lock:
            for old in (work_folder / OLD_FOLDER).glob("*"):
                if not os.path.lexists(work_folder.parent / old.name):
                    old.rename(work_folder.parent / old.name)
            renamed = _rename_for_removal(work_folder, name)
        remove(renamed)


def _rename_for_removal(folder: Path, name: str) -> Path:
    """Renames a folder whose lock the caller holds, so that no other process can take the lock; returns the new path.

    The caller removes the folder after it has closed the lock, since NFS keeps open files in their folder. If the
    caller is killed before that, `recover` removes it. name: of the file or folder that `recover` gets.
    """
    return folder.rename(folder.with_name(f".{name}.{secrets.token_hex(4)}.tmp"))


def _try_lock(path: Path) -> TextIO | None:
    """Opens the file `path` and locks it until it is closed; None if another process or thread holds the lock.

    The kernel releases the lock when its holder ends, so there are no stale locks.
    """
    while True:
        lock_file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock_file.close()
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock_file.fileno()), path.stat()):
                return lock_file
        lock_file.close()  # the previous holder removed it together with its folder


def remove(path: Path) -> None:
    """Removes a file, a link or a folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def to_json(value: Any) -> str:
    """Canonical JSON: sorted keys and a fixed layout, so that equal values give equal bytes. ValueError for NaN."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Writes a text file, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes a value as canonical JSON, atomically."""
    write_text(path, to_json(value))


def read_json(path: Path) -> Any:
    """The value in a JSON file. DamagedFileError if it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedFileError(f"{path} is damaged ({error}). Restore it, or remove it and run `make run`.") from None


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def folder_lock(folder: Path, problem: str) -> Iterator[None]:
    """Holds an exclusive lock on a folder; BusyError with the text `problem` and the holder if another process has it.

    Creates the folder if it does not exist, and removes it at the end if it contains only the lock file.
    """
    recover(folder)
    lock_file = _make_folder_and_try_lock(folder / LOCK_FILE)
    if lock_file is None:
        raise _busy_error(folder / LOCK_FILE, problem)
    with contextlib.ExitStack() as after_unlock, lock_file:
        _write_holder(lock_file)
        try:
            yield
        finally:
            if folder.is_dir() and [path.name for path in folder.iterdir()] == [LOCK_FILE]:
                after_unlock.callback(remove, _rename_for_removal(folder, folder.name))


def _make_folder_and_try_lock(path: Path) -> TextIO | None:
    """As `_try_lock`; creates the folder of `path` first if it does not exist."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # if the previous holder has just removed the folder
            return _try_lock(path)


def _write_holder(lock_file: TextIO, *more_lines: str) -> None:
    """Writes this process, which holds the lock, into the lock file, followed by more lines."""
    lock_file.truncate(0)
    process = f"process {os.getpid()}: {' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])}"
    lock_file.write("\n".join([process.replace("\n", " "), *more_lines, ""]))
    lock_file.flush()


def _busy_error(path: Path, problem: str, suffix: str = "") -> BusyError:
    """The error for a lock that another process holds. path: the lock file; problem: what cannot be done now."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    holder = lines[0] if lines else "a process that just started"
    return BusyError(f"{problem}, by {holder}{suffix}. Wait for it to end, or stop it, then run the command again.")


_holder_threads: dict[Path, int] = {}
"""lock file -> the thread of this process that holds the stage lock"""
_entry_lock = threading.Lock()


@contextmanager
def stage_lock(path: Path) -> Iterator[None]:
    """Holds the stage lock of a project while stages run; BusyError names the holder if it is held elsewhere.

    path: the lock file.

    The thread that holds the lock may take it again. So may processes that the holder starts (a flow starts `dvc`,
    which starts a stage): they share the lock, which is free when the last of them has ended. They prove it with a
    random key, which the holder writes into the lock file and passes on in the environment variable LOCK_VARIABLE.
    """
    lock = path.resolve()
    if _holder_threads.get(lock) == threading.get_ident():
        yield
        return
    with _entry_lock:
        lock_file, key = _share_stage_lock(lock)
        _holder_threads[lock] = threading.get_ident()
        os.environ[LOCK_VARIABLE] = " ".join([*_inherited_keys(), key])
    try:
        yield
    finally:
        with _entry_lock, lock_file:
            del _holder_threads[lock]
            keys = _inherited_keys()
            if key in keys:
                keys.remove(key)  # only one: a process that the holder started has another one from its parent
            os.environ[LOCK_VARIABLE] = " ".join(keys)


def _inherited_keys() -> list[str]:
    """The keys of the locks that this process or its parent processes hold."""
    return os.environ.get(LOCK_VARIABLE, "").split()


def _share_stage_lock(lock: Path) -> tuple[TextIO, str]:
    """Takes the lock, or shares that of a parent process; returns the open lock file and the key of the lock."""
    message = "stages are being run here already", ", or by a process that it started"
    if lock in _holder_threads:
        raise _busy_error(lock, *message)
    lock_file = _make_folder_and_try_lock(lock)
    if lock_file is not None:
        keys = [secrets.token_hex(8)]
        _write_holder(lock_file, *keys)
    else:
        keys = _inherited_keys()
        lock_file = lock.open("a+", encoding="utf-8")
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(lock_file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        lock_file.seek(0)
        # The key shows whether another process took the lock between the exclusive and the shared one.
        last_line = lock_file.read().splitlines()[-1:]
        if last_line and last_line[0] in keys:
            return lock_file, last_line[0]
    lock_file.close()
    raise _busy_error(lock, *message)
