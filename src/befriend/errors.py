"""The errors that a user can cause or fix, with the exit code of the command.

    BefriendError
    ├── CallError            2   the call was wrong
    │   ├── SettingsError    2   params.yaml or --set holds an unknown or invalid setting
    │   └── SourceError      2   the event log does not exist, or may not be read
    ├── DataError            1   the data does not match its description, or failed a check
    │   └── DamagedFileError 1   a file that befriend wrote cannot be read back
    ├── StorageError         1   a file could not be read or written: disk full, no permission
    ├── NetworkError         1   another machine could not be reached
    ├── BusyError            1   another process is running stages in this project
    └── KilledError        137   a process of the command was killed, most often for lack of memory

A message says what is wrong, where, what was found, what is allowed, and what to do next.
"""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Sequence

__all__ = [
    "STOPPED",
    "BefriendError",
    "BusyError",
    "CallError",
    "DamagedFileError",
    "DataError",
    "KilledError",
    "NetworkError",
    "SettingsError",
    "SourceError",
    "StorageError",
    "explain",
    "one_of",
]


STOPPED = 130  # the exit code after Ctrl-C


class BefriendError(Exception):
    """An error with a message for the user. The command line exits with `exit_code`."""

    exit_code = 1


class CallError(BefriendError):
    """The command or its settings are wrong."""

    exit_code = 2


class SettingsError(CallError):
    """params.yaml or --set holds an unknown or invalid setting."""


class SourceError(CallError):
    """The event log does not exist, or may not be read."""


class DataError(BefriendError):
    """Data does not match its description, or failed a check."""


class DamagedFileError(DataError, ValueError):
    """A file that befriend wrote cannot be read back."""


class StorageError(BefriendError):
    """A file could not be read or written."""


class NetworkError(BefriendError):
    """Another machine could not be reached."""


class BusyError(BefriendError):
    """Another process is running stages in this project."""


class KilledError(BefriendError):
    """A process of the command was killed, most often for lack of memory."""

    exit_code = 137


def one_of(names: Sequence[str]) -> str:
    """Names for a message: "a, b or c"."""
    return " or ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


_DISK_PROBLEMS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "the disk reports an error",
}
_FILE_PROBLEMS = {
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.ENOENT: "there is no such file or folder",
}
_NETWORK_ERRORS = {
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
"""packages whose exceptions give the operating system's error only in their text"""


def explain(error: BaseException) -> BefriendError | None:
    """The BefriendError for an exception: itself, or one for a failure of a file or the network; None for others."""
    if isinstance(error, BefriendError):
        return error
    code, is_from_text = _error_number(error)
    if isinstance(error, socket.gaierror) or code in _NETWORK_ERRORS:
        return NetworkError(
            f"another machine could not be reached: {error}\n"
            "Check its address and the network, then run the same command again."
        )
    file_name = getattr(error, "filename", None)
    if code is None or not (file_name or is_from_text or code in _DISK_PROBLEMS):
        return None
    problem = (_DISK_PROBLEMS | _FILE_PROBLEMS).get(code, "a file could not be read or written")
    # `files.atomic` adds a note with the name of the file that it writes.
    context = file_name or next(reversed(getattr(error, "__notes__", [])), None)
    return StorageError(
        f"{problem}{f' ({context})' if context else ''}: {error}\nFix this, then run the same command again."
    )


def _error_number(error: BaseException) -> tuple[int | None, bool]:
    """The error number of the operating system, or None; and whether it comes from the text of the exception."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno, False
    if isinstance(error, (OSError, RuntimeError)) or type(error).__module__.split(".")[0] in _WRAPPING_PACKAGES:
        match = re.search(r"\(os error (\d+)\)|(No space left on device)", str(error))
        if match:
            return int(match[1] or errno.ENOSPC), True
    return None, False
