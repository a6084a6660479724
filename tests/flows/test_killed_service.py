"""The worker or the server is killed during a stage: the other processes end, and the next start works."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.flows.checkout import Project, serving, small_checkout, started

pytestmark = [pytest.mark.proof, pytest.mark.timeout(600)]


def find_process(project: Project, command_part: str) -> int:
    """Id of the process of this checkout whose command line contains a text."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_text().replace("\0", " ")
            if command_part in command and (entry / "cwd").resolve().is_relative_to(project.root):
                return int(entry.name)
        except OSError:
            continue
    raise AssertionError(f"no {command_part} among {project.processes()}")


@pytest.mark.parametrize("command_part", ["worker start", "server start"])
def test_make_ui_works_again_after_its_worker_or_its_server_was_killed(command_part: str, tmp_path: Path) -> None:
    project = small_checkout(tmp_path, "")
    with started(project) as ui:
        ui.server.start("validate", force=True)
        end = time.monotonic() + 60
        while not any("befriend validate" in process for process in project.processes()):
            assert time.monotonic() < end, ui.output.read_text()
            time.sleep(0.2)
        os.kill(find_process(project, command_part), signal.SIGKILL)
        assert ui.process.wait(timeout=120) != 0
        assert "ended by itself" in ui.output.read_text()
    end = time.monotonic() + 90
    while project.processes() and time.monotonic() < end:
        time.sleep(0.5)
    assert project.processes() == []
    with serving(project) as server:
        run = server.wait_until_finished(server.start("validate"))
        assert run["state_type"] == "COMPLETED", run["state"]["message"]
        active = {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}
        assert server.post("flow_runs/filter", flow_runs=active) == []
    assert "prepared/events.parquet" in (project.root / "dvc.lock").read_text()
    assert project.call("dvc", "status", "validate").stdout.strip().endswith("up to date.")
