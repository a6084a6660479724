"""The worker or the server is killed while a stage runs: what is left ends by itself, and the next start goes on."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.flows.checkout import Project, serving, small_checkout, started

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


def victim(project: Project, what: str) -> int:
    """The process of this checkout whose command says so."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_text().replace("\0", " ")
            if what in command and (entry / "cwd").resolve().is_relative_to(project.root):
                return int(entry.name)
        except OSError:
            continue
    raise AssertionError(f"no {what} among {project.processes()}")


def test_after_the_worker_and_after_the_server_were_killed(tmp_path: Path) -> None:
    project = small_checkout(tmp_path, "")
    lock = project.root / "dvc.lock"
    for what in ("worker start", "server start"):
        with started(project) as ui:
            ui.server.start("validate", force=True)
            end = time.monotonic() + 60
            while not any("befriend validate" in process for process in project.processes()):
                assert time.monotonic() < end, ui.output.read_text()
                time.sleep(0.2)
            os.kill(victim(project, what), signal.SIGKILL)
            assert ui.process.wait(timeout=120) != 0
            assert "ended by itself" in ui.output.read_text()
        end = time.monotonic() + 90
        while project.processes() and time.monotonic() < end:
            time.sleep(0.5)
        assert project.processes() == []
    with serving(project) as server:
        done = server.finished(server.start("validate"))
        assert done["state_type"] == "COMPLETED", done["state"]["message"]
        going = {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}
        assert server.post("flow_runs/filter", flow_runs=going) == []
    assert "prepared/events.parquet" in lock.read_text()
    assert project.call("dvc", "status", "validate").stdout.strip().endswith("up to date.")
