"""Lists for many users as one Parquet file, made block by block: a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from befriend import files, layout
from befriend.errors import StorageError
from befriend.progress import track
from befriend.retrieval.recommend import ListMaker, blocks


def write(
    maker: ListMaker,
    requests: pl.DataFrame,
    path: Path,
    digest: str,
    finish: Callable[[pl.DataFrame], pl.DataFrame] = lambda lists: lists,
    still_right: Callable[[], None] = lambda: None,
) -> int:
    """Writes the lists of requests to `path`. Returns how many of them an earlier run had made.

    BusyError where somebody else writes them; StorageError where blocks that were made are gone at the end.

    digest: of all that the lists depend on, the requests among it; what an earlier run made for another is dropped.
    finish: what becomes of each block before it is written. Until the end, blocks lie in `path`.parts.
    still_right: raises where lists may not go on as they were begun; called before each block, and at the end.
    """
    folder = layout.parts_of(path)
    with files.held(folder, f"{path} is being written already"):
        parts = folder / digest
        for other in folder.glob("*"):
            if other.name not in (digest, files.LOCK):
                files.remove(other)
        parts.mkdir(parents=True, exist_ok=True)
        served, asked = 0, list(blocks(requests))
        made = [parts / f"{number:08}-{_digest(some)}.parquet" for number, some in enumerate(asked)]
        first = np.cumsum([0, *(some.height for some in asked)])
        for part, some, row in track(zip(made, asked, first, strict=False), "recommend", len(asked)):
            still_right()
            if part.is_file():
                maker.remember(pl.read_parquet(part, columns=["recommended"]))
                served += some.height
                continue
            lists = finish(maker.lists(some).with_columns(pl.col("request") + row))
            with files.atomic(part) as new:
                lists.write_parquet(new, compression="zstd")
        gone = [part for part in made if not part.is_file()]
        if gone:
            raise StorageError(
                f"{path} was not written: {len(gone)} of the {len(made)} parts of it that were made are gone from "
                f"{parts}; something else removed them. Run the same command again, and it makes these anew."
            )
        with files.atomic(path) as new:
            pl.scan_parquet(made, glob=False).sink_parquet(new, compression="zstd")
            still_right()
        files.remove(parts)
        return served


def _digest(requests: pl.DataFrame) -> str:
    """Tells for which requests a block was made: an earlier version may have cut them into others."""
    return hashlib.sha256(repr(requests.rows()).encode()).hexdigest()[:16]
