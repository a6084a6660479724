"""Progress of long work: a bar on a terminal, one line a minute elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
LINE_EVERY = 60.0  # seconds


def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """The items, while their progress is shown on standard error."""
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
            left = (now - start) / k * (total - k)
            print(f"{description}: {k:,} of {total:,}, about {left / 60:.0f} min left", file=sys.stderr, flush=True)
        yield item
