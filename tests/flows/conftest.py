"""Fixtures for tests of tasks and flows: a temporary Prefect folder, and a small DVC project whose stages fail.

Importing `flows` would use Prefect's folder in the checkout, so a temporary one is set before any test imports it.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_home = tempfile.mkdtemp(prefix="befriend-prefect-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)
os.environ |= {"PREFECT_HOME": _home, "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}

BIN = Path(sys.executable).parent

DVC_YAML = """
stages:
  good:
    cmd: python stage.py good
    deps: [input.txt]
    outs: [good.txt]
  bad:
    cmd: python stage.py bad
  killed:
    cmd: python stage.py killed
  slow:
    cmd: python stage.py slow
    outs: [slow.txt]
  careless:
    cmd: python stage.py careless
    outs: [never.txt]
  defect:
    cmd: python stage.py defect
  refused:
    cmd: "echo 'befriend: params.yaml: 1 setting cannot be used'; echo '  bad.one: unknown'; exit 2"
"""

STAGE = """
import os, sys, time
from pathlib import Path
from befriend.errors import BefriendError, DataError
from befriend.stages.run_record import record_run

class Done:
    def summary(self): return "done"

def good(): Path("good.txt").write_bytes(Path("input.txt").read_bytes())
def bad(): raise DataError("the log was refused\\n  row 3: no target")
def killed(): os.kill(os.getpid(), 9)
def slow(): print("slow begins"); time.sleep(20)
def careless(): pass
def defect(): raise ValueError("a defect")

name = sys.argv[1]
try:
    record_run(name, Path("runs"), lambda: (globals()[name](), Done())[1])
except BefriendError as error:
    print(f"befriend: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.fixture(scope="session")
def _project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    subprocess.run([BIN / "dvc", "init", "-q", "--no-scm"], cwd=root, check=True, timeout=60)
    subprocess.run([BIN / "dvc", "config", "core.analytics", "false"], cwd=root, check=True, timeout=60)
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / "stage.py").write_text(STAGE)
    (root / "input.txt").write_text("one")
    return root


@pytest.fixture
def project(_project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC project as the current folder; tasks log without a Prefect run."""
    monkeypatch.chdir(_project)
    monkeypatch.setattr("tasks.dvc.get_run_logger", lambda: logging.getLogger("run"))
    return _project


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """One temporary Prefect server for all tests that need one."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield
