"""`befriend tokens` as a person meets it: whose tokens, who shares them, and STUs for those who joined since."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path

import polars as pl
import pytest

from befriend.cli import main
from befriend.stages import tokenize
from befriend.tokens.settings import TokenizeSettings
from tests.stages.conftest import prepare


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    prepare(root, users=120, events=2500)
    settings = TokenizeSettings(dimensions=8, threads=1)
    tokenize.run(settings, root / "prepared", root / "models", root / "reports", root / ".checkpoints")
    (root / "params.yaml").write_text("data: {roles: {view: signal, block: exclude}}\n")
    return root


def call(project: Path, *arguments: str) -> tuple[int, str, str]:
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.chdir(project), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        before, sys.argv = sys.argv, ["befriend", "tokens", *arguments]
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            sys.argv = before
    return code, out.getvalue(), err.getvalue()


def table(project: Path) -> pl.DataFrame:
    return pl.read_parquet(project / "models" / "tokens" / "table.parquet")


def test_show_tells_the_tokens_and_how_many_share_them(project: Path) -> None:
    user, *stu = table(project).row(7)
    code, out, _ = call(project, "show", str(user), "--json")
    rows = json.loads(out)
    assert code == 0 and [row["token"] for row in rows] == stu
    assert (
        rows[0]["users_with_this_prefix"] >= table(project).filter(token_0=stu[0]).height
    )  # those who joined later too
    assert rows[-1]["users_with_this_prefix"] == 1
    assert " ".join(map(str, stu)) in call(project, "show", str(user))[1]


def test_like_lists_those_who_share_the_prefix(project: Path) -> None:
    first = table(project)["token_0"].value_counts(sort=True)["token_0"][0]
    group = table(project).filter(token_0=first)["user_id"]
    code, out, _ = call(project, "like", str(group[0]), "--prefix", "1", "--json")
    assert code == 0 and set(group[1:]) <= {row["user_id"] for row in json.loads(out)}
    assert call(project, "like", str(group[0]), "--prefix", "4")[0] == 2


def test_nobody_by_that_id(project: Path) -> None:
    code, _, err = call(project, "show", "-7")
    assert code == 2
    code, _, err = call(project, "show", "nobody")
    assert code == 2 and "there is no user nobody in prepared" in err


def test_assign_gives_stus_to_those_who_joined_and_leaves_the_others_alone(project: Path, tmp_path: Path) -> None:
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
    events.write_parquet(tmp_path / "later.parquet")
    out = tmp_path / "stus.parquet"
    code, told, err = call(project, "assign", str(tmp_path / "later.parquet"), "--out", str(out))
    assert code == 0, err
    stus = pl.read_parquet(out)
    assert stus.head(table(project).height).equals(table(project))
    assert {999_001, 999_002} <= set(stus["user_id"])
    assert stus.select(pl.exclude("user_id")).is_duplicated().sum() == 0
    assert f"{stus.height - table(project).height:,} users got an STU" in told
    code, _, err = call(project, "assign", str(project / "log" / "events.parquet"), "--out", str(out))
    assert code == 1 and "is later than those in prepared" in err
