"""Tasks of operating: what they show, and whom they tell."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks import command, drift_task, gate_task, notify
from tasks.dvc import StageError
from tests.flows.checkout import Listener


def test_rules_that_were_not_met_come_first_and_say_why() -> None:
    rule = {"found": "0.1", "required": "at least 0.2"}
    decision = {"rules": [{"name": "a", "passed": True} | rule, {"name": "b", "passed": False} | rule]}
    assert [row["name"] for row in gate_task.rule_rows(decision)] == ["b", "a"]
    assert gate_task.unmet_rules(decision) == "b: 0.1, required at least 0.2"


def test_the_worst_measure_comes_first() -> None:
    found = {"value": 0.1, "limits": [0.1, 0.2]}
    told = {"measures": {name: found | {"verdict": name} for name in ("ok", "severe", "warning")}}
    assert [row["verdict"] for row in drift_task.measure_rows(told)] == ["severe", "warning", "ok"]


def test_everybody_with_an_address_is_told_and_the_log_always(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = Listener(), Listener()
    monkeypatch.setenv(notify.VARIABLE, f"json://127.0.0.1:{one.port}/a json://127.0.0.1:{two.port}/b")
    monkeypatch.setattr(notify, "get_logger", logging.getLogger)
    assert notify.send("a title", "what happened") == 2
    for listener in (one, two):
        assert [(told["title"], told["message"]) for told in listener.told] == [("a title", "what happened")]
    assert "a title: what happened" in caplog.text

    monkeypatch.setenv(notify.VARIABLE, "json://127.0.0.1:1/nobody")
    assert notify.send("a title", "what happened") == 0
    assert "json://... could not be reached" in caplog.text
    assert "127.0.0.1:1" not in caplog.text  # an address may hold a password


def test_a_failure_says_what_where_and_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, str]] = []
    monkeypatch.setattr(notify, "send", lambda title, text: said.append((title, text)))
    state = SimpleNamespace(name="Failed", message="the event log was refused")
    notify.failed(SimpleNamespace(name="retrain"), SimpleNamespace(name="retrain 3"), state)
    ((title, text),) = said
    assert title == "befriend: retrain failed"
    assert text.startswith("retrain 3: the event log was refused\n") and "run it again" in text


def test_a_command_is_heard_and_fails_in_its_own_words(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    logger: Any = SimpleNamespace(info=lambda _, line: heard.append(line))
    monkeypatch.setattr(command, "get_run_logger", lambda: logger)
    assert command.befriend("champion") == 0
    assert heard[0].startswith("there is no champion yet")
    with pytest.raises(StageError, match="there is no champion yet: promote a run first") as failed:
        command.befriend("rollback")
    assert (failed.value.exit_code, failed.value.may_pass) == (2, False)


def test_prefect_yaml_names_flows_that_are_there() -> None:
    from ruamel.yaml import YAML

    from tests.conftest import ROOT

    deployments = YAML(typ="safe").load(ROOT / "prefect.yaml")["deployments"]
    assert {found["name"] for found in deployments} == {"pipeline", "validate", "retrain", "recommend"}
    for found in deployments:
        file, name = found["entrypoint"].split(":")
        assert f"def {name}(" in (ROOT / file).read_text()
        assert json.loads(json.dumps(found["work_pool"]["name"])) == "befriend"
        assert found["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}
