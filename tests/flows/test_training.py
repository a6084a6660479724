"""Artifacts of a training: its progress, its curves, and its best epoch next to the committed one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect.exceptions import ObjectNotFound

from befriend import layout
from tasks import publishers, stage_tasks, training_progress
from tasks.curve_report import BARS, MAX_BARS, compare_with_committed, read_curves, report, sparkline
from tasks.dvc_process import StageError, StageOutcome
from tests.training import tiny

SUMMARY = "12 parameters, 3 epochs, stopped early; epoch 2 is best"
OUTPUT_LINES = (
    "Running stage 'train_two_tower':",
    "epoch 1 of 4: 250 of 1,000, about 11 min left",
    "epoch 1 of 4: loss 7.2330, ndcg@10 0.1225 (best), 1,361 positions/s",
    "epoch 3 of 4: loss 6.2330, ndcg@10 0.1200, 1,361 positions/s",
    f"train_two_tower: {SUMMARY}",
)


def write_curves(folder: Path) -> None:
    """Writes the files of `befriend.training.curves` for three epochs."""
    curves = {
        "learning_rate": [0.001, 0.0005, 0.0001],
        "train/loss": [7.25, 6.5, 6.0],
        "train/mean_rank": [1234.5, 617.25, 400.0],
        "validation/ndcg@10": [0.1, 0.25, 0.2],
        "validation/new_daily": [0.03, 0.04, 0.05],
    }
    for name, values in curves.items():
        file = folder / "plots" / "metrics" / f"{name}.tsv"
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"{epoch}\t{value}" for epoch, value in enumerate(values, 1)]
        file.write_text("\n".join([f"step\t{Path(name).name}", *lines]) + "\n")
    (folder / "metrics.json").write_text(json.dumps(metrics(0.25)))


def metrics(ndcg: float, epoch: int = 2) -> dict[str, Any]:
    return {
        "learning_rate": 0.0005,
        "step": epoch,
        "train": {"loss": 6.5, "mean_rank": 617.25},
        "validation": {"ndcg@10": ndcg, "new_daily": 0.04},
    }


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, list[Any]]:
    """Key -> the successive contents of the artifact, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    contents: dict[str, list[Any]] = {}
    artifact_id = UUID(int=1)

    def create(progress: float, key: str, description: str) -> UUID:
        contents.setdefault(key, []).append((progress, description))
        return artifact_id

    def update(artifact: UUID, progress: float, description: str) -> None:
        assert artifact == artifact_id
        contents["train-two-tower-progress"].append((progress, description))

    monkeypatch.setattr(training_progress, "create_progress_artifact", create)
    monkeypatch.setattr(training_progress, "update_progress_artifact", update)
    for kind in ("markdown", "table"):
        monkeypatch.setattr(
            publishers,
            f"create_{kind}_artifact",
            lambda content, key, **_: contents.setdefault(key, []).append(content),
        )
    return contents


def fake_reproduce(monkeypatch: pytest.MonkeyPatch, ran: bool = True, error: StageError | None = None) -> None:
    """Replaces `reproduce` by a stage that prints its lines and writes curves. Then it writes its run record, or fails."""

    def reproduce(stage: str, force: bool, on_line: Any) -> StageOutcome:
        for line in OUTPUT_LINES[: -1 if error else None] if ran else ():
            on_line(line)
        if error is None or error.began:
            write_curves(layout.TWO_TOWER_CURVES)
        if error:
            raise error
        if ran:
            layout.RUNS.mkdir(exist_ok=True)
            (layout.RUNS / f"{stage}.json").write_text(json.dumps({"summary": SUMMARY}))
        return StageOutcome(stage, ran, 1.0)

    monkeypatch.setattr(stage_tasks, "reproduce", reproduce)


def test_progress_is_read_from_lines_of_the_training() -> None:
    assert [training_progress.share_done(line) for line in OUTPUT_LINES] == [None, 0.0625, 0.25, 0.75, None]
    assert training_progress.share_done("validating: 3 of 4, about 1 min left") is None


def test_progress_is_read_from_the_lines_that_the_training_loop_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three epochs of five steps, with a line after each step and one at the end of each epoch."""
    monkeypatch.setattr("befriend.progress.SECONDS_PER_LINE", 0.0)
    monkeypatch.setattr(
        "befriend.progress._describe_progress", lambda k, total, _: f"{k:,} of {total:,}, about 0 min left"
    )
    fitted = tiny.train(tiny.Tiny(), tmp_path)
    shares = [training_progress.share_done(line) for line in capsys.readouterr().err.splitlines()]
    assert shares == pytest.approx([(epoch + k / 5) / 3 for epoch in range(3) for k in range(6)])

    curves = read_curves(tmp_path / "curves")
    assert curves.best_epoch == fitted.best_epoch
    assert {name: list(values.values()) for name, values in curves.metrics.items()} == {
        name: [row[name] for row in fitted.history] for name in fitted.history[0].keys() - {"epoch"}
    }


def test_progress_follows_the_lines_and_is_complete_at_the_end_of_the_stage(
    published: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_reproduce(monkeypatch)
    assert stage_tasks.TASKS["train_two_tower"].fn() == StageOutcome("train_two_tower", True, 1.0)
    progress = published["train-two-tower-progress"]
    assert progress == [(6.25, OUTPUT_LINES[1]), (25, OUTPUT_LINES[2]), (75, OUTPUT_LINES[3]), (100, SUMMARY)]


def test_training_that_was_up_to_date_publishes_curves_and_no_progress(
    published: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_reproduce(monkeypatch, ran=False)
    stage_tasks.TASKS["train_two_tower"].fn()
    assert published.keys() == {"train-two-tower-curves", "train-two-tower-figures"}


def test_failed_training_publishes_its_curves(published: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    fake_reproduce(monkeypatch, error=StageError("training failed: loss became nan", began=True))
    with pytest.raises(StageError, match="loss became nan"):
        stage_tasks.TASKS["train_two_tower"].fn()
    assert "epoch 2 of 3 is best" in published["train-two-tower-curves"][0]
    assert published["train-two-tower-progress"][-1][0] == 75


def test_training_that_did_not_start_or_has_no_epoch_publishes_nothing(
    published: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    publishers.training_publisher("train_two_tower", layout.TWO_TOWER_CURVES)(True)
    write_curves(layout.TWO_TOWER_CURVES)
    fake_reproduce(monkeypatch, ran=False, error=StageError("another process runs stages", is_transient=True))
    with pytest.raises(StageError):
        stage_tasks.TASKS["train_two_tower"].fn()
    assert not published


@pytest.mark.parametrize("error", [httpx.ConnectError("refused"), ObjectNotFound(Exception("deleted"))])
def test_training_goes_on_if_the_server_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: Any, **__: Any) -> UUID:
        raise error

    monkeypatch.setattr(training_progress, "create_progress_artifact", fail)
    monkeypatch.setattr(training_progress, "update_progress_artifact", fail)
    progress = training_progress.ProgressArtifact("train-two-tower-progress")
    progress.follow(OUTPUT_LINES[1])
    created: list[float] = []

    def create(percentage: float, **_: Any) -> UUID:
        created.append(percentage)
        return UUID(int=1)

    monkeypatch.setattr(training_progress, "create_progress_artifact", create)
    progress.follow(OUTPUT_LINES[2])  # the server can be reached again
    progress.follow(OUTPUT_LINES[3])
    assert len(created) == 1


def test_report_has_every_curve_and_the_best_epoch_in_bold(tmp_path: Path) -> None:
    write_curves(tmp_path)
    lines = report(read_curves(tmp_path), "train_two_tower").splitlines()
    assert lines[0] == "# train_two_tower: epoch 2 of 3 is best"
    tables = [line for line in lines if line.startswith("|")]
    assert tables == [
        "| figure | curve | first | best epoch | last |",
        "| --- | --- | --- | --- | --- |",
        "| validation/ndcg@10 | ▁█▆ | 0.1 | 0.25 | 0.2 |",
        "| validation/new_daily | ▁▅█ | 0.03 | 0.04 | 0.05 |",
        "| train/loss | █▄▁ | 7.25 | 6.5 | 6 |",
        "| train/mean_rank | █▃▁ | 1,234 | 617.2 | 400 |",
        "| learning_rate | █▄▁ | 0.001 | 0.0005 | 0.0001 |",
        "| epoch | loss | ndcg@10 | new_daily |",
        "| --- | --- | --- | --- |",
        "| 1 | 7.25 | 0.1 | 0.03 |",
        "| **2** | **6.5** | **0.25** | **0.04** |",
        "| 3 | 6 | 0.2 | 0.05 |",
    ]


def test_metric_without_a_value_in_an_epoch_is_an_empty_cell(tmp_path: Path) -> None:
    write_curves(tmp_path)
    (tmp_path / "plots/metrics/validation/new_daily.tsv").write_text("step\tnew_daily\n2\t0.04\n")
    lines = report(read_curves(tmp_path), "train_two_tower").splitlines()
    assert "| 1 | 7.25 | 0.1 |  |" in lines and "| **2** | **6.5** | **0.25** | **0.04** |" in lines


def test_curve_is_scaled_from_its_lowest_to_its_highest_value() -> None:
    assert sparkline([float(k) for k in range(8)]) == BARS
    assert sparkline([3.0, 3.0]) == "▁▁"
    long = sparkline([float(k) for k in range(1000)])
    assert len(long) == MAX_BARS and (long[0], long[-1]) == ("▁", "█")


def test_best_epoch_is_compared_with_the_committed_one() -> None:
    rows = compare_with_committed(metrics(0.25000000001), metrics(0.2, epoch=5) | {"train": {"loss": 6.5}})
    assert [row["figure"] for row in rows] == [
        "epoch", "validation/ndcg@10", "validation/new_daily", "train/loss", "train/mean_rank", "learning_rate",
    ]  # fmt: skip
    compared = {row["figure"]: (row["best epoch"], row["committed"], row["change"]) for row in rows}
    assert compared["epoch"] == (2, 5, -3)
    assert compared["validation/ndcg@10"] == (0.25, 0.2, 0.05)
    assert compared["train/mean_rank"] == (617.25, None, None)
    assert {row["committed"] for row in compare_with_committed(metrics(0.25), None)} == {None}


def test_metrics_are_shown_next_to_those_of_the_committed_run(
    published: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_curves(layout.TWO_TOWER_CURVES)
    committed = json.loads((layout.TWO_TOWER_CURVES / "metrics.json").read_text())
    monkeypatch.setattr(publishers, "read_committed_json", {layout.TWO_TOWER_CURVES / "metrics.json": committed}.get)
    (layout.TWO_TOWER_CURVES / "metrics.json").write_text(json.dumps(metrics(0.5)))
    publishers.training_publisher("train_two_tower", layout.TWO_TOWER_CURVES)(True)
    assert published["train-two-tower-figures"][0][1] == {
        "figure": "validation/ndcg@10", "best epoch": 0.5, "committed": 0.25, "change": 0.25,
    }  # fmt: skip
