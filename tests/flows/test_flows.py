"""Order and failure of flows, on a temporary Prefect server; the stages themselves are stand-ins."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from befriend import files, layout
from befriend.errors import BusyError
from tasks.dvc import Reproduced, StageError

pytestmark = pytest.mark.system

Runner = Callable[..., Any]


@pytest.fixture
def stages(prefect_server: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, list[Any]]:
    """What each stage does when it is reproduced, call by call: an error is raised. "order" lists the calls."""
    from tasks import dvc, evaluate, validate

    monkeypatch.chdir(tmp_path)
    script: dict[str, list[Any]] = {"order": []}

    def reproduce(target: str, force: bool = False) -> Reproduced:
        script["order"].append((target, force))
        answers = script.get(target, [])
        if answers and isinstance(answer := answers.pop(0), Exception):
            raise answer
        return Reproduced(target, True, 0.1)

    for module in (dvc, validate, evaluate):
        monkeypatch.setattr(module, "reproduce", reproduce)
    for module in (validate, evaluate):
        monkeypatch.setattr(module, "publish", lambda: None)
    for stage in (validate.validate, evaluate.evaluate, dvc.update_data):
        monkeypatch.setattr(stage, "retry_delay_seconds", [0.0])
    return script


def test_the_data_comes_first_then_each_stage_in_order(stages: dict[str, list[Any]]) -> None:
    from flows.pipeline import pipeline

    done = pipeline(force=True)
    assert [run.stage for run in done] == ["data.dvc", "validate", "evaluate"]
    assert stages["order"] == [("data.dvc", False), ("validate", True), ("evaluate", True)]


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

    with files.stage_lock(layout.LOCK):
        holder = os.environ.pop(files.LOCK_VARIABLE)  # as seen by a process that is not the holder's child
        try:
            with pytest.raises(BusyError, match=f"process {os.getpid()}"):
                pipeline()
        finally:
            os.environ[files.LOCK_VARIABLE] = holder
    assert stages["order"] == []


def test_the_lock_is_free_after_a_failure(stages: dict[str, list[Any]]) -> None:
    from flows.validate import validate

    stages["validate"] = [StageError("refused")]
    assert validate(return_state=True).is_failed()
    assert validate(return_state=True).is_completed()
