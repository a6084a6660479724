"""Lists for many users: in one file or one by one they are the same, and a stopped run loses nothing."""

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
from befriend.data.observed import Observed
from befriend.errors import BusyError, DataError, StorageError
from befriend.retrieval import batch, recommend
from befriend.retrieval.recommend import ListMaker, RecommendOptions, blocks
from befriend.retrieval.recommender import Filter
from befriend.retrieval.request_table import requests_table
from befriend.retrieval.requests import Ranked, Request
from befriend.retrieval.rules import Rules
from befriend.retrieval.sampling import Sampling
from tests.conftest import random_log

USERS, BLOCK = 30, 7
LOG = random_log(users=USERS, events=400, seed=5)
ASKED = {
    "ranked": RecommendOptions(k=4),
    "drawn": RecommendOptions(k=4, sampling=Sampling(seed=2)),
    "capped": RecommendOptions(k=4, rules=Rules(cap=6)),
}
TABLE = requests_table(LOG.user_ids)


class Scores:
    """In the place of a recommender: scores that differ from user to user; gives up after so many blocks."""

    def __init__(self, blocks: int = 99):
        self.left = blocks
        self.user = np.empty(0, np.int64)

    def rank(self, request: Request, names: tuple[str, ...]) -> Scores:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.user = request.user
        return self

    def head(self, name: str, k: int, only: Filter | None, requests: np.ndarray) -> Ranked:
        scores = np.sin(self.user[requests, None] * 3.7 + np.arange(USERS)).astype(np.float32)
        if only is not None:
            scores[:, ~only.allows(0, 0)] = -np.inf
        ids = np.argsort(-scores, 1)[:, :k]
        return Ranked(ids, np.take_along_axis(scores, ids, 1))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recommend, "AT_ONCE", BLOCK)


def recommender(options: RecommendOptions, scores: Scores) -> ListMaker:
    nothing = Attributes(np.zeros((USERS, 0), np.int32), {}, np.zeros((USERS, 0), np.float32), ())
    made: Any = scores
    return ListMaker(made, Observed.of(LOG), LOG.first_seen, nothing, np.ones((USERS, 1), np.float32), options)


def in_one_go(options: RecommendOptions) -> pl.DataFrame:
    """All lists, without a file."""
    maker, parts = recommender(options, Scores()), []
    for number, some in enumerate(blocks(TABLE)):
        parts.append(maker.lists(some).with_columns(pl.col("request") + number * BLOCK))
    return pl.concat(parts)


@pytest.mark.parametrize("name", ASKED)
def test_a_stopped_run_ends_with_the_lists_of_an_undisturbed_one(name: str, tmp_path: Path) -> None:
    asked = ASKED[name]
    expected = in_one_go(asked)
    out = tmp_path / "lists.parquet"
    with pytest.raises(KeyboardInterrupt):
        batch.write(recommender(asked, Scores(2)), TABLE, out, "one")
    assert not out.exists()
    again = Scores()
    assert batch.write(recommender(asked, again), TABLE, out, "one") == 2 * BLOCK
    assert again.left == 99 - 3  # of five blocks three were left
    assert_frame_equal(pl.read_parquet(out), expected)
    assert [path.name for path in tmp_path.iterdir()] == ["lists.parquet"]


def test_what_was_made_for_something_else_is_made_anew(tmp_path: Path) -> None:
    out = tmp_path / "lists.parquet"
    with pytest.raises(KeyboardInterrupt):
        batch.write(recommender(ASKED["ranked"], Scores(2)), TABLE, out, "one")
    assert batch.write(recommender(ASKED["drawn"], Scores()), TABLE, out, "other") == 0
    assert pl.read_parquet(out)["user"].n_unique() == USERS


def test_the_cap_spans_the_blocks(tmp_path: Path) -> None:
    out = tmp_path / "lists.parquet"
    batch.write(recommender(ASKED["capped"], Scores()), TABLE, out, "one")
    counts = pl.read_parquet(out)["recommended"].value_counts()["count"]
    assert counts.max() == 6 and counts.sum() == 4 * USERS


def test_parts_that_are_gone_at_the_end_are_not_left_out_silently(tmp_path: Path) -> None:
    out, asked = tmp_path / "lists.parquet", ASKED["ranked"]
    expected = in_one_go(asked)
    made = 0

    def finish(lists: pl.DataFrame) -> pl.DataFrame:
        nonlocal made
        made += 1
        if made == 3:
            files.remove(tmp_path / "lists.parquet.parts")
        return lists

    with pytest.raises(StorageError, match=r"2 of the 5 parts .* are gone .* Run the same command again"):
        batch.write(recommender(asked, Scores()), TABLE, out, "one", finish)
    assert not out.exists()
    assert batch.write(recommender(asked, Scores()), TABLE, out, "one") == USERS - 2 * BLOCK
    assert_frame_equal(pl.read_parquet(out), expected)


def test_two_cannot_write_the_same_lists_at_once(tmp_path: Path) -> None:
    out, (begun, goes_on) = tmp_path / "lists.parquet", (threading.Event(), threading.Event())

    def finish(lists: pl.DataFrame) -> pl.DataFrame:
        begun.set()
        goes_on.wait()
        return lists

    with ThreadPoolExecutor(1) as other:
        first = other.submit(batch.write, recommender(ASKED["ranked"], Scores()), TABLE, out, "one", finish)
        try:
            begun.wait()
            with pytest.raises(BusyError, match=rf"lists.parquet is being written already, by process {os.getpid()}"):
                batch.write(recommender(ASKED["drawn"], Scores()), TABLE, out, "other")
        finally:
            goes_on.set()
        assert first.result() == 0
    assert pl.read_parquet(out)["user"].n_unique() == USERS
    assert [path.name for path in tmp_path.iterdir()] == ["lists.parquet"]


def test_blocks_of_another_size_do_not_stand_for_those_of_today(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "lists.parquet"
    with pytest.raises(KeyboardInterrupt):
        batch.write(recommender(ASKED["ranked"], Scores(2)), TABLE, out, "one")
    monkeypatch.setattr(recommend, "AT_ONCE", BLOCK + 3)
    batch.write(recommender(ASKED["ranked"], Scores()), TABLE, out, "one")
    assert pl.read_parquet(out)["user"].unique(maintain_order=True).to_list() == LOG.user_ids.to_list()


@pytest.mark.parametrize("asks", [1, 3, 6], ids=["at the start", "between", "at the end"])
def test_what_is_not_right_any_more_is_not_written(asks: int, tmp_path: Path) -> None:
    left = asks

    def still_right() -> None:
        nonlocal left
        left -= 1
        if not left:
            raise DataError("somebody was forgotten")

    out = tmp_path / "lists.parquet"
    with pytest.raises(DataError, match="somebody was forgotten"):
        batch.write(recommender(ASKED["ranked"], Scores()), TABLE, out, "one", still_right=still_right)
    assert not out.exists()
