"""Lists for many users in one file: the same as block by block in memory, also after a run was stopped."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from befriend import files
from befriend.data.attributes import Attributes
from befriend.errors import BusyError, DataError, StorageError
from befriend.features.feature_view import FeatureView
from befriend.recommendation import list_maker
from befriend.recommendation.list_constraints import ListConstraints
from befriend.recommendation.list_maker import ListMaker, split_into_blocks
from befriend.recommendation.list_writer import write_lists
from befriend.recommendation.recommend_options import RecommendOptions
from befriend.recommendation.request_table import requests_table
from befriend.recommendation.sampling import Sampling
from befriend.retrieval.recommender import ListFilter
from befriend.retrieval.requests import RankedLists, RequestBatch
from tests.conftest import random_log

USERS, BLOCK = 30, 7
LOG = random_log(users=USERS, events=400, seed=5)
OPTIONS = {
    "ranked": RecommendOptions(k=4),
    "drawn": RecommendOptions(k=4, sampling=Sampling(seed=2)),
    "capped": RecommendOptions(k=4, constraints=ListConstraints(cap=6)),
}
TABLE = requests_table(LOG.user_ids)


class FakeRecommender:
    """Scores that differ from user to user; interrupted after a number of blocks."""

    def __init__(self, blocks: int = 99):
        self.blocks_left = blocks
        self.user = np.empty(0, np.int64)

    def rank(self, request: RequestBatch, names: tuple[str, ...]) -> FakeRecommender:
        if not self.blocks_left:
            raise KeyboardInterrupt
        self.blocks_left -= 1
        self.user = request.user
        return self

    def top(self, name: str, k: int, list_filter: ListFilter | None, rows: np.ndarray) -> RankedLists:
        scores = np.sin(self.user[rows, None] * 3.7 + np.arange(USERS)).astype(np.float32)
        if list_filter is not None:
            scores[:, ~list_filter.allowed_mask(0, 0)] = -np.inf
        ids = np.argsort(-scores, 1)[:, :k]
        return RankedLists(ids, np.take_along_axis(scores, ids, 1))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_maker, "REQUESTS_PER_BLOCK", BLOCK)


def make_list_maker(options: RecommendOptions, fake: FakeRecommender) -> ListMaker:
    no_attributes = Attributes(np.zeros((USERS, 0), np.int32), {}, np.zeros((USERS, 0), np.float32), ())
    recommender: Any = fake
    return ListMaker(
        recommender, FeatureView.of(LOG), LOG.first_seen, no_attributes, np.ones((USERS, 1), np.float32), options
    )


def lists_in_memory(options: RecommendOptions) -> pl.DataFrame:
    """All lists, made block by block without a file."""
    maker, tables = make_list_maker(options, FakeRecommender()), []
    for number, block in enumerate(split_into_blocks(TABLE)):
        tables.append(maker.make_lists(block).with_columns(pl.col("request") + number * BLOCK))
    return pl.concat(tables)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_resumed_run_writes_the_lists_of_an_uninterrupted_run(name: str, tmp_path: Path) -> None:
    options = OPTIONS[name]
    expected = lists_in_memory(options)
    out = tmp_path / "lists.parquet"
    with pytest.raises(KeyboardInterrupt):
        write_lists(make_list_maker(options, FakeRecommender(2)), TABLE, out, "one")
    assert not out.exists()
    resumed = FakeRecommender()
    assert write_lists(make_list_maker(options, resumed), TABLE, out, "one") == 2 * BLOCK
    assert resumed.blocks_left == 99 - 3  # two of five blocks were made before
    assert_frame_equal(pl.read_parquet(out), expected)
    assert [path.name for path in tmp_path.iterdir()] == ["lists.parquet"]


def test_blocks_made_for_another_digest_are_made_anew(tmp_path: Path) -> None:
    out = tmp_path / "lists.parquet"
    with pytest.raises(KeyboardInterrupt):
        write_lists(make_list_maker(OPTIONS["ranked"], FakeRecommender(2)), TABLE, out, "one")
    assert write_lists(make_list_maker(OPTIONS["drawn"], FakeRecommender()), TABLE, out, "other") == 0
    assert pl.read_parquet(out)["user"].n_unique() == USERS


def test_the_cap_counts_across_blocks(tmp_path: Path) -> None:
    out = tmp_path / "lists.parquet"
    write_lists(make_list_maker(OPTIONS["capped"], FakeRecommender()), TABLE, out, "one")
    counts = pl.read_parquet(out)["recommended"].value_counts()["count"]
    assert counts.max() == 6 and counts.sum() == 4 * USERS


def test_blocks_that_disappear_before_the_end_are_an_error(tmp_path: Path) -> None:
    out, options = tmp_path / "lists.parquet", OPTIONS["ranked"]
    expected = lists_in_memory(options)
    finished = 0

    def finish(lists: pl.DataFrame) -> pl.DataFrame:
        nonlocal finished
        finished += 1
        if finished == 3:
            files.remove(tmp_path / "lists.parquet.parts")
        return lists

    with pytest.raises(StorageError, match=r"2 of its 5 parts are gone .* Run the same command again"):
        write_lists(make_list_maker(options, FakeRecommender()), TABLE, out, "one", finish)
    assert not out.exists()
    assert write_lists(make_list_maker(options, FakeRecommender()), TABLE, out, "one") == USERS - 2 * BLOCK
    assert_frame_equal(pl.read_parquet(out), expected)


def test_two_runs_cannot_write_the_same_lists_at_once(tmp_path: Path) -> None:
    out, (has_begun, may_continue) = tmp_path / "lists.parquet", (threading.Event(), threading.Event())

    def finish(lists: pl.DataFrame) -> pl.DataFrame:
        has_begun.set()
        may_continue.wait()
        return lists

    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(
            write_lists, make_list_maker(OPTIONS["ranked"], FakeRecommender()), TABLE, out, "one", finish
        )
        try:
            has_begun.wait()
            with pytest.raises(BusyError, match=rf"lists.parquet is being written already, by process {os.getpid()}"):
                write_lists(make_list_maker(OPTIONS["drawn"], FakeRecommender()), TABLE, out, "other")
        finally:
            may_continue.set()
        assert first.result() == 0
    assert pl.read_parquet(out)["user"].n_unique() == USERS
    assert [path.name for path in tmp_path.iterdir()] == ["lists.parquet"]


def test_blocks_of_another_size_are_not_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "lists.parquet"
    with pytest.raises(KeyboardInterrupt):
        write_lists(make_list_maker(OPTIONS["ranked"], FakeRecommender(2)), TABLE, out, "one")
    monkeypatch.setattr(list_maker, "REQUESTS_PER_BLOCK", BLOCK + 3)
    write_lists(make_list_maker(OPTIONS["ranked"], FakeRecommender()), TABLE, out, "one")
    assert pl.read_parquet(out)["user"].unique(maintain_order=True).to_list() == LOG.user_ids.to_list()


@pytest.mark.parametrize("failing_check", [1, 3, 6], ids=["at the start", "between blocks", "at the end"])
def test_lists_that_are_no_longer_valid_are_not_written(failing_check: int, tmp_path: Path) -> None:
    checks = 0

    def check_valid() -> None:
        nonlocal checks
        checks += 1
        if checks == failing_check:
            raise DataError("a user was erased")

    out = tmp_path / "lists.parquet"
    with pytest.raises(DataError, match="a user was erased"):
        write_lists(make_list_maker(OPTIONS["ranked"], FakeRecommender()), TABLE, out, "one", check_valid=check_valid)
    assert not out.exists()
