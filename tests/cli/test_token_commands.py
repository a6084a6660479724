"""`befriend tokens`: show STUs, list users with the same prefix, and assign STUs to users of later events."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from befriend.data.erasure import add_erasure_digests, erasure_digest
from befriend.data.event_log import EventLog
from befriend.ops import token_lookup as ops
from tests.conftest import call


@pytest.fixture(scope="module")
def project(trained_project: Path) -> Path:
    (trained_project / "params.yaml").write_text("data: {roles: {view: signal, block: exclude}}\n")
    return trained_project


def table(project: Path) -> pl.DataFrame:
    return pl.read_parquet(project / "models" / "tokens" / "table.parquet")


def test_show_prints_the_tokens_and_the_number_of_users_of_each_prefix(project: Path) -> None:
    user, *stu = table(project).row(7)
    done = call(project, "tokens", "show", str(user), "--json")
    rows = json.loads(done.stdout)
    assert done.returncode == 0 and [row["token"] for row in rows] == stu
    assert (
        rows[0]["users_with_this_prefix"] >= table(project).filter(token_0=stu[0]).height
    )  # those who joined later too
    assert rows[-1]["users_with_this_prefix"] == 1
    assert " ".join(map(str, stu)) in call(project, "tokens", "show", str(user)).stdout


def test_like_lists_the_users_with_the_same_prefix(project: Path) -> None:
    first = table(project)["token_0"].value_counts(sort=True)["token_0"][0]
    group = table(project).filter(token_0=first)["user_id"]
    done = call(project, "tokens", "like", str(group[0]), "--prefix", "1", "--json")
    assert set(group[1:]) <= {row["user_id"] for row in json.loads(done.stdout)}
    assert call(project, "tokens", "like", str(group[0]), "--prefix", "4").returncode == 2


def test_an_unknown_user_is_an_error(project: Path) -> None:
    done = call(project, "tokens", "show", "nobody")
    assert done.returncode == 2 and "there is no user nobody in the log (prepared/)" in done.stderr


def later_events(project: Path, path: Path) -> str:
    """A file of later events, with two new users."""
    log = pl.read_parquet(project / "log" / "events.parquet")
    last, known = log["timestamp"].max(), log["actor_id"].unique().sort()
    events = pl.DataFrame(
        {
            "actor_id": [999_001, 999_002, int(known[0])],
            "action": ["message"] * 3,
            "target_id": [int(known[0]), int(known[1]), 999_001],
            "timestamp": [last + 10, last + 20, last + 30],  # type: ignore[operator]
        },
        schema_overrides={"actor_id": log.schema["actor_id"], "target_id": log.schema["target_id"]},
    )
    events.write_parquet(path)
    return str(path)


def test_assign_gives_stus_to_new_users_and_keeps_the_others(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "stus.parquet"
    done = call(project, "tokens", "assign", later_events(project, tmp_path / "later.parquet"), "--out", str(out))
    assert done.returncode == 0, done.stderr
    stus = pl.read_parquet(out)
    assert stus.head(table(project).height).equals(table(project))
    assert {999_001, 999_002} <= set(stus["user_id"])
    assert stus.select(pl.exclude("user_id")).is_duplicated().sum() == 0
    assert f"{stus.height - table(project).height:,} users got an STU" in done.stdout
    done = call(project, "tokens", "assign", str(project / "log" / "events.parquet"), "--out", str(out))
    assert done.returncode == 1 and "is later than those in prepared" in done.stderr


def test_a_user_erased_during_the_assignment_gets_no_stu(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    erased_user, read = table(project)["user_id"][7], ops._extended_log

    def erase_while_reading(*arguments: Any) -> EventLog:
        log = read(*arguments)
        add_erasure_digests(project / "prepared", [erasure_digest(erased_user)])
        return log

    monkeypatch.setattr(ops, "_extended_log", erase_while_reading)
    out = tmp_path / "stus.parquet"
    try:
        done = call(project, "tokens", "assign", later_events(project, tmp_path / "later.parquet"), "--out", str(out))
    finally:
        (project / "prepared" / "forgotten.txt").unlink()
    assert done.returncode == 0, done.stderr
    assert erased_user not in pl.read_parquet(out)["user_id"]


def test_later_events_do_not_change_an_assigned_stu(project: Path, tmp_path: Path) -> None:
    log = pl.read_parquet(project / "log" / "events.parquet")
    last, known = log["timestamp"].max(), log["actor_id"].unique().sort()
    later_events = [
        (999_001, known[0]),
        *((999_001, other) for other in known[1:30]),
        (known[0], 999_002),
        (999_003, known[0]),
    ]
    events = pl.DataFrame(
        {
            "actor_id": [int(actor) for actor, _ in later_events],
            "action": ["message"] * len(later_events),
            "target_id": [int(target) for _, target in later_events],
            "timestamp": [last + 10 * k for k in range(1, 1 + len(later_events))],  # type: ignore[operator]
        },
        schema_overrides={"actor_id": log.schema["actor_id"], "target_id": log.schema["target_id"]},
    )
    tables = []
    for night, count in enumerate((1, len(later_events) - 1, len(later_events))):
        events.head(count).write_parquet(tmp_path / "later.parquet")
        out = tmp_path / f"{night}.parquet"
        assert call(project, "tokens", "assign", str(tmp_path / "later.parquet"), "--out", str(out)).returncode == 0
        tables.append(pl.read_parquet(out))
    assert [table.height - tables[0].height for table in tables] == [0, 1, 2]
    assert all(table.head(earlier.height).equals(earlier) for earlier, table in pairwise(tables))


def test_show_prints_the_stus_that_models_use_for_newcomers(project: Path) -> None:
    from befriend.data.event_log import EventLog
    from befriend.features.text_vectors import TextVectors
    from befriend.tokens.tokenizer import load_tokenizer

    log = EventLog.read(project / "prepared")
    tokens = load_tokenizer(project / "models" / "tokens", log, TextVectors.read(project / "models" / "text", log))
    stus = tokens.add_newcomers(log).table.stus
    for newcomer in range(len(tokens.table), log.num_users):
        rows = json.loads(call(project, "tokens", "show", str(log.user_ids[newcomer]), "--json").stdout)
        assert [row["token"] for row in rows] == stus[newcomer].tolist()
