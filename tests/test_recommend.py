"""`befriend recommend` as a person meets it: a table, JSON, Parquet, and plain words for what cannot be."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from befriend.api import Befriend
from befriend.data.forgotten import add_marks, mark
from befriend.models.cluster_settings import ClusterSettings
from befriend.retrieval import recommend as core
from befriend.retrieval.recommend import ListMaker
from befriend.stages import cluster
from tests.conftest import call
from tests.stages.conftest import small_project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_project(tmp_path_factory.mktemp("project"))


def somebody(project: Path) -> str:
    events = pl.read_parquet(project / "log" / "events.parquet")
    return str(events["actor_id"].mode()[0])


def test_a_table_and_json_tell_the_same(project: Path) -> None:
    user = somebody(project)
    found = json.loads(call(project, "recommend", "--user", user, "-k", "5", "--json").stdout)
    assert [row["rank"] for row in found] == [1, 2, 3, 4, 5]
    assert [row["score"] for row in found] == sorted((row["score"] for row in found), reverse=True)
    table = call(project, "recommend", "--user", user, "-k", "5").stdout
    for row in found:
        assert str(row["recommended"]) in table


def test_all_users_of_a_file_as_parquet(project: Path, tmp_path: Path) -> None:
    ids = pl.read_parquet(project / "prepared" / "users.parquet")["user_id"]
    (tmp_path / "ids.txt").write_text("\n".join(map(str, ids)) + "\n")
    done = call(
        project,
        "recommend",
        "--users",
        str(tmp_path / "ids.txt"),
        "-k",
        "3",
        "--new-only",
        "--out",
        str(tmp_path / "lists"),
    )
    assert done.returncode == 0, done.stderr
    lists = pl.read_parquet(tmp_path / "lists")
    assert lists["user"].n_unique() == len(ids)
    assert not lists["contact"].any()
    done = call(project, "recommend", "--all", "-k", "3", "--new-only", "--out", str(tmp_path / "all"))
    assert pl.read_parquet(tmp_path / "all").drop("user").equals(lists.drop("user"))  # ids of a text file are text
    assert done.stdout.startswith(f"{len(ids):,} lists are in ")


def test_whoever_is_forgotten_meanwhile_is_on_none_of_the_lists_and_in_no_export(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists, vectors, gone = ListMaker.lists, Befriend.vectors, []

    def forgets(self: Any, *arguments: Any, made: Callable[..., pl.DataFrame]) -> pl.DataFrame:
        table = made(self, *arguments)
        add_marks(project / "prepared", [mark(one) for one in gone])
        return table

    monkeypatch.setattr(core, "AT_ONCE", 30)
    monkeypatch.setattr(ListMaker, "lists", functools.partialmethod(forgets, made=lists))
    monkeypatch.setattr(Befriend, "vectors", functools.partialmethod(forgets, made=vectors))
    out = tmp_path / "lists.parquet"
    asked = ("recommend", "--all", "-k", "3", "--out", str(out))
    assert call(project, *asked).returncode == 0
    ids = pl.read_parquet(out)["recommended"].value_counts(sort=True)["recommended"].to_list()
    out.unlink()
    try:
        for one, command in zip(ids, (asked, ("export", str(out))), strict=False):
            gone.append(one)
            done = call(project, *command)
            assert done.returncode == 1
            assert "somebody asked to be forgotten while" in done.stderr
            assert "Run the same command again" in done.stderr
            assert not out.exists()
        assert call(project, *asked).returncode == 0
        assert not set(gone) & set(pl.read_parquet(out)["recommended"])
    finally:
        (project / "prepared" / "forgotten.txt").unlink()


def test_nobody_blocked_is_recommended(project: Path) -> None:
    events = pl.read_parquet(project / "log" / "events.parquet")
    blocks = events.filter(action="block").select("actor_id", "target_id")
    assert blocks.height
    for a, b in blocks.head(3).iter_rows():
        for one, other in ((a, b), (b, a)):
            found = json.loads(call(project, "recommend", "--user", str(one), "-k", "200", "--json").stdout)
            assert other not in [row["recommended"] for row in found]


@pytest.mark.parametrize("model", ["two-tower", "stu", "both"])
def test_approximate_search_finds_nearly_the_same(project: Path, model: str) -> None:
    asked = ("recommend", "--user", somebody(project), "--json", "--model", model)
    exact, fast = (
        {row["recommended"] for row in json.loads(call(project, *asked, *more).stdout)}
        for more in ((), ("--approximate",))
    )
    assert len(exact & fast) >= 9


def test_clusters_are_searched_on_request(project: Path) -> None:
    user = somebody(project)
    asked = ("recommend", "--user", user, "--json", "--model", "two-tower")
    missing = call(project, *asked, "--clusters")
    assert missing.returncode == 1 and "Run `dvc repro cluster` first" in missing.stderr
    settings = ClusterSettings(epochs=1, clusters=4, validation_events=20, threads=1)
    cluster.run(settings, *(project / name for name in ("prepared", "models", "reports", ".checkpoints")))
    exact, found = (json.loads(call(project, *asked, *more).stdout) for more in ((), ("--clusters",)))
    assert found == exact  # here the freshest are everybody
    wrong = call(project, *asked[:-1], "stu", "--clusters")
    assert wrong.returncode == 2 and "--clusters is a search of the two-tower model" in wrong.stderr


def test_drawn_lists_are_those_of_their_seed(project: Path) -> None:
    asked = ("recommend", "--user", somebody(project), "--json", "--model", "stu", "--new-only")
    ranked, *drawn = (
        [row["recommended"] for row in json.loads(call(project, *asked, *more).stdout)]
        for more in (
            (),
            ("--sample", "--seed", "1", "--temperature", "5"),
            ("--sample", "--seed", "1", "--temperature", "5"),
            ("--sample", "--seed", "2", "--temperature", "5"),
            ("--sample", "--top-k", "10"),
        )
    )
    assert drawn[0] == drawn[1] != drawn[2]
    assert sorted(drawn[3]) == sorted(ranked) != drawn[0]


def test_rules_of_the_operator(project: Path, tmp_path: Path) -> None:
    ids = pl.read_parquet(project / "prepared" / "users.parquet")["user_id"]
    (tmp_path / "ids.txt").write_text("\n".join(map(str, ids)) + "\n")
    (tmp_path / "only.txt").write_text("\n".join(map(str, ids[:20])) + "\n")
    asked = ("recommend", "--users", str(tmp_path / "ids.txt"), "-k", "4", "--out", str(tmp_path / "lists"))
    for model in ("two-tower", "stu", "both"):
        done = call(project, *asked, "--model", model, "--only", str(tmp_path / "only.txt"))
        assert done.returncode == 0, done.stderr
        assert set(pl.read_parquet(tmp_path / "lists")["recommended"]) <= set(ids[:20])
    assert call(project, *asked, "--cap", "5").returncode == 0
    lists = pl.read_parquet(tmp_path / "lists")
    assert lists["recommended"].value_counts()["count"].max() == 5
    # Whoever is left after the many who were shown often enough still makes full lists.
    assert (lists.group_by("user").len()["len"] == 4).sum() > 0.95 * len(ids)
    done = call(project, *asked, "--same", "town")
    assert (done.returncode, "there is no categorical attribute town" in done.stderr) == (2, True)


def test_models_differ(project: Path) -> None:
    lists = [
        json.loads(call(project, "recommend", "--user", somebody(project), "--json", "--model", model).stdout)
        for model in ("two-tower", "stu", "both")
    ]
    assert len({tuple(row["score"] for row in found) for found in lists}) == 3
    assert {len(found) for found in lists} == {10}


def test_an_unknown_user_is_told_so(project: Path) -> None:
    done = call(project, "recommend", "--user", "987654321", "-k", "4")
    assert done.returncode == 0
    assert "nothing is known of 987654321 at that moment: the cold-start list" in done.stderr
    early = call(project, "recommend", "--user", somebody(project), "--at", "2000-01-01")
    assert early.returncode == 1 and "the log begins on" in early.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "name one person (--user ID), a file of them"),
        (["--user", "1", "--at", "yesterday"], 2, "write it as 2024-05-31"),
        (["--user", "1", "--action", "wave"], 2, "there is no action “wave”. There are: "),
        (["--users", "nowhere.txt"], 2, "there is no file nowhere.txt"),
        (["--users", "prepared/users.parquet", "--only", "prepared"], 2, "there is no file prepared"),
        (["--users", "models/two_tower/weights.safetensors"], 2, "Ids stand one a line, in UTF-8, or in Parquet"),
    ],
    ids=["nobody", "time", "action", "file", "folder", "bytes"],
)
def test_a_wrong_call_says_what_to_do(project: Path, arguments: list[str], code: int, message: str) -> None:
    done = call(project, "recommend", *arguments)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert message in done.stderr


def test_without_a_model_it_says_which_stage_makes_one(project: Path, tmp_path: Path) -> None:
    (tmp_path / "prepared").symlink_to(project / "prepared")
    done = call(tmp_path, "recommend", "--user", "1")
    assert done.returncode == 1
    assert "there are no vectors of texts in models/text. Run `dvc repro embed_text` first" in done.stderr
