"""Lists for many users as one Parquet file, made block by block: a run that was stopped goes on where it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl

from befriend import files
from befriend.progress import track
from befriend.retrieval.recommend import Recommender, blocks


def write(
    recommender: Recommender,
    users: pl.Series,
    path: Path,
    digest: str,
    finish: Callable[[pl.DataFrame], pl.DataFrame] = lambda lists: lists,
) -> int:
    """Writes the lists of users, by original ids, to `path`. Returns how many users an earlier run had served.

    digest: of all that the lists depend on, the users among it; what an earlier run made for another digest is dropped.
    finish: what becomes of each block before it is written. Until the end, blocks lie in `path`.parts.
    """
    folder = path.with_name(path.name + ".parts")
    parts = folder / digest
    for other in folder.glob("*"):
        if other != parts:
            files.remove(other)
    parts.mkdir(parents=True, exist_ok=True)
    served, asked = 0, list(blocks(users))
    for number, some in track(enumerate(asked), "recommend", len(asked)):
        part = parts / f"{number:08}.parquet"
        if part.is_file():
            recommender.remember(pl.read_parquet(part, columns=["recommended"]))
            served += len(some)
            continue
        lists = finish(recommender.lists(some))
        with files.atomic(part) as new:
            lists.write_parquet(new, compression="zstd")
    with files.atomic(path) as new:
        pl.scan_parquet(parts / "*.parquet", glob=True).sink_parquet(new, compression="zstd")
    files.remove(folder)
    return served
