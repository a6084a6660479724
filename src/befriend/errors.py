"""Every error that a user can cause or fix, with the exit code of the command that it ends.

    BefriendError
    ├── CallError            2   the call was wrong
    │   ├── SettingsError    2   params.yaml or --set holds an unknown or invalid setting
    │   └── SourceError      2   the event log does not exist, or may not be read
    ├── DataError            1   the data does not match its description, or failed a check
    ├── StorageError         1   a file could not be read or written: disk full, no permission
    ├── NetworkError         1   another machine could not be reached
    └── BusyError            1   another process is running stages in this project

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
    """An error with a message for the user. The command line exits with `exit_code`."""

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
_WRAPPING_PACKAGES = ("polars", "pyarrow", "safetensors")
"""packages whose own errors carry the operating system's error only as text"""


def explain(error: BaseException) -> BefriendError | None:
    """The BefriendError that describes a failure of the operating system; None for a bug in befriend."""
    if isinstance(error, BefriendError):
        return error
    code, is_from_text = _error_number(error)
    if isinstance(error, socket.gaierror) or code in _NETWORK:
        return NetworkError(
            f"another machine could not be reached: {error}\n"
            "Check its address and the network, then run the same command again."
        )
    file_name = getattr(error, "filename", None)
    if code is None or not (file_name or is_from_text or code in _DISK):
        return None
    problem = (_DISK | _FILE).get(code, "a file could not be read or written")
    # `files.atomic` adds a note that names the file it writes
    where = file_name or next(reversed(getattr(error, "__notes__", [])), None)
    return StorageError(
        f"{problem}{f' ({where})' if where else ''}: {error}\nFix this, then run the same command again."
    )


def _error_number(error: BaseException) -> tuple[int | None, bool]:
    """The operating system's error number, or None; and whether it comes from the text of another library's error."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno, False
    if isinstance(error, (OSError, RuntimeError)) or type(error).__module__.split(".")[0] in _WRAPPING_PACKAGES:
        match = re.search(r"\(os error (\d+)\)|(No space left on device)", str(error))
        if match:
            return int(match[1] or errno.ENOSPC), True
    return None, False
