"""Shows the progress of long loops: a bar on a terminal, one line per minute elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
SECONDS_PER_LINE = 60.0
_current_progress = ""


def current_progress() -> str:
    """The progress of the loop that runs, for the message of a stopped command; empty if no loop is tracked."""
    return _current_progress


def note(text: str) -> None:
    """Prints what a command is doing, or what it left out, on standard error. Only errors begin with "befriend:"."""
    print(text, file=sys.stderr, flush=True)


def _record_progress(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    global _current_progress
    for k, item in enumerate(items):
        _current_progress = f"{description}: {k:,} of {total:,}" if total is not None else f"{description}: {k:,} parts"
        yield item
    _current_progress = ""


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yields the items and shows progress on standard error. total: the number of items; None if it is unknown."""
    items = _record_progress(items, description, total)
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track as bar

        yield from bar(items, description, total=total, console=Console(stderr=True), transient=True)
        return
    start = last = time.monotonic()
    for k, item in enumerate(items):
        now = time.monotonic()
        if now - last >= SECONDS_PER_LINE:
            last = now
            print(f"{description}: {_describe_progress(k, total, now - start)}", file=sys.stderr, flush=True)
        yield item


def _describe_progress(num_done: int, total: int | None, seconds: float) -> str:
    if total is None:
        return f"{num_done:,} parts in {seconds / 60:.0f} min"
    if not num_done:
        return f"0 of {total:,}, after {seconds / 60:.0f} min of preparation"
    return f"{num_done:,} of {total:,}, about {seconds / num_done * (total - num_done) / 60:.0f} min left"
