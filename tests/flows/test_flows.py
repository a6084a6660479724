"""Order and failure of flows, on a temporary Prefect server; the stages themselves are stand-ins."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from befriend import files, layout
from befriend.errors import BusyError
from tasks.dvc import Reproduced, StageError

pytestmark = pytest.mark.system

Runner = Callable[..., Any]


def _only_ranker(stage: str) -> Callable[[bool], None]:
    """The stand-ins leave no reports: only what the ranker prints can be published."""
    from tasks.publishers import publish_ranker

    return publish_ranker if stage == "train_ranker" else lambda ran: None


@pytest.fixture
def stages(prefect_server: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, list[Any]]:
    """What each stage does when it is reproduced, call by call: an error is raised. "order" lists the calls."""
    from tasks import dvc, stage_tasks

    monkeypatch.chdir(tmp_path)
    script: dict[str, list[Any]] = {"order": []}

    def reproduce(target: str, force: bool = False, on_line: Callable[[str], None] | None = None) -> Reproduced:
        script["order"].append((target, force))
        (tmp_path / "runs").mkdir(exist_ok=True)
        (tmp_path / "runs" / f"{target}.json").write_text('{"summary": "trained"}')
        if on_line:
            on_line("epoch 1 of 2: 5 of 10, about 1 min left")
            on_line("epoch 1 of 2: loss 7.2330, ndcg@10 0.1225 (best), 1,361 positions/s")
        answers = script.get(target, [])
        if answers and isinstance(answer := answers.pop(0), Exception):
            raise answer
        return Reproduced(target, True, 0.1)

    for module in (dvc, stage_tasks):
        monkeypatch.setattr(module, "reproduce", reproduce)
    quiet = {name: replace(stage, publish=_only_ranker(name)) for name, stage in stage_tasks.STAGES.items()}
    monkeypatch.setattr(stage_tasks, "STAGES", quiet)
    for task in (*stage_tasks.TASKS.values(), dvc.update_data):
        monkeypatch.setattr(task, "retry_delay_seconds", [0.0])
    return script


def test_the_data_comes_first_then_each_stage_in_order(stages: dict[str, list[Any]]) -> None:
    from flows.pipeline import pipeline

    done = pipeline(force=True)
    assert [run.stage for run in done] == [
        "data.dvc",
        "validate",
        "embed_text",
        "tokenize",
        "train_two_tower",
        "train_stu",
        "train_ranker",
        "evaluate",
        "cluster",
        "report",
    ]
    assert stages["order"] == [("data.dvc", False), *((run.stage, True) for run in done[1:])]


def test_the_progress_of_a_training_is_one_artifact_that_moves(stages: dict[str, list[Any]]) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    from flows.pipeline import pipeline

    run = pipeline(return_state=True).state_details.flow_run_id
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run])))
    shown = {artifact.key: (artifact.data, artifact.description) for artifact in found if artifact.type == "progress"}
    assert shown == {
        f"{name}-progress": (100, "trained") for name in ("embed-text", "train-two-tower", "train-stu", "cluster")
    }
    assert [artifact.data for artifact in found if artifact.key == "train-ranker-summary"] == ["trained"]


def test_the_source_can_be_left_alone(stages: dict[str, list[Any]]) -> None:
    from flows.validate import validate

    validate(update=False)
    assert stages["order"] == [("validate", False)]


def test_a_failed_stage_fails_the_flow_in_its_own_words_and_stops_it(stages: dict[str, list[Any]]) -> None:
    from flows.pipeline import pipeline

    stages["validate"] = [StageError("the event log was refused by the rule days", began=True)]
    state = pipeline(return_state=True)
    assert state.is_failed() and "the event log was refused by the rule days" in state.message
    assert [target for target, _ in stages["order"]] == ["data.dvc", "validate"]
    stages["validate"] = [StageError("the event log was refused by the rule days", 2)]
    with pytest.raises(StageError, match=r"^the event log was refused by the rule days$"):
        pipeline()


def test_what_may_pass_is_tried_again(stages: dict[str, list[Any]]) -> None:
    from flows.validate import validate

    stages["validate"] = [StageError("killed", may_pass=True), StageError("busy", may_pass=True)]
    assert validate(return_state=True).is_completed()
    assert [target for target, _ in stages["order"]] == ["data.dvc", "validate", "validate", "validate"]


def test_a_flow_does_not_start_where_stages_run_already(stages: dict[str, list[Any]]) -> None:
    from flows.pipeline import pipeline

    with ThreadPoolExecutor(1) as other:  # what holds the lock is no part of the flow
        holds, ends = threading.Event(), threading.Event()

        def hold() -> None:
            with files.stage_lock(layout.LOCK):
                holds.set()
                ends.wait()

        done = other.submit(hold)
        holds.wait()
        try:
            with pytest.raises(BusyError, match=f"process {os.getpid()}"):
                pipeline()
        finally:
            ends.set()
            done.result()
    assert stages["order"] == []


def test_the_lock_is_free_after_a_failure(stages: dict[str, list[Any]]) -> None:
    from flows.validate import validate

    stages["validate"] = [StageError("refused")]
    assert validate(return_state=True).is_failed()
    assert validate(return_state=True).is_completed()
