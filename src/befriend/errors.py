"""Every error a user can cause or fix, with the exit code it ends a command with.

    BefriendError
    ├── CallError            2   the call was wrong
    │   ├── SettingsError    2   params.yaml or --set holds an unknown or impossible setting
    │   └── SourceError      2   the event log is not there, or may not be read
    ├── DataError            1   the data is not what it was said to be, or failed a check
    ├── StorageError         1   a file could not be read or written: disk full, no permission
    ├── NetworkError         1   another machine could not be reached
    └── BusyError            1   somebody else is running stages here

A message says what is wrong, where, what was found, what is allowed, and what to do next.
"""

from __future__ import annotations

import errno
import re
import socket

__all__ = [
    "STOPPED",
    "BefriendError",
    "BusyError",
    "CallError",
    "DataError",
    "NetworkError",
    "SettingsError",
    "SourceError",
    "StorageError",
    "explain",
]


STOPPED = 130  # the exit code of a command that Ctrl-C ended


class BefriendError(Exception):
    """An error with a message for a person. `exit_code` is what the command line returns for it."""

    exit_code = 1


class CallError(BefriendError):
    exit_code = 2


class SettingsError(CallError):
    pass


class SourceError(CallError):
    pass


class DataError(BefriendError):
    pass


class StorageError(BefriendError):
    pass


class NetworkError(BefriendError):
    pass


class BusyError(BefriendError):
    pass


_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "the disk reports an error",
}
_FILE = {
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.ENOENT: "there is no such file or folder",
}
_NETWORK = {
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.ECONNABORTED,
    errno.ETIMEDOUT,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
}
_WRAP = ("polars", "pyarrow", "safetensors")
"""packages whose own errors hold no more than the text of the system's"""


def explain(error: BaseException) -> BefriendError | None:
    """The BefriendError that a failure of the operating system amounts to; None for a defect of our own."""
    if isinstance(error, BefriendError):
        return error
    code, wrapped = _code(error)
    if isinstance(error, socket.gaierror) or code in _NETWORK:
        return NetworkError(
            f"another machine could not be reached: {error}\n"
            "Check its address and the network, then run the same command again."
        )
    name = getattr(error, "filename", None)
    if code is None or not (name or wrapped or code in _DISK):
        return None
    what = (_DISK | _FILE).get(code, "a file could not be read or written")
    where = name or next(reversed(getattr(error, "__notes__", [])), None)  # `files.atomic` notes what it writes
    return StorageError(f"{what}{f' ({where})' if where else ''}: {error}\nMend that, then run the same command again.")


def _code(error: BaseException) -> tuple[int | None, bool]:
    """The number of the system's error, None where it is none, and whether it was read from a text about a file."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno, False
    if isinstance(error, (OSError, RuntimeError)) or type(error).__module__.split(".")[0] in _WRAP:
        found = re.search(r"\(os error (\d+)\)|(No space left on device)", str(error))
        if found:
            return int(found[1] or errno.ENOSPC), True
    return None, False
