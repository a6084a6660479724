"""Files: atomic writes, canonical JSON, digests, and the lock of whoever runs stages."""

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
"""in the folder of a writer: its lock, what it writes, and what was there before, until the new one is in its place"""


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` for a file or a folder, and puts it in its place once it is complete.

    At every moment, however the process ends, `path` is whole: as it was before, or new. The temporary path lies in a
    folder `.<name>.*.tmp`, which is locked as long as its writer runs; what a killed one left goes (`recover`).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    recover(path)
    work, lock = _work(path)
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


def _work(path: Path) -> tuple[Path, TextIO]:
    """A new folder to write `path` in, and its lock."""
    while True:
        work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        with contextlib.suppress(FileNotFoundError):
            lock = _taken(work / LOCK)
            if lock is not None:
                return work, lock
        # somebody's `recover` took it for one that a killed writer left, before it was locked


def _swap(new: Path, path: Path, aside: Path) -> None:
    """Puts a folder in the place of what is at `path`, and that at `new`."""
    if _exchange(new, path):
        return
    aside.parent.mkdir()
    path.rename(aside)  # from here `_sweep` puts it back, unless the new one takes its place
    new.rename(path)
    aside.rename(new)


def _exchange(one: Path, other: Path) -> bool:
    """Whether two paths changed places in one step. Linux can, on most file systems."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def recover(path: Path) -> None:
    """Mends what killed writers of `path` left beside it: what was there returns if nothing took its place yet."""
    for work in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if work.is_dir():
            _sweep(work, path.name)
        else:
            remove(work)


def _sweep(work: Path, name: str) -> None:
    """Removes the folder of a writer, unless one that runs, here or in another container, holds its lock."""
    with contextlib.suppress(FileNotFoundError):  # somebody else has just removed it
        lock = _taken(work / LOCK)
        if lock is None:
            return
        with lock:
            for former in (work / OLD).glob("*"):
                if not os.path.lexists(work.parent / former.name):
                    former.rename(work.parent / former.name)
            doomed = _doomed(work, name)
        remove(doomed)


def _doomed(folder: Path, name: str) -> Path:
    """Renames a folder whose lock is held, so that nobody takes the lock any more; `recover` of `name` would find it.

    It is to be removed once the lock is closed: NFS keeps files that are open in their folder.
    """
    return folder.rename(folder.with_name(f".{name}.{secrets.token_hex(4)}.tmp"))


def _taken(path: Path) -> TextIO | None:
    """The lock file `path`, for its holder alone until it is closed; None where somebody else has it.

    The kernel drops the lock when its holder dies, so there is no stale lock to clean up.
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
        handle.close()  # the former holder removed it together with the folder it lay in


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
def held(folder: Path, what: str) -> Iterator[None]:
    """Holds a folder alone; BusyError, `what` and the name of the holder, if somebody else does.

    It is made if it is not there, and goes if in the end nothing but its lock is left in it.
    """
    recover(folder)
    handle = _opened(folder / LOCK)
    if handle is None:
        raise _busy(folder / LOCK, what)
    with contextlib.ExitStack() as then, handle:
        _sign(handle)
        try:
            yield
        finally:
            if folder.is_dir() and [path.name for path in folder.iterdir()] == [LOCK]:
                then.callback(remove, _doomed(folder, folder.name))


def _opened(path: Path) -> TextIO | None:
    """`_taken`, in a folder that is made if it is not there."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # the former holder removed the folder just now
            return _taken(path)


def _sign(handle: TextIO, *more: str) -> None:
    """Writes into a lock file who holds it, and lines for those who read it."""
    handle.truncate(0)
    process = f"process {os.getpid()}: {' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])}"
    handle.write("\n".join([process.replace("\n", " "), *more, ""]))
    handle.flush()


def _busy(path: Path, what: str, more: str = "") -> BusyError:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    holder = lines[0] if lines else "a process that just started"
    return BusyError(f"{what}, by {holder}{more}. Wait for it to end, or stop it, then run the command again.")


_inside: dict[Path, int] = {}
"""lock file -> the thread of this process in which stages run"""
_entering = threading.Lock()


@contextmanager
def stage_lock(path: Path) -> Iterator[None]:
    """Holds the project's one lock while stages run; BusyError names the holder if somebody else does.

    The thread that holds it may take it again. A command that the holder itself starts (a flow starts `dvc`, which
    starts a stage) comes in too: it shares the lock, which is free once the last of them has ended.
    """
    lock = path.resolve()
    if _inside.get(lock) == threading.get_ident():
        yield
        return
    with _entering:
        handle, word = _entered(lock)
        _inside[lock] = threading.get_ident()
        os.environ[LOCK_VARIABLE] = " ".join([*_words(), word])
    try:
        yield
    finally:
        with _entering, handle:
            del _inside[lock]
            words = _words()
            if word in words:
                words.remove(word)  # once: who was started by the holder was told it before
            os.environ[LOCK_VARIABLE] = " ".join(words)


def _words() -> list[str]:
    """By which those who hold a lock know whom they started."""
    return os.environ.get(LOCK_VARIABLE, "").split()


def _entered(lock: Path) -> tuple[TextIO, str]:
    """The lock file, shared with whomever this process starts, and the word by which they are known."""
    busy = "stages are being run here already", ", or by what it started"
    if lock in _inside:
        raise _busy(lock, *busy)
    handle = _opened(lock)
    if handle is not None:
        words = [secrets.token_hex(8)]
        _sign(handle, *words)
    else:
        words = _words()
        handle = lock.open("a+", encoding="utf-8")
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        handle.seek(0)
        held_by = handle.read().splitlines()[-1:]  # between the two kinds of lock somebody else may have taken it
        if held_by and held_by[0] in words:
            return handle, held_by[0]
    handle.close()
    raise _busy(lock, *busy)
