"""Tasks for drift, gate, notifications and commands: their tables, messages and errors."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks import command, drift_task, gate_task, notify
from tasks.dvc_process import StageError
from tests.flows.checkout import Listener


def test_failed_checks_of_the_gate_come_first() -> None:
    check = {"measured": "0.1", "required": "at least 0.2"}
    decision = {"checks": [{"name": "a", "passed": True} | check, {"name": "b", "passed": False} | check]}
    assert [row["name"] for row in gate_task.check_rows(decision)] == ["b", "a"]
    assert gate_task.failed_checks(decision) == "b: 0.1, required at least 0.2"


def test_measure_with_the_worst_verdict_comes_first() -> None:
    measure = {"value": 0.1, "limits": [0.1, 0.2]}
    drift = {"measures": {name: measure | {"verdict": name} for name in ("ok", "severe", "warning")}}
    assert [row["verdict"] for row in drift_task.measure_rows(drift)] == ["severe", "warning", "ok"]


def test_message_is_sent_to_every_address_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = Listener(), Listener()
    monkeypatch.setenv(notify.ADDRESSES_VARIABLE, f"json://127.0.0.1:{one.port}/a json://127.0.0.1:{two.port}/b")
    monkeypatch.setattr(notify, "get_logger", logging.getLogger)
    assert notify.send("a title", "what happened") == 2
    for listener in (one, two):
        assert [(message["title"], message["message"]) for message in listener.messages] == [
            ("a title", "what happened")
        ]
    assert "a title: what happened" in caplog.text

    monkeypatch.setenv(notify.ADDRESSES_VARIABLE, "json://127.0.0.1:1/closed")
    assert notify.send("a title", "what happened") == 0
    assert "json://... could not be reached" in caplog.text
    assert "127.0.0.1:1" not in caplog.text  # an address may contain a password


def test_message_about_a_failure_has_the_run_the_error_and_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, str]] = []
    monkeypatch.setattr(notify, "send", lambda title, text: sent.append((title, text)))
    state = SimpleNamespace(name="Failed", message="the event log was refused")
    notify.notify_failure(SimpleNamespace(name="retrain"), SimpleNamespace(name="retrain 3"), state)
    ((title, text),) = sent
    assert title == "befriend: retrain failed"
    assert text.startswith("retrain 3: the event log was refused\n") and "run it again" in text


@pytest.mark.system
def test_command_is_logged_and_fails_with_its_message(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log_lines: list[str] = []
    logger: Any = SimpleNamespace(info=lambda _, line: log_lines.append(line))
    monkeypatch.setattr(command, "get_run_logger", lambda: logger)
    assert command.run_befriend("champion") == 0
    assert log_lines[0].startswith("there is no champion yet")
    with pytest.raises(StageError, match="there is no champion yet: promote a run first") as failed:
        command.run_befriend("rollback")
    assert (failed.value.exit_code, failed.value.is_transient) == (2, False)


def test_flows_in_prefect_yaml_exist() -> None:
    from ruamel.yaml import YAML

    from tests.conftest import ROOT

    deployments = YAML(typ="safe").load(ROOT / "prefect.yaml")["deployments"]
    assert {deployment["name"] for deployment in deployments} == {"pipeline", "validate", "retrain", "recommend"}
    for deployment in deployments:
        file, name = deployment["entrypoint"].split(":")
        assert f"def {name}(" in (ROOT / file).read_text()
        assert json.loads(json.dumps(deployment["work_pool"]["name"])) == "befriend"
        assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}
