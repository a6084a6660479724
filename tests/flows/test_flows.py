"""Order and failure of flows on a temporary Prefect server, with fake stages."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from befriend import files, layout
from befriend.errors import BusyError
from tasks.dvc_process import StageError, StageOutcome

pytestmark = pytest.mark.system

Runner = Callable[..., Any]
ROOT = Path(__file__).parents[2]


def _only_ranker(stage: str) -> Callable[[bool], None]:
    """Publishes only the ranker, since the fake stages write no reports."""
    from tasks.publishers import publish_ranker

    return publish_ranker if stage == "train_ranker" else lambda ran: None


@pytest.fixture
def stages(prefect_server: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, list[Any]]:
    """Replaces `reproduce`. Stage -> list of errors (or other values) for its calls; "order" -> list of the calls."""
    from tasks import dvc, stage_tasks

    monkeypatch.chdir(tmp_path)
    script: dict[str, list[Any]] = {"order": []}

    def reproduce(target: str, force: bool = False, on_line: Callable[[str], None] | None = None) -> StageOutcome:
        script["order"].append((target, force))
        (tmp_path / "runs").mkdir(exist_ok=True)
        (tmp_path / "runs" / f"{target}.json").write_text('{"summary": "trained"}')
        if on_line:
            on_line("epoch 1 of 2: 5 of 10, about 1 min left")
            on_line("epoch 1 of 2: loss 7.2330, ndcg@10 0.1225 (best), 1,361 positions/s")
        answers = script.get(target, [])
        if answers and isinstance(answer := answers.pop(0), Exception):
            raise answer
        return StageOutcome(target, True, 0.1)

    for module in (dvc, stage_tasks):
        monkeypatch.setattr(module, "reproduce", reproduce)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    monkeypatch.setattr(stage_tasks, "changed_stages", lambda: script.get("changed", {"data.dvc"}))
    quiet = {name: replace(stage, publish=_only_ranker(name)) for name, stage in stage_tasks.STAGES.items()}
    monkeypatch.setattr(stage_tasks, "STAGES", quiet)
    for task in (*stage_tasks.TASKS.values(), dvc.update_data):
        monkeypatch.setattr(task, "retry_delay_seconds", [0.0])
    return script


def test_pipeline_updates_the_data_then_runs_each_stage_after_those_it_depends_on(stages: dict[str, list[Any]]) -> None:
    from flows.pipeline import pipeline
    from tasks.stage_graph import read_stage_graph

    outcomes = pipeline(force=True)
    assert [outcome.stage for outcome in outcomes] == list(graph := read_stage_graph())
    order = [target for target, _ in stages["order"]]
    assert sorted(order) == sorted(graph) and order[:3] == ["data.dvc", "validate", "embed_text"]
    assert all(order.index(dependency) < order.index(name) for name in graph for dependency in graph[name])
    assert all(forced for target, forced in stages["order"] if target != "data.dvc")


def test_only_changed_stages_and_those_that_depend_on_them_are_run(stages: dict[str, list[Any]]) -> None:
    from flows.pipeline import pipeline

    stages["changed"] = ["cluster"]
    outcomes = pipeline()
    assert [target for target, _ in stages["order"]] == ["data.dvc", "cluster", "report"]
    assert [outcome.stage for outcome in outcomes if outcome.ran] == ["data.dvc", "cluster", "report"]
    assert len(outcomes) == 10


def test_progress_of_a_training_is_one_artifact_that_is_updated(stages: dict[str, list[Any]]) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    from flows.pipeline import pipeline

    run = pipeline(return_state=True).state_details.flow_run_id
    with get_client(sync_client=True) as client:
        artifacts = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
        )
    shown = {
        artifact.key: (artifact.data, artifact.description) for artifact in artifacts if artifact.type == "progress"
    }
    assert shown == {
        f"{name}-progress": (100, "trained") for name in ("embed-text", "train-two-tower", "train-stu", "cluster")
    }
    assert [artifact.data for artifact in artifacts if artifact.key == "train-ranker-summary"] == ["trained"]


def test_update_of_the_data_can_be_switched_off(stages: dict[str, list[Any]]) -> None:
    from flows.validate import validate

    validate(update=False)
    assert stages["order"] == [("validate", False)]


def test_failed_stage_fails_the_flow_with_its_message_and_stops_it(stages: dict[str, list[Any]]) -> None:
    from flows.pipeline import pipeline

    stages["validate"] = [StageError("the event log was refused by the rule days", began=True)]
    state = pipeline(return_state=True)
    assert state.is_failed() and "the event log was refused by the rule days" in state.message
    assert [target for target, _ in stages["order"]] == ["data.dvc", "validate"]
    stages["validate"] = [StageError("the event log was refused by the rule days", 2)]
    with pytest.raises(StageError, match=r"^the event log was refused by the rule days$"):
        pipeline()


def test_transient_failure_is_retried(stages: dict[str, list[Any]]) -> None:
    from flows.validate import validate

    stages["validate"] = [StageError("killed", is_transient=True), StageError("busy", is_transient=True)]
    assert validate(return_state=True).is_completed()
    assert [target for target, _ in stages["order"]] == ["data.dvc", "validate", "validate", "validate"]


def test_flow_does_not_start_while_stages_run(stages: dict[str, list[Any]]) -> None:
    from flows.pipeline import pipeline

    with ThreadPoolExecutor(1) as executor:  # another thread counts as another process for the lock
        is_held, may_end = threading.Event(), threading.Event()

        def hold() -> None:
            with files.stage_lock(layout.STAGE_LOCK):
                is_held.set()
                may_end.wait()

        holder = executor.submit(hold)
        is_held.wait()
        try:
            with pytest.raises(BusyError, match=f"process {os.getpid()}"):
                pipeline()
        finally:
            may_end.set()
            holder.result()
    assert stages["order"] == []


def test_lock_is_free_after_a_failure(stages: dict[str, list[Any]]) -> None:
    from flows.validate import validate

    stages["validate"] = [StageError("refused")]
    assert validate(return_state=True).is_failed()
    assert validate(return_state=True).is_completed()
