"""The Python API: lists equal to those of the command line, explanations, vectors, options, and errors."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import befriend
from befriend.api import Befriend, ListConstraints, RecommendOptions, Sampling
from befriend.errors import CallError
from tests.conftest import call


@pytest.fixture(scope="module")
def project(trained_project: Path) -> Path:
    return trained_project


@pytest.fixture(scope="module")
def loaded_project(project: Path) -> Befriend:
    return befriend.load(project)


def test_lists_are_those_of_the_command_line(project: Path, loaded_project: Befriend) -> None:
    user = loaded_project.log.user_ids[int(np.bincount(loaded_project.log.actor).argmax())]
    for model in ("two-tower", "stu", "both"):
        lists = loaded_project.recommend([user], k=7, new_only=True, model=model)
        shown = call(project, "recommend", "--user", str(user), "-k", "7", "--new-only", "--model", model, "--json")
        assert lists["recommended"].to_list() == [row["recommended"] for row in json.loads(shown.stdout)]
    drawn = loaded_project.recommend([user], k=5, sampling=Sampling(temperature=2.0, seed=3))
    assert drawn["recommended"].n_unique() == 5


def test_explaining_a_user_who_is_not_in_the_log_is_an_error(loaded_project: Befriend) -> None:
    known = loaded_project.log.user_ids[0]
    with pytest.raises(CallError, match="nothing is known of 987654321"):
        loaded_project.explain(known, [987654321])


def test_an_unknown_user_gets_general_reasons(loaded_project: Befriend) -> None:
    lists = loaded_project.recommend([987654321], k=5)
    assert not lists["known"].any()
    for sentences in loaded_project.explain(987654321, lists["recommended"]):
        assert sentences and "You" not in " ".join(sentences)


def test_ids_match_in_all_spellings_of_one_id_and_in_no_others(loaded_project: Befriend) -> None:
    known = loaded_project.log.user_ids[3]
    for spelling in (known, str(known), f" {known}", f"{known}.0", f'"{known}"'):
        assert loaded_project.recommend([spelling], k=1)["known"].all(), spelling
    for other in (f"0{known}", f"+{known}", f"{known}.5"):
        assert not loaded_project.recommend([other], k=1)["known"].any(), other


def test_reasons_on_the_command_line(project: Path, loaded_project: Befriend) -> None:
    user = str(loaded_project.log.user_ids[3])
    rows = json.loads(call(project, "recommend", "--user", user, "-k", "3", "--explain", "--json").stdout)
    shown = call(project, "recommend", "--user", user, "-k", "3", "--explain").stdout
    letters = "".join(filter(str.isalnum, shown))  # without borders and line breaks of the table
    for row in rows:
        assert row["why"]
        for sentence in row["why"]:
            assert "".join(filter(str.isalnum, sentence)) in letters


def test_export_writes_vectors_and_stus_of_all_users(project: Path, loaded_project: Befriend, tmp_path: Path) -> None:
    done = call(project, "export", str(tmp_path / "vectors.parquet"))
    assert done.returncode == 0, done.stderr
    table = pl.read_parquet(tmp_path / "vectors.parquet")
    assert table["user_id"].to_list() == loaded_project.log.user_ids.to_list()
    assert table["vector"].to_numpy().shape == (loaded_project.log.num_users, 8)
    stus = pl.read_parquet(project / "models" / "tokens" / "table.parquet")
    assert np.array_equal(table["stu"].to_numpy()[: stus.height], stus.drop("user_id").to_numpy())


def test_invalid_requests_are_errors_and_ids_are_not_rounded(loaded_project: Befriend) -> None:
    known = int(loaded_project.log.user_ids[3])
    assert loaded_project.recommend([float(known)], k=1)["known"].all()
    assert not loaded_project.recommend([known + 0.5], k=1)["known"].any()
    for ids in ([True], [[known]], [datetime(2024, 5, 31)]):
        with pytest.raises(CallError, match="ids of users are numbers or text"):
            loaded_project.recommend(ids, k=1)
    for k in (0, -1, 2.5):
        with pytest.raises(CallError, match="at least one"):
            loaded_project.recommend([known], k=k)
    with pytest.raises(CallError, match="no user is named, in row 2 of the requests"):
        loaded_project.recommend([known, None], k=1)
    first, last = (datetime.fromtimestamp(int(loaded_project.log.timestamp[k]), UTC) for k in (700, 900))
    with pytest.raises(CallError, match="lies before at"):
        loaded_project.recommend([known], at=last, filter_at=first)


def test_options_are_given_as_an_object_or_by_name(loaded_project: Befriend) -> None:
    users, at = loaded_project.log.user_ids[:5], datetime.fromtimestamp(int(loaded_project.log.timestamp[900]), UTC)
    fields = {
        "model": "stu",
        "k": 4,
        "at": at,
        "regime": "daily",
        "new_only": True,
        "constraints": ListConstraints(cap=3),
    }
    lists = loaded_project.recommend(users, **fields)
    assert lists["rank"].max() == 4 and not lists["contact"].any()
    assert loaded_project.recommend(users, RecommendOptions(**fields)).equals(lists)  # type: ignore[arg-type]
    assert loaded_project.recommend(users, RecommendOptions("stu", k=9, at=at), **fields | {"model": "stu"}).equals(
        lists
    )
    options = RecommendOptions("stu", at=at)
    listed = loaded_project.recommend(users[:1], options)["recommended"]
    assert loaded_project.explain(users[0], listed, options) == loaded_project.explain(
        users[0], listed, model="stu", at=at
    )


def test_an_unknown_option_is_an_error_that_names_the_options(loaded_project: Befriend) -> None:
    names = "model, k, sampling, constraints, approximate, clusters, at, filter_at, regime, action, new_only"
    with pytest.raises(CallError, match=rf"there is no option new\. Options: {names}\."):
        loaded_project.recommend(loaded_project.log.user_ids[:1], new=True)
    with pytest.raises(CallError, match="there is no option at_time"):
        loaded_project.explain(loaded_project.log.user_ids[0], loaded_project.log.user_ids[1:2], at_time=None)


def test_no_requests_give_no_lists(loaded_project: Befriend) -> None:
    one, none = (
        loaded_project.recommend([loaded_project.log.user_ids[0]]),
        loaded_project.recommend(loaded_project.log.user_ids[:0]),
    )
    assert none.height == 0 and none.schema == one.schema
