"""`befriend tokens` as a person meets it: whose tokens, who shares them, and STUs for those who joined since."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from befriend.data.erasure import add_erased, erasure_digest
from befriend.data.event_log import EventLog
from befriend.ops import token_lookup as ops
from befriend.stages import tokenize
from befriend.tokens.token_settings import TokenizeSettings
from tests.conftest import call
from tests.projects import prepare


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    prepare(root, users=120, events=2500)
    settings = TokenizeSettings(dimensions=8, threads=1)
    tokenize.run(settings, root / "prepared", root / "models", root / "reports", root / ".checkpoints")
    (root / "params.yaml").write_text("data: {roles: {view: signal, block: exclude}}\n")
    return root


def table(project: Path) -> pl.DataFrame:
    return pl.read_parquet(project / "models" / "tokens" / "table.parquet")


def test_show_tells_the_tokens_and_how_many_share_them(project: Path) -> None:
    user, *stu = table(project).row(7)
    done = call(project, "tokens", "show", str(user), "--json")
    rows = json.loads(done.stdout)
    assert done.returncode == 0 and [row["token"] for row in rows] == stu
    assert (
        rows[0]["users_with_this_prefix"] >= table(project).filter(token_0=stu[0]).height
    )  # those who joined later too
    assert rows[-1]["users_with_this_prefix"] == 1
    assert " ".join(map(str, stu)) in call(project, "tokens", "show", str(user)).stdout


def test_like_lists_those_who_share_the_prefix(project: Path) -> None:
    first = table(project)["token_0"].value_counts(sort=True)["token_0"][0]
    group = table(project).filter(token_0=first)["user_id"]
    done = call(project, "tokens", "like", str(group[0]), "--prefix", "1", "--json")
    assert set(group[1:]) <= {row["user_id"] for row in json.loads(done.stdout)}
    assert call(project, "tokens", "like", str(group[0]), "--prefix", "4").returncode == 2


def test_nobody_by_that_id(project: Path) -> None:
    done = call(project, "tokens", "show", "nobody")
    assert done.returncode == 2 and "there is no user nobody in prepared" in done.stderr


def later(project: Path, path: Path) -> str:
    """Events since those of the project, of two people who joined."""
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


def test_assign_gives_stus_to_those_who_joined_and_leaves_the_others_alone(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "stus.parquet"
    done = call(project, "tokens", "assign", later(project, tmp_path / "later.parquet"), "--out", str(out))
    assert done.returncode == 0, done.stderr
    stus = pl.read_parquet(out)
    assert stus.head(table(project).height).equals(table(project))
    assert {999_001, 999_002} <= set(stus["user_id"])
    assert stus.select(pl.exclude("user_id")).is_duplicated().sum() == 0
    assert f"{stus.height - table(project).height:,} users got an STU" in done.stdout
    done = call(project, "tokens", "assign", str(project / "log" / "events.parquet"), "--out", str(out))
    assert done.returncode == 1 and "is later than those in prepared" in done.stderr


def test_whoever_is_forgotten_while_stus_are_assigned_gets_none(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, read = table(project)["user_id"][7], ops._extended_log

    def forgets(*arguments: Any) -> EventLog:
        log = read(*arguments)
        add_erased(project / "prepared", [erasure_digest(gone)])
        return log

    monkeypatch.setattr(ops, "_extended_log", forgets)
    out = tmp_path / "stus.parquet"
    try:
        done = call(project, "tokens", "assign", later(project, tmp_path / "later.parquet"), "--out", str(out))
    finally:
        (project / "prepared" / "forgotten.txt").unlink()
    assert done.returncode == 0, done.stderr
    assert gone not in pl.read_parquet(out)["user_id"]


def test_an_stu_that_was_assigned_stays_whatever_comes_later(project: Path, tmp_path: Path) -> None:
    log = pl.read_parquet(project / "log" / "events.parquet")
    last, known = log["timestamp"].max(), log["actor_id"].unique().sort()
    later = [
        (999_001, known[0]),
        *((999_001, other) for other in known[1:30]),
        (known[0], 999_002),
        (999_003, known[0]),
    ]
    events = pl.DataFrame(
        {
            "actor_id": [int(actor) for actor, _ in later],
            "action": ["message"] * len(later),
            "target_id": [int(target) for _, target in later],
            "timestamp": [last + 10 * k for k in range(1, 1 + len(later))],  # type: ignore[operator]
        },
        schema_overrides={"actor_id": log.schema["actor_id"], "target_id": log.schema["target_id"]},
    )
    found = []
    for night, count in enumerate((1, len(later) - 1, len(later))):
        events.head(count).write_parquet(tmp_path / "later.parquet")
        out = tmp_path / f"{night}.parquet"
        assert call(project, "tokens", "assign", str(tmp_path / "later.parquet"), "--out", str(out)).returncode == 0
        found.append(pl.read_parquet(out))
    assert [table.height - found[0].height for table in found] == [0, 1, 2]
    assert all(table.head(earlier.height).equals(earlier) for earlier, table in pairwise(found))


def test_show_tells_of_newcomers_what_the_models_know_of_them(project: Path) -> None:
    from befriend.data.event_log import EventLog
    from befriend.features.text_vectors import TextVectors
    from befriend.tokens.tokenizer import load_tokenizer

    log = EventLog.read(project / "prepared")
    tokens = load_tokenizer(project / "models" / "tokens", log, TextVectors.read(project / "models" / "text", log))
    stus = tokens.with_newcomers(log).table.stus
    for newcomer in range(len(tokens.table), log.num_users):
        rows = json.loads(call(project, "tokens", "show", str(log.user_ids[newcomer]), "--json").stdout)
        assert [row["token"] for row in rows] == stus[newcomer].tolist()
