"""`befriend recommend` on the command line: lists as a table, JSON or Parquet, its options, and its error messages."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from befriend import files
from befriend.api import Befriend
from befriend.data.erasure import add_erasure_digests, erasure_digest
from befriend.objectives.cluster_settings import ClusterSettings
from befriend.recommendation import list_maker
from befriend.recommendation.list_maker import ListMaker
from befriend.stages import cluster
from tests.conftest import call


@pytest.fixture(scope="module")
def project(trained_project: Path) -> Path:
    return trained_project


def most_active_user(project: Path) -> str:
    events = pl.read_parquet(project / "log" / "events.parquet")
    return str(events["actor_id"].mode()[0])


def test_table_and_json_show_the_same_list(project: Path) -> None:
    user = most_active_user(project)
    rows = json.loads(call(project, "recommend", "--user", user, "-k", "5", "--json").stdout)
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    table = call(project, "recommend", "--user", user, "-k", "5").stdout
    for row in rows:
        assert str(row["recommended"]) in table


def test_lists_for_a_file_of_users_are_those_for_all_users(project: Path, tmp_path: Path) -> None:
    ids = pl.read_parquet(project / "prepared" / "users.parquet")["user_id"]
    (tmp_path / "ids.txt").write_text("\n".join(map(str, ids)) + "\n")
    options = ("-k", "3", "--new-only", "--out")
    done = call(project, "recommend", "--users", str(tmp_path / "ids.txt"), *options, str(tmp_path / "lists"))
    assert done.returncode == 0, done.stderr
    lists = pl.read_parquet(tmp_path / "lists")
    assert lists["user"].n_unique() == len(ids)
    assert not lists["contact"].any()
    done = call(project, "recommend", "--all", *options, str(tmp_path / "all"))
    assert pl.read_parquet(tmp_path / "all").drop("user").equals(lists.drop("user"))  # ids of a text file are text
    assert done.stdout.startswith(f"{len(ids):,} lists are in ")


def test_users_erased_during_a_run_are_on_no_list_and_in_no_export(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists, vectors = ListMaker.make_lists, Befriend.vectors
    erased: list[int] = []

    def erases_users(self: Any, *arguments: Any, method: Callable[..., pl.DataFrame]) -> pl.DataFrame:
        table = method(self, *arguments)
        add_erasure_digests(project / "prepared", [erasure_digest(user) for user in erased])
        return table

    monkeypatch.setattr(list_maker, "REQUESTS_PER_BLOCK", 30)
    monkeypatch.setattr(ListMaker, "make_lists", functools.partialmethod(erases_users, method=lists))
    monkeypatch.setattr(Befriend, "vectors", functools.partialmethod(erases_users, method=vectors))
    out = tmp_path / "lists.parquet"
    recommend = ("recommend", "--all", "-k", "3", "--out", str(out))
    assert call(project, *recommend).returncode == 0
    most_listed = pl.read_parquet(out)["recommended"].value_counts(sort=True)["recommended"].to_list()
    out.unlink()
    try:
        for user, command in zip(most_listed, (recommend, ("export", str(out))), strict=False):
            erased.append(user)
            done = call(project, *command)
            assert done.returncode == 1
            assert "a user was erased while" in done.stderr
            assert "Run the same command again" in done.stderr
            assert not out.exists()
        assert call(project, *recommend).returncode == 0
        assert len(erased) == 2 and not set(erased) & set(pl.read_parquet(out)["recommended"])
    finally:
        (project / "prepared" / "forgotten.txt").unlink()


def test_blocked_users_are_not_recommended_to_each_other(project: Path, tmp_path: Path) -> None:
    blocks = pl.read_parquet(project / "log" / "events.parquet").filter(action="block")
    assert blocks.height > 3
    out = tmp_path / "lists.parquet"
    assert call(project, "recommend", "--all", "-k", "200", "--out", str(out)).returncode == 0
    listed = set(pl.read_parquet(out).select("user", "recommended").iter_rows())
    assert len(listed) > 10_000  # nearly everyone is on every list
    for actor, target in blocks.select("actor_id", "target_id").iter_rows():
        assert (actor, target) not in listed and (target, actor) not in listed


@pytest.mark.parametrize("model", ["two-tower", "stu", "both"])
def test_approximate_search_agrees_with_exact_search(project: Path, model: str) -> None:
    command = ("recommend", "--user", most_active_user(project), "--json", "--model", model)
    exact, approximate = (
        {row["recommended"] for row in json.loads(call(project, *command, *options).stdout)}
        for options in ((), ("--approximate",))
    )
    assert len(exact & approximate) >= 9


def test_a_cluster_search_ranks_only_users_of_the_probed_clusters(project: Path, tmp_path: Path) -> None:
    for folder in ("prepared", "models"):
        shutil.copytree(project / folder, tmp_path / folder)

    def recommend(*options: str) -> dict[int, float]:
        """Recommended user -> score, best first."""
        command = ("recommend", "--user", most_active_user(project), "--model", "two-tower", "--json", *options)
        return {row["recommended"]: row["score"] for row in json.loads(call(tmp_path, *command).stdout)}

    settings = ClusterSettings(
        epochs=1, clusters=4, probe_share=0.1, recently_active=3, validation_events=20, history_entries=5, threads=1
    )
    cluster.run(settings, *(tmp_path / name for name in ("prepared", "models", "reports", ".checkpoints")))
    exact, clustered = recommend("-k", "200"), recommend("--clusters", "-k", "10")
    assert len(clustered) == 10 and list(clustered) != list(exact)[:10]
    assert list(clustered) == sorted(clustered, key=list(exact).index)  # in the order of the full search
    assert list(clustered.values()) == pytest.approx([exact[user] for user in clustered], abs=1e-5)
    about = tmp_path / "models" / "clusters" / "clusters.json"
    search = files.read_json(about)
    files.write_json(about, search | {"search": search["search"] | {"probe_share": 1.0}})
    assert recommend("--clusters", "-k", "200") == pytest.approx(exact, abs=1e-5)  # all clusters are probed


def test_a_cluster_search_needs_clusters_and_the_two_tower_model(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project / "prepared", tmp_path / "prepared")
    shutil.copytree(project / "models", tmp_path / "models", ignore=shutil.ignore_patterns("clusters"))
    command = ("recommend", "--user", most_active_user(project), "--clusters", "--model")
    missing = call(tmp_path, *command, "two-tower")
    assert missing.returncode == 1 and "Run `dvc repro cluster` first" in missing.stderr
    wrong = call(tmp_path, *command, "stu")
    assert wrong.returncode == 2 and "--clusters is a search of the two-tower model" in wrong.stderr


def test_sampled_lists_depend_on_the_seed(project: Path) -> None:
    command = ("recommend", "--user", most_active_user(project), "--json", "--model", "stu", "--new-only")
    ranked, *sampled = (
        [row["recommended"] for row in json.loads(call(project, *command, *options).stdout)]
        for options in (
            (),
            ("--sample", "--seed", "1", "--temperature", "5"),
            ("--sample", "--seed", "1", "--temperature", "5"),
            ("--sample", "--seed", "2", "--temperature", "5"),
            ("--sample", "--top-k", "10"),
        )
    )
    assert sampled[0] == sampled[1] != sampled[2]
    assert sorted(sampled[3]) == sorted(ranked) != sampled[0]  # drawn from the 10 best alone


def test_constraints_limit_who_is_listed_and_how_often(project: Path, tmp_path: Path) -> None:
    ids = pl.read_parquet(project / "prepared" / "users.parquet")["user_id"]
    (tmp_path / "ids.txt").write_text("\n".join(map(str, ids)) + "\n")
    (tmp_path / "only.txt").write_text("\n".join(map(str, ids[:20])) + "\n")
    command = ("recommend", "--users", str(tmp_path / "ids.txt"), "-k", "4", "--out", str(tmp_path / "lists"))
    for model in ("two-tower", "stu", "both"):
        done = call(project, *command, "--model", model, "--only", str(tmp_path / "only.txt"))
        assert done.returncode == 0, done.stderr
        assert set(pl.read_parquet(tmp_path / "lists")["recommended"]) <= set(ids[:20])
    assert call(project, *command, "--cap", "5").returncode == 0
    lists = pl.read_parquet(tmp_path / "lists")
    assert lists["recommended"].value_counts()["count"].max() == 5
    # Users who have not reached the cap still fill the lists.
    assert (lists.group_by("user").len()["len"] == 4).sum() > 0.95 * len(ids)
    done = call(project, *command, "--same", "town")
    assert (done.returncode, "there is no categorical attribute town" in done.stderr) == (2, True)


def test_models_give_different_lists(project: Path) -> None:
    lists = [
        json.loads(call(project, "recommend", "--user", most_active_user(project), "--json", "--model", model).stdout)
        for model in ("two-tower", "stu", "both")
    ]
    assert len({tuple(row["score"] for row in rows) for rows in lists}) == 3
    assert {len(rows) for rows in lists} == {10}


def test_an_unknown_user_gets_the_cold_start_list_with_a_warning(project: Path) -> None:
    done = call(project, "recommend", "--user", "987654321", "-k", "4", "--json")
    assert done.returncode == 0 and len(json.loads(done.stdout)) == 4
    assert "nothing is known of 987654321 at that time: this is a cold-start list" in done.stderr


def test_a_time_before_the_log_is_an_error(project: Path) -> None:
    early = call(project, "recommend", "--user", most_active_user(project), "--at", "2000-01-01")
    assert early.returncode == 1 and "the log begins on" in early.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "name one user (--user ID), a file of users"),
        (["--user", "1", "--at", "yesterday"], 2, "write it as 2024-05-31"),
        (["--user", "1", "--action", "wave"], 2, "there is no action “wave”. There are: "),
        (["--users", "nowhere.txt"], 2, "there is no file nowhere.txt"),
        (["--users", "prepared/users.parquet", "--only", "prepared"], 2, "there is no file prepared"),
        (["--users", "models/two_tower/weights.safetensors"], 2, "Write one id per line, in UTF-8, or use Parquet"),
    ],
    ids=["no user", "time", "action", "file", "folder", "bytes"],
)
def test_an_invalid_call_says_what_to_do(project: Path, arguments: list[str], code: int, message: str) -> None:
    done = call(project, "recommend", *arguments)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert message in done.stderr


def test_a_missing_model_names_the_stage_that_makes_it(project: Path, tmp_path: Path) -> None:
    (tmp_path / "prepared").symlink_to(project / "prepared")
    done = call(tmp_path, "recommend", "--user", "1")
    assert done.returncode == 1
    assert "models/text holds no text vectors. Run `dvc repro embed_text` first" in done.stderr
