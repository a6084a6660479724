"""`befriend forget`: an erased user is on no list at once, also while other processes run."""

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
from befriend.data.erasure import add_erasure_digests, erasure_digest, read_erasure_digests
from befriend.errors import BusyError, CallError, DataError
from befriend.ops.erase_users import erase, find_traces, verify_erasure

BLOCKS = Path("runs/lists.parquet.parts")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for folder in (layout.PREPARED, BLOCKS):
        (tmp_path / folder).mkdir(parents=True)
    pl.DataFrame({"user_id": [1, 2, 3]}).write_parquet(tmp_path / layout.PREPARED / "users.parquet")
    lists = pl.DataFrame({"user": [1, 1, 2, 3], "recommended": [2, 3, 1, 1]})
    lists.write_parquet(tmp_path / layout.LISTS)
    lists.write_parquet(tmp_path / BLOCKS / "0.parquet")
    return tmp_path


def rows(project: Path) -> list[tuple[int, int]]:
    return pl.read_parquet(project / layout.LISTS).rows()


def test_erasure_removes_the_user_from_lists_and_removes_unfinished_lists(project: Path) -> None:
    erase(project, ["3"])
    assert rows(project) == [(1, 2), (2, 1)]
    assert not (project / BLOCKS).exists()


def test_mistyped_id_erases_nobody_and_names_the_nearest_ids(project: Path) -> None:
    with pytest.raises(CallError, match=r"no user with the id 33, 4, so nobody was erased\. Did you mean 3\?"):
        erase(project, ["3", "33", "4"])
    assert read_erasure_digests(project / layout.PREPARED) == set()
    assert rows(project) == [(1, 2), (1, 3), (2, 1), (3, 1)]


def test_verification_of_a_user_who_is_not_erased_says_how_to_erase_them(project: Path) -> None:
    with pytest.raises(CallError, match=r"3 is not erased yet\. First: befriend forget 3"):
        verify_erasure(project, ["3"])
    erase(project, ["3"])
    with pytest.raises(CallError, match="run `make run`, then `befriend tidy`"):
        verify_erasure(project, ["3"])


def test_table_that_cannot_be_read_counts_as_a_trace(project: Path) -> None:
    erase(project, ["3"])
    assert find_traces(project, "3") == ["prepared/users.parquet"]
    (project / "prepared" / "users.parquet").write_bytes(b"PAR1 half")
    assert find_traces(project, "3") == ["prepared/users.parquet (cannot be read)"]


@contextmanager
def in_another_thread(lock: AbstractContextManager[None]) -> Iterator[None]:
    """Holds a lock in another thread, where it counts as held by another process."""
    is_held, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            is_held.set()
            may_end.wait()

    with ThreadPoolExecutor(1) as executor:
        holder = executor.submit(hold)
        is_held.wait()
        try:
            yield
        finally:
            may_end.set()
            holder.result()


LOCKS: dict[str, Callable[[Path], AbstractContextManager[None]]] = {
    "stages run": lambda root: files.stage_lock(root / layout.STAGE_LOCK),
    "lists are made": lambda root: files.folder_lock(root / BLOCKS, "busy"),
}


@pytest.mark.parametrize("name", LOCKS)
def test_erasure_during_a_run_records_the_user_and_leaves_files_unchanged(name: str, project: Path) -> None:
    before = rows(project)
    with in_another_thread(LOCKS[name](project)):
        with pytest.raises(
            BusyError, match=rf"(?s)3: recorded as erased.*by process {os.getpid()}: .*run the command again"
        ):
            erase(project, ["3"])
        assert read_erasure_digests(project / layout.PREPARED) == {erasure_digest(3)}
        assert rows(project) == before
        assert (project / BLOCKS / "0.parquet").is_file()
    erase(project, ["3"])
    assert rows(project) == [(1, 2), (2, 1)]


def test_a_damaged_list_of_erased_users_is_an_error_since_they_would_be_shown_again(tmp_path: Path) -> None:
    add_erasure_digests(tmp_path, map(erasure_digest, (1, 2)))
    assert len(read_erasure_digests(tmp_path)) == 2
    path = tmp_path / "forgotten.txt"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(DataError, match="line 3 is no digest of an erased user"):
        read_erasure_digests(tmp_path)
