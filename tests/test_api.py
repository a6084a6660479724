"""befriend from Python: the lists of the command line, reasons that hold in the log, vectors to take elsewhere."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import befriend
from befriend.api import Befriend, RecommendOptions, Rules, Sampling
from befriend.errors import CallError
from tests.conftest import call


@pytest.fixture(scope="module")
def project(trained_project: Path) -> Path:
    return trained_project


@pytest.fixture(scope="module")
def people(project: Path) -> Befriend:
    return befriend.load(project)


def test_lists_are_those_of_the_command_line(project: Path, people: Befriend) -> None:
    user = people.log.user_ids[int(np.bincount(people.log.actor).argmax())]
    for model in ("two-tower", "stu", "both"):
        found = people.recommend([user], k=7, new_only=True, model=model)
        shown = call(project, "recommend", "--user", str(user), "-k", "7", "--new-only", "--model", model, "--json")
        assert found["recommended"].to_list() == [row["recommended"] for row in json.loads(shown.stdout)]
    drawn = people.recommend([user], k=5, sampling=Sampling(temperature=2.0, seed=3))
    assert drawn["recommended"].n_unique() == 5


def test_nothing_is_said_of_whom_nothing_is_known(people: Befriend) -> None:
    known = people.log.user_ids[0]
    with pytest.raises(CallError, match="nothing is known of 987654321"):
        people.explain(known, [987654321])


def test_somebody_unknown_gets_reasons_that_hold_for_everybody(people: Befriend) -> None:
    found = people.recommend([987654321], k=5)
    assert not found["known"].any()
    for sentences in people.explain(987654321, found["recommended"]):
        assert sentences and "You" not in " ".join(sentences)


def test_ids_are_those_that_the_log_writes(people: Befriend) -> None:
    known = people.log.user_ids[3]
    assert people.recommend([str(known)], k=1)["known"].all()
    for other in (f"0{known}", f"+{known}", f" {known}", f"{known}.0"):
        assert not people.recommend([other], k=1)["known"].any(), other


def test_reasons_on_the_command_line(project: Path, people: Befriend) -> None:
    user = str(people.log.user_ids[3])
    rows = json.loads(call(project, "recommend", "--user", user, "-k", "3", "--explain", "--json").stdout)
    assert all(row["why"] for row in rows)
    shown = call(project, "recommend", "--user", user, "-k", "3", "--explain").stdout
    assert "why" in shown


def test_vectors_and_stus_of_everyone(project: Path, people: Befriend, tmp_path: Path) -> None:
    done = call(project, "export", str(tmp_path / "vectors.parquet"))
    assert done.returncode == 0, done.stderr
    table = pl.read_parquet(tmp_path / "vectors.parquet")
    assert table["user_id"].to_list() == people.log.user_ids.to_list()
    assert table["vector"].to_numpy().shape == (people.log.num_users, 8)
    stus = pl.read_parquet(project / "models" / "tokens" / "table.parquet")
    assert np.array_equal(table["stu"].to_numpy()[: stus.height], stus.drop("user_id").to_numpy())


def test_what_cannot_be_asked_for_is_refused_and_nobody_is_taken_for_somebody_else(people: Befriend) -> None:
    known = int(people.log.user_ids[3])
    assert people.recommend([float(known)], k=1)["known"].all()
    assert not people.recommend([known + 0.5], k=1)["known"].any()
    for ids in ([True], [[known]], [datetime(2024, 5, 31)]):
        with pytest.raises(CallError, match="ids of users are numbers or text"):
            people.recommend(ids, k=1)
    for k in (0, -1, 2.5):
        with pytest.raises(CallError, match="at least one"):
            people.recommend([known], k=k)
    with pytest.raises(CallError, match="no user is named, in row 2 of the requests"):
        people.recommend([known, None], k=1)
    first, last = (datetime.fromtimestamp(int(people.log.timestamp[k]), UTC) for k in (700, 900))
    with pytest.raises(CallError, match="lies before at"):
        people.recommend([known], at=last, filter_at=first)


def test_options_are_given_as_an_object_or_by_name(people: Befriend) -> None:
    users, at = people.log.user_ids[:5], datetime.fromtimestamp(int(people.log.timestamp[900]), UTC)
    fields = {"model": "stu", "k": 4, "at": at, "regime": "daily", "new_only": True, "rules": Rules(cap=3)}
    lists = people.recommend(users, **fields)
    assert lists["rank"].max() == 4 and not lists["contact"].any()
    assert people.recommend(users, RecommendOptions(**fields)).equals(lists)  # type: ignore[arg-type]
    assert people.recommend(users, RecommendOptions("stu", k=9, at=at), **fields | {"model": "stu"}).equals(lists)
    options = RecommendOptions("stu", at=at)
    listed = people.recommend(users[:1], options)["recommended"]
    assert people.explain(users[0], listed, options) == people.explain(users[0], listed, model="stu", at=at)


def test_an_option_that_there_is_not_is_refused_and_the_others_are_named(people: Befriend) -> None:
    names = "model, k, sampling, rules, approximate, clusters, at, filter_at, regime, action, new_only"
    with pytest.raises(CallError, match=rf"there is no option new\. Options: {names}\."):
        people.recommend(people.log.user_ids[:1], new=True)
    with pytest.raises(CallError, match="there is no option at_time"):
        people.explain(people.log.user_ids[0], people.log.user_ids[1:2], at_time=None)


def test_no_requests_give_no_lists(people: Befriend) -> None:
    one, none = people.recommend([people.log.user_ids[0]]), people.recommend(people.log.user_ids[:0])
    assert none.height == 0 and none.schema == one.schema
