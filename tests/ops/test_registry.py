"""The registry: promotion and rollback change the served run in one step, also if a process is killed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from befriend import files, layout
from befriend.analysis.fingerprint import PREPARED_FILES
from befriend.errors import CallError, DataError
from befriend.ops import registry
from befriend.ops.registry import (
    current_champion,
    promote,
    promoted_runs,
    rollback,
    rolled_back_runs,
    run_digest,
)
from tests.conftest import ROOT

DECISION = {"verdict": "promote", "checks": []}


def write_run(root: Path, content: str) -> None:
    """Writes a complete run; prepared tables and weights are text files with `content`."""
    for path in [layout.PREPARED / name for name in PREPARED_FILES] + [
        folder / "weights" for folder in layout.MODEL_FOLDERS
    ]:
        files.write_text(root / path, content)
    files.write_json(root / layout.VALIDATION, {"users": 3, "rows": {"events": 9}, "time": {"first": 1, "last": 9}})
    cell = {"both": {"n": 4, "ndcg@10": 0.5, "hit@10": 1, "mrr@100": 0.5, "ndcg@10_low": 0.4, "ndcg@10_high": 0.6}}
    files.write_json(root / layout.METRICS, {"daily": {"new": {"new": cell}}})


def served_weights(root: Path) -> str:
    return (root / layout.CHAMPION / "models" / "stu" / "weights").read_text()


def test_promoted_run_is_served_unchanged_after_the_current_run_changes(tmp_path: Path) -> None:
    assert current_champion(tmp_path) is None
    write_run(tmp_path, "one")
    first = promote(tmp_path, DECISION, keep=5)
    write_run(tmp_path, "two")
    assert (first.number, served_weights(tmp_path)) == (1, "one")
    assert run_digest(tmp_path / layout.CHAMPION) == first.manifest["run"] != run_digest(tmp_path)
    manifest = first.manifest
    assert (manifest["previous"], manifest["decision"], manifest["ndcg@10"]) == (
        None,
        DECISION,
        {"daily": {"new": 0.5}},
    )
    assert manifest["data"] == {"users": 3, "events": 9, "first": 1, "last": 9}


def test_rollback_serves_the_previous_champion_or_a_run_by_number(tmp_path: Path) -> None:
    with pytest.raises(CallError, match=r"no run was promoted yet: promote one first \(befriend promote\)"):
        rollback(tmp_path, 1)
    for content in ("one", "two", "three"):
        write_run(tmp_path, content)
        promote(tmp_path, DECISION, keep=5)
    assert [rollback(tmp_path).number, served_weights(tmp_path)] == [2, "two"]
    assert [rollback(tmp_path).number, served_weights(tmp_path)] == [1, "one"]
    with pytest.raises(CallError, match="no run was served before the champion"):
        rollback(tmp_path)
    assert [rollback(tmp_path, 3).number, served_weights(tmp_path)] == [3, "three"]
    with pytest.raises(CallError, match=r"run 9 is not in the registry. Runs in the registry: 1, 2, 3"):
        rollback(tmp_path, 9)
    history = [json.loads(line) for line in (tmp_path / layout.REGISTRY / registry.HISTORY).read_text().splitlines()]
    assert [(entry["how"], entry["number"]) for entry in history] == [
        ("promote", 1), ("promote", 2), ("promote", 3), ("rollback", 2), ("rollback", 1), ("rollback", 3),
    ]  # fmt: skip


def test_previous_run_of_a_promotion_after_a_rollback_is_the_restored_run(tmp_path: Path) -> None:
    for content in ("one", "two"):
        write_run(tmp_path, content)
        promote(tmp_path, DECISION, keep=5)
    rollback(tmp_path)
    write_run(tmp_path, "three")
    assert promote(tmp_path, DECISION, keep=5).manifest["previous"] == 1
    assert rollback(tmp_path).number == 1


def test_run_counts_as_rolled_back_until_it_is_served_again(tmp_path: Path) -> None:
    for content in ("one", "two"):
        write_run(tmp_path, content)
        promote(tmp_path, DECISION, keep=5)
    assert rolled_back_runs(tmp_path) == []
    rollback(tmp_path)
    assert [run.number for run in rolled_back_runs(tmp_path)] == [2]
    write_run(tmp_path, "three")
    promote(tmp_path, DECISION, keep=5)
    assert [run.number for run in rolled_back_runs(tmp_path)] == [2]
    rollback(tmp_path, 2)
    assert [run.number for run in rolled_back_runs(tmp_path)] == [3]


def test_old_runs_are_removed_except_the_champion_and_the_one_before_it(tmp_path: Path) -> None:
    for content in ("one", "two", "three", "four"):
        write_run(tmp_path, content)
        promote(tmp_path, DECISION, keep=2)
    assert [run.number for run in promoted_runs(tmp_path)] == [3, 4]
    rollback(tmp_path)  # to 3, whose own previous run was removed
    write_run(tmp_path, "five")
    promote(tmp_path, DECISION, keep=2)
    assert [run.number for run in promoted_runs(tmp_path)] == [3, 4, 5]  # 3 was served before 5
    assert served_weights(tmp_path) == "five"


def test_killed_promotion_leaves_a_valid_champion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path, "one")
    promote(tmp_path, DECISION, keep=5)
    write_run(tmp_path, "two")
    for step in ("_set_champion", "_remove_old_runs"):
        with monkeypatch.context() as patch:
            patch.setattr(registry, step, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                promote(tmp_path, DECISION, keep=5)
        assert served_weights(tmp_path) == ("one" if step == "_set_champion" else "two")
        assert current_champion(tmp_path) is not None
    assert promote(tmp_path, DECISION, keep=5).number == 4


PROMOTE = """
import sys
from pathlib import Path
from befriend.ops.registry import promote
for _ in range(5):
    promote(Path(sys.argv[1]), {"verdict": "promote"}, keep=100)
"""


@pytest.mark.system
def test_concurrent_promotions_run_one_after_the_other(tmp_path: Path) -> None:
    write_run(tmp_path, "one")
    command = [sys.executable, "-c", PROMOTE, str(tmp_path)]
    running = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]
    assert [process.wait(timeout=60) for process in running] == [0, 0]
    assert [run.number for run in promoted_runs(tmp_path)] == list(range(1, 11))
    previous = [run.manifest["previous"] for run in promoted_runs(tmp_path)]
    assert previous == [None, *range(1, 10)]


def test_missing_folder_of_the_champion_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    for content in ("one", "two"):
        write_run(tmp_path, content)
        promote(tmp_path, DECISION, keep=5)
    files.remove(tmp_path / layout.REGISTRY / "0002")
    with pytest.raises(DataError, match="befriend rollback --to NUMBER"):
        current_champion(tmp_path)
    assert rollback(tmp_path, 1).number == 1


def test_rollback_takes_less_than_two_seconds(tmp_path: Path) -> None:
    for content in ("one", "two"):
        write_run(tmp_path, content)
        promote(tmp_path, DECISION, keep=5)
    start = time.perf_counter()
    rollback(tmp_path)
    assert time.perf_counter() - start < 2


def test_incomplete_run_cannot_be_promoted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Run `make run` first"):
        promote(tmp_path, DECISION, keep=5)
    assert current_champion(tmp_path) is None


def test_rolled_back_runs_are_read_from_a_history_whose_last_line_is_cut_off(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for content in ("one", "two"):
        write_run(tmp_path, content)
        promote(tmp_path, DECISION, keep=5)
    rollback(tmp_path)
    history = tmp_path / layout.REGISTRY / registry.HISTORY
    complete = history.read_text()
    history.write_text(complete + '{"how": "promote", "num')
    assert [run.number for run in rolled_back_runs(tmp_path)] == [2]
    assert f"the last line of {history} was cut off" in capsys.readouterr().err
    rollback(tmp_path, 2)
    assert [json.loads(line)["number"] for line in history.read_text().splitlines()] == [1, 2, 1, 2]
    assert [run.number for run in rolled_back_runs(tmp_path)] == [1]
    history.write_text("x" + complete)
    with pytest.raises(DataError, match=r"line 1 of .*history.jsonl is damaged"):
        rolled_back_runs(tmp_path)
