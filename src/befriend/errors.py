"""Every error a user can cause or fix, with the exit code it ends a command with.

    BefriendError
    ├── CallError            2   the call was wrong
    │   ├── SettingsError    2   params.yaml or --set holds an unknown or impossible setting
    │   └── SourceError      2   the event log is not there, or may not be read
    ├── DataError            1   the data is not what it was said to be, or failed a check
    ├── StorageError         1   an output could not be written: disk full, no permission
    └── BusyError            1   somebody else is running stages here

A message says what is wrong, where, what was found, what is allowed, and what to do next.
"""

from __future__ import annotations

import errno
import re

__all__ = [
    "STOPPED",
    "BefriendError",
    "BusyError",
    "CallError",
    "DataError",
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


class BusyError(BefriendError):
    pass


_STORAGE = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
}


def explain(error: BaseException) -> BefriendError | None:
    """The BefriendError that a failure of the operating system amounts to; None for a defect of our own.

    Table libraries wrap the system's error in one of their own and keep only its text, so that is read too.
    """
    if isinstance(error, BefriendError):
        return error
    found = re.search(r"os error (\d+)|(No space left on device)|(Permission denied)", str(error))
    if isinstance(error, OSError) and error.errno is not None:
        code = error.errno
    elif found:
        code = int(found[1]) if found[1] else errno.ENOSPC if found[2] else errno.EACCES
    else:
        return None
    where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
    return StorageError(
        f"{_STORAGE.get(code, 'a file could not be read or written')}{where}: {error}\n"
        "Nothing half-written was left behind. Mend that, then run the same command again."
    )
