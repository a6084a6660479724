"""Somebody who asked to be forgotten: at once on no list, whatever runs here meanwhile."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import polars as pl
import pytest

from befriend import files, layout
from befriend.data.erasure import erasure_digest, read_erased
from befriend.errors import BusyError
from befriend.ops.forget_people import forget, traces

PARTS = Path("runs/lists.parquet.parts")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for folder in (layout.PREPARED, PARTS):
        (tmp_path / folder).mkdir(parents=True)
    pl.DataFrame({"user_id": [1, 2, 3]}).write_parquet(tmp_path / layout.PREPARED / "users.parquet")
    lists = pl.DataFrame({"user": [1, 1, 2, 3], "recommended": [2, 3, 1, 1]})
    lists.write_parquet(tmp_path / layout.LISTS)
    lists.write_parquet(tmp_path / PARTS / "0.parquet")
    return tmp_path


def rows(project: Path) -> list[tuple[int, int]]:
    return pl.read_parquet(project / layout.LISTS).rows()


def test_lists_that_lie_here_lose_them_and_those_half_made_go(project: Path) -> None:
    forget(project, ["3"])
    assert rows(project) == [(1, 2), (2, 1)]
    assert not (project / PARTS).exists()


def test_a_table_that_cannot_be_read_is_no_proof(project: Path) -> None:
    forget(project, ["3"])
    assert traces(project, "3") == ["prepared/users.parquet"]
    (project / "prepared" / "users.parquet").write_bytes(b"PAR1 half")
    assert traces(project, "3") == ["prepared/users.parquet (cannot be read)"]


@contextmanager
def in_another_thread(lock: AbstractContextManager[None]) -> Iterator[None]:
    """The lock is held, as by another process."""
    holds, ends = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            holds.set()
            ends.wait()

    with ThreadPoolExecutor(1) as other:
        done = other.submit(hold)
        holds.wait()
        try:
            yield
        finally:
            ends.set()
            done.result()


LOCKS: dict[str, Callable[[Path], AbstractContextManager[None]]] = {
    "stages run": lambda root: files.stage_lock(root / layout.LOCK),
    "lists are made": lambda root: files.folder_lock(root / PARTS, "busy"),
}


@pytest.mark.parametrize("name", LOCKS)
def test_while_something_runs_they_are_marked_and_nothing_is_taken_from_under_it(name: str, project: Path) -> None:
    before = rows(project)
    with in_another_thread(LOCKS[name](project)):
        with pytest.raises(
            BusyError, match=rf"(?s)3: recorded as erased.*by process {os.getpid()}: .*run the command again"
        ):
            forget(project, ["3"])
        assert read_erased(project / layout.PREPARED) == {erasure_digest(3)}
        assert rows(project) == before
        assert (project / PARTS / "0.parquet").is_file()
    forget(project, ["3"])
    assert rows(project) == [(1, 2), (2, 1)]
