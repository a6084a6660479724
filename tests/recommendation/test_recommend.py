"""`befriend recommend` on the command line: lists as a table, JSON or Parquet, its options, and its error messages."""

from __future__ import annotations

import functools
import json
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
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


def test_reasons_are_given_without_texts_and_statements_which_promoted_runs_do_not_keep(
    project: Path, tmp_path: Path
) -> None:
    promoted = shutil.copytree(project, tmp_path / "promoted")
    for name in ("texts.parquet", "statements.parquet"):
        (promoted / "prepared" / name).unlink(missing_ok=True)
    done = call(promoted, "recommend", "--user", most_active_user(project), "-k", "3", "--explain", "--json")
    assert done.returncode == 0, done.stderr
    assert all(row["why"] for row in json.loads(done.stdout))


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
    assert pl.read_parquet(tmp_path / "all").equals(lists)
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
    assert missing.returncode == 1 and "there is no models/clusters. Run `make run` first" in missing.stderr
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


def test_an_unknown_user_is_an_error_with_the_nearest_ids(project: Path) -> None:
    ids = pl.read_parquet(project / "prepared" / "users.parquet")["user_id"]
    user = next(user for user in ids if user > 99 and user * 10 not in ids)
    done = call(project, "recommend", "--user", f"{user}0")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"there is no user {user}0 in the log (prepared/). Did you mean " in done.stderr
    assert str(user) in done.stderr.split("Did you mean")[1]
    assert "--cold-start makes lists of users whom the log does not know" in done.stderr
    word = call(project, "recommend", "--user", "anna", "--cold-start")
    assert word.returncode == 2 and "anna can be no id of this log. Ids are whole numbers, such as" in word.stderr


def test_cold_start_makes_the_list_of_an_unknown_user(project: Path) -> None:
    done = call(project, "recommend", "--user", "987654321", "-k", "4", "--json", "--cold-start")
    rows = json.loads(done.stdout)
    assert done.returncode == 0 and {row["user"] for row in rows} == {987654321} and len(rows) == 4
    assert "nothing is known of 987654321 at that time: this is a cold-start list" in done.stderr


@pytest.mark.parametrize("option", ["--users", "--requests"])
def test_unknown_users_of_a_file_are_counted_and_named(project: Path, tmp_path: Path, option: str) -> None:
    known = pl.read_parquet(project / "prepared" / "users.parquet")["user_id"][0]
    users = [known, *range(900_001, 900_008)]
    path, out = tmp_path / "users", tmp_path / "lists"
    path.write_text("\n".join(str(user) if option == "--users" else json.dumps({"user_id": user}) for user in users))
    command = ("recommend", option, str(path), "-k", "2", "--out", str(out))
    done = call(project, *command)
    assert done.returncode == 2 and not out.exists()
    assert (
        f"7 of 8 users in {path} are not in the log (prepared/): 900001, 900002, 900003, 900004, 900005, ..."
        in done.stderr
    )
    assert call(project, *command, "--cold-start").returncode == 0
    assert pl.read_parquet(out)["user"].unique(maintain_order=True).to_list() == users


def test_an_erased_user_is_unknown_and_is_not_suggested(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project / "prepared", tmp_path / "prepared")
    (tmp_path / "models").symlink_to(project / "models")
    ids = pl.read_parquet(project / "prepared" / "users.parquet")["user_id"]
    erased = int(ids[5])
    add_erasure_digests(tmp_path / "prepared", [erasure_digest(erased)])
    for user in (erased, f"{erased}0"):
        done = call(tmp_path, "recommend", "--user", str(user))
        problem, hint = done.stderr.split(" in the log (prepared/). ")
        assert (done.returncode, problem) == (2, f"befriend: there is no user {user}")
        assert str(erased) not in re.findall(r"\d+", hint)
    assert call(tmp_path, "recommend", "--all", "-k", "1", "--out", str(tmp_path / "lists")).returncode == 0
    assert sorted(pl.read_parquet(tmp_path / "lists")["user"].unique()) == sorted(
        user for user in ids if user != erased
    )


def test_ids_have_the_type_of_the_log_and_notes_are_on_standard_error(project: Path) -> None:
    done = call(project, "recommend", "--user", most_active_user(project), "-k", "2", "--json")
    rows = json.loads(done.stdout)
    end = datetime.fromtimestamp(pl.read_parquet(project / "prepared" / "events.parquet")["timestamp"][-1], UTC)
    assert done.stderr.splitlines() == [
        f"live lists as of {end:%Y-%m-%d %H:%M:%S} UTC, the end of the log (--regime and --at for others)",
        "loading models and histories ...",
    ]
    assert {(type(row["user"]), type(row["recommended"])) for row in rows} == {(int, int)}


def test_a_time_before_the_log_is_an_error(project: Path) -> None:
    early = call(project, "recommend", "--user", most_active_user(project), "--at", "2000-01-01")
    assert early.returncode == 1 and "the log begins on" in early.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "name one user (--user ID), a file of users"),
        (["--user", "1", "--at", "yesterday"], 2, "write it as 2024-05-31"),
        (["--user", "1", "--regime", "frozen"], 2, "add this time, as in --at 2024-05-31"),
        (["--user", "1", "--regime", "streaming"], 2, "add --action, or choose another --regime"),
        (["--user", "1", "--regime", "daily", "--action", "message"], 2, "leave out --action or --regime"),
        (["--user", "1", "--at", "2024-02-01", "--filter-at", "2024-01-01"], 2, "give the same time or a later one"),
        (["--user", "1", "--temperature", "2"], 2, "add --sample"),
        (["--user", "1", "--json", "--out", "x"], 2, "leave out one of them"),
        (["--all", "--out", "x", "--cold-start"], 2, "leave out one of them"),
        (["--user", "1", "--run", "nowhere"], 2, "there is no folder nowhere. Name the folder of a project"),
        (["--user", "1", "--newest"], 2, "promote a run first (befriend gate, befriend promote)"),
        (["--user", "1", "--action", "wave"], 2, "there is no action “wave”. There are: "),
        (["--users", "nowhere.txt"], 2, "there is no file nowhere.txt"),
        (["--users", "prepared/users.parquet", "--only", "prepared"], 2, "there is no file prepared"),
        (["--users", "models/two_tower/weights.safetensors"], 2, "Write one id per line, in UTF-8, or use Parquet"),
    ],
)
def test_an_invalid_call_says_what_to_do(project: Path, arguments: list[str], code: int, message: str) -> None:
    done = call(project, "recommend", *arguments)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert message in done.stderr


def test_a_run_that_is_not_complete_is_an_error_before_anything_is_loaded(project: Path, tmp_path: Path) -> None:
    (tmp_path / "prepared").symlink_to(project / "prepared")
    done = call(tmp_path, "recommend", "--user", "1")
    assert done.returncode == 1
    assert "there is no models/text. Run `make run` first" in done.stderr
