"""One run takes another's place in one step, and gives it back."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from befriend import files, layout
from befriend.analysis.fingerprint import PREPARED
from befriend.errors import CallError, DataError
from befriend.ops import registry
from befriend.ops.registry import champion, digest, promote, promoted, rollback, taken_back
from tests.conftest import ROOT

DECISION = {"verdict": "promote", "rules": []}


def lay(root: Path, content: str) -> None:
    """A run whose every file holds the same."""
    for path in [layout.PREPARED / name for name in PREPARED] + [folder / "weights" for folder in layout.TRAINED]:
        files.write_text(root / path, content)
    files.write_json(root / layout.VALIDATION, {"users": 3, "rows": {"events": 9}, "time": {"first": 1, "last": 9}})
    cell = {"both": {"n": 4, "ndcg@10": 0.5, "hit@10": 1, "mrr@100": 0.5, "ndcg@10_low": 0.4, "ndcg@10_high": 0.6}}
    files.write_json(root / layout.METRICS, {"daily": {"new": {"new": cell}}})


def served(root: Path) -> str:
    return (root / layout.CHAMPION / "models" / "stu" / "weights").read_text()


def test_what_is_promoted_is_served_whole_whatever_happens_to_the_run(tmp_path: Path) -> None:
    assert champion(tmp_path) is None
    lay(tmp_path, "one")
    first = promote(tmp_path, DECISION, keep=5)
    lay(tmp_path, "two")
    assert (first.number, served(tmp_path)) == (1, "one")
    assert digest(tmp_path / layout.CHAMPION) == first.manifest["run"] != digest(tmp_path)
    told = first.manifest
    assert (told["previous"], told["decision"], told["ndcg@10"]) == (None, DECISION, {"daily": {"new": 0.5}})
    assert told["data"] == {"users": 3, "events": 9, "first": 1, "last": 9}


def test_rollback_goes_back_one_promotion_at_a_time_and_forward_by_number(tmp_path: Path) -> None:
    for content in ("one", "two", "three"):
        lay(tmp_path, content)
        promote(tmp_path, DECISION, keep=5)
    assert [rollback(tmp_path).number, served(tmp_path)] == [2, "two"]
    assert [rollback(tmp_path).number, served(tmp_path)] == [1, "one"]
    with pytest.raises(CallError, match="nothing was served before the champion"):
        rollback(tmp_path)
    assert [rollback(tmp_path, 3).number, served(tmp_path)] == [3, "three"]
    with pytest.raises(CallError, match=r"run 9 is not kept any more. Kept runs: 1, 2, 3"):
        rollback(tmp_path, 9)
    history = [json.loads(line) for line in (tmp_path / layout.REGISTRY / registry.HISTORY).read_text().splitlines()]
    assert [(line["how"], line["number"]) for line in history] == [
        ("promote", 1), ("promote", 2), ("promote", 3), ("rollback", 2), ("rollback", 1), ("rollback", 3),
    ]  # fmt: skip


def test_after_a_rollback_the_next_promotion_follows_the_run_that_was_served(tmp_path: Path) -> None:
    for content in ("one", "two"):
        lay(tmp_path, content)
        promote(tmp_path, DECISION, keep=5)
    rollback(tmp_path)
    lay(tmp_path, "three")
    assert promote(tmp_path, DECISION, keep=5).manifest["previous"] == 1
    assert rollback(tmp_path).number == 1


def test_what_was_taken_back_is_known_until_somebody_serves_it_again(tmp_path: Path) -> None:
    for content in ("one", "two"):
        lay(tmp_path, content)
        promote(tmp_path, DECISION, keep=5)
    assert taken_back(tmp_path) == []
    rollback(tmp_path)
    assert [entry.number for entry in taken_back(tmp_path)] == [2]
    lay(tmp_path, "three")
    promote(tmp_path, DECISION, keep=5)
    assert [entry.number for entry in taken_back(tmp_path)] == [2]
    rollback(tmp_path, 2)
    assert [entry.number for entry in taken_back(tmp_path)] == [3]


def test_old_runs_go_but_never_the_champion_or_the_one_before_it(tmp_path: Path) -> None:
    for content in ("one", "two", "three", "four"):
        lay(tmp_path, content)
        promote(tmp_path, DECISION, keep=2)
    assert [entry.number for entry in promoted(tmp_path)] == [3, 4]
    rollback(tmp_path)  # to 3; its own predecessor is gone
    lay(tmp_path, "five")
    promote(tmp_path, DECISION, keep=2)
    assert [entry.number for entry in promoted(tmp_path)] == [3, 4, 5]  # 3 was served before 5
    assert served(tmp_path) == "five"


def test_a_promotion_that_is_killed_leaves_the_champion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(tmp_path, "one")
    promote(tmp_path, DECISION, keep=5)
    lay(tmp_path, "two")
    for step in ("_serve", "_prune"):
        with monkeypatch.context() as patch:
            patch.setattr(registry, step, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                promote(tmp_path, DECISION, keep=5)
        assert served(tmp_path) == ("one" if step == "_serve" else "two")
        assert champion(tmp_path) is not None
    assert promote(tmp_path, DECISION, keep=5).number == 4


PROMOTE = """
import sys
from pathlib import Path
from befriend.ops.registry import promote
for _ in range(5):
    promote(Path(sys.argv[1]), {"verdict": "promote"}, keep=100)
"""


@pytest.mark.system
def test_two_promotions_at_once_wait_for_each_other(tmp_path: Path) -> None:
    lay(tmp_path, "same")
    command = [sys.executable, "-c", PROMOTE, str(tmp_path)]
    running = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]
    assert [process.wait(timeout=60) for process in running] == [0, 0]
    assert [entry.number for entry in promoted(tmp_path)] == list(range(1, 11))
    previous = [entry.manifest["previous"] for entry in promoted(tmp_path)]
    assert previous == [None, *range(1, 10)]


def test_a_champion_whose_folder_is_gone_says_what_to_do(tmp_path: Path) -> None:
    for content in ("one", "two"):
        lay(tmp_path, content)
        promote(tmp_path, DECISION, keep=5)
    files.remove(tmp_path / layout.REGISTRY / "0002")
    with pytest.raises(DataError, match="befriend rollback --to NUMBER"):
        champion(tmp_path)
    assert rollback(tmp_path, 1).number == 1


def test_going_back_takes_no_time(tmp_path: Path) -> None:
    for content in ("one", "two"):
        lay(tmp_path, content)
        promote(tmp_path, DECISION, keep=5)
    start = time.perf_counter()
    rollback(tmp_path)
    assert time.perf_counter() - start < 2


def test_a_run_that_is_not_whole_cannot_be_promoted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Run `dvc repro` first"):
        promote(tmp_path, DECISION, keep=5)
    assert champion(tmp_path) is None


def test_a_history_whose_last_line_was_cut_off_still_tells_what_was_taken_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for content in ("one", "two"):
        lay(tmp_path, content)
        promote(tmp_path, DECISION, keep=5)
    rollback(tmp_path)
    history = tmp_path / layout.REGISTRY / registry.HISTORY
    whole = history.read_text()
    history.write_text(whole + '{"how": "promote", "num')
    assert [entry.number for entry in taken_back(tmp_path)] == [2]
    assert f"the last line of {history} was cut off" in capsys.readouterr().err
    rollback(tmp_path, 2)
    assert [json.loads(line)["number"] for line in history.read_text().splitlines()] == [1, 2, 1, 2]
    assert [entry.number for entry in taken_back(tmp_path)] == [1]
    history.write_text("x" + whole)
    with pytest.raises(DataError, match=r"line 1 of .*history.jsonl is damaged"):
        taken_back(tmp_path)
