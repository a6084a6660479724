"""Progress of long loops: a bar on a terminal, one line per minute elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
LINE_EVERY = 60.0  # seconds
_current = ""


def current_progress() -> str:
    """How far the loop that is being tracked has got, for the message of a stopped command; empty if there is none."""
    return _current


def _record_progress(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    global _current
    for k, item in enumerate(items):
        _current = f"{description}: {k:,} of {total:,}" if total is not None else f"{description}: {k:,} parts"
        yield item
    _current = ""


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yields the items and shows progress on standard error. total: the number of items; None if it is not known."""
    items = _record_progress(items, description, total)
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track as bar

        yield from bar(items, description, total=total, console=Console(stderr=True), transient=True)
        return
    start = last = time.monotonic()
    for k, item in enumerate(items):
        now = time.monotonic()
        if now - last >= LINE_EVERY:
            last = now
            print(f"{description}: {_how_far(k, total, now - start)}", file=sys.stderr, flush=True)
        yield item


def _how_far(done: int, total: int | None, seconds: float) -> str:
    if total is None:
        return f"{done:,} parts in {seconds / 60:.0f} min"
    return f"{done:,} of {total:,}, about {seconds / done * (total - done) / 60:.0f} min left"
