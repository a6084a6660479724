"""Writes lists for many users to one Parquet file, block by block, so that an interrupted run can be resumed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from befriend import files, layout
from befriend.errors import StorageError
from befriend.progress import track
from befriend.recommendation.list_maker import ListMaker, split_into_blocks


def write_lists(
    maker: ListMaker,
    requests: pl.DataFrame,
    path: Path,
    digest: str,
    finish: Callable[[pl.DataFrame], pl.DataFrame] = lambda lists: lists,
    check_valid: Callable[[], None] = lambda: None,
) -> int:
    """Writes the lists for `requests` to `path`. Returns the number of requests whose lists an earlier run had made.

    Until all lists are made, finished blocks are in the folder `path`.parts. A later call with the same digest resumes
    from them.

    digest: of everything that the lists depend on, including the requests; blocks that an earlier run made for another
    digest are deleted; finish: converts the lists of a block to the table that is written; check_valid: called before
    each block and before the file is replaced; it raises an error if the lists must not be written any more.

    Raises BusyError if another process is writing to `path`, StorageError if finished blocks are missing at the end.
    """
    folder = layout.list_blocks_folder(path)
    with files.folder_lock(folder, f"{path} is being written already"):
        parts = folder / digest
        for entry in folder.glob("*"):
            if entry.name not in (digest, files.LOCK_FILE):
                files.remove(entry)
        parts.mkdir(parents=True, exist_ok=True)
        num_made_before, request_blocks = 0, list(split_into_blocks(requests))
        block_paths = [parts / f"{k:08}-{_digest(block)}.parquet" for k, block in enumerate(request_blocks)]
        first_rows = np.cumsum([0, *(block.height for block in request_blocks)])
        for block_path, block, first_row in track(
            zip(block_paths, request_blocks, first_rows, strict=False), "recommend", len(request_blocks)
        ):
            check_valid()
            if block_path.is_file():
                maker.add_earlier_lists(pl.read_parquet(block_path, columns=["recommended"]))
                num_made_before += block.height
                continue
            lists = finish(maker.make_lists(block).with_columns(pl.col("request") + first_row))
            with files.atomic(block_path) as temporary:
                lists.write_parquet(temporary, compression="zstd")
        missing = [block_path for block_path in block_paths if not block_path.is_file()]
        if missing:
            raise StorageError(
                f"{path} was not written: {len(missing)} of its {len(block_paths)} parts are gone from {parts}; "
                "another program removed them. Run the same command again: it makes only the missing parts."
            )
        with files.atomic(path) as temporary:
            pl.scan_parquet(block_paths, glob=False).sink_parquet(temporary, compression="zstd")
            check_valid()
        files.remove(parts)
        return num_made_before


def _digest(requests: pl.DataFrame) -> str:
    """Digest of the requests of a block: another version of the program may cut the table into other blocks."""
    return hashlib.sha256(repr(requests.rows()).encode()).hexdigest()[:16]
