"""Writes lists for many users to one Parquet file, block by block. A run that was stopped goes on where it stopped."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from befriend import files, layout
from befriend.errors import StorageError
from befriend.progress import track
from befriend.recommendation.list_maker import ListMaker, blocks


def write_lists(
    maker: ListMaker,
    requests: pl.DataFrame,
    path: Path,
    digest: str,
    finish: Callable[[pl.DataFrame], pl.DataFrame] = lambda lists: lists,
    check_valid: Callable[[], None] = lambda: None,
) -> int:
    """Writes the lists of `requests` to `path`. Returns how many of them an earlier run had made.

    BusyError where another process writes them; StorageError where finished blocks have disappeared at the end.

    digest: of everything that the lists depend on, the requests included; blocks that an earlier run made for another
    digest are deleted. finish: turns the lists of a block into what is written. check_valid: called before each block
    and at the end, and raises where the lists must not be written any more. Until the end, blocks lie in `path`.parts.
    """
    folder = layout.parts_of(path)
    with files.folder_lock(folder, f"{path} is being written already"):
        parts = folder / digest
        for entry in folder.glob("*"):
            if entry.name not in (digest, files.LOCK):
                files.remove(entry)
        parts.mkdir(parents=True, exist_ok=True)
        earlier, request_blocks = 0, list(blocks(requests))
        block_paths = [parts / f"{k:08}-{_digest(block)}.parquet" for k, block in enumerate(request_blocks)]
        first_rows = np.cumsum([0, *(block.height for block in request_blocks)])
        for block_path, block, first_row in track(
            zip(block_paths, request_blocks, first_rows, strict=False), "recommend", len(request_blocks)
        ):
            check_valid()
            if block_path.is_file():
                maker.count_earlier(pl.read_parquet(block_path, columns=["recommended"]))
                earlier += block.height
                continue
            lists = finish(maker.lists(block).with_columns(pl.col("request") + first_row))
            with files.atomic(block_path) as temporary:
                lists.write_parquet(temporary, compression="zstd")
        missing = [block_path for block_path in block_paths if not block_path.is_file()]
        if missing:
            raise StorageError(
                f"{path} was not written: {len(missing)} of its {len(block_paths)} parts are gone from {parts}; "
                "something else removed them. Run the same command again to make these anew."
            )
        with files.atomic(path) as temporary:
            pl.scan_parquet(block_paths, glob=False).sink_parquet(temporary, compression="zstd")
            check_valid()
        files.remove(parts)
        return earlier


def _digest(requests: pl.DataFrame) -> str:
    """Identifies the requests of a block: an earlier version may have cut the table into other blocks."""
    return hashlib.sha256(repr(requests.rows()).encode()).hexdigest()[:16]
