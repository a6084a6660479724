"""`befriend compare` with git revisions whose outputs are in DVC's cache, are missing there, or were never recorded."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import call

pytestmark = pytest.mark.system

DVC = str(Path(sys.executable).with_name("dvc"))
GIT = ["git", "-c", "user.email=a@example.org", "-c", "user.name=a"]
DVC_YAML = "stages: {run: {cmd: 'true', outs: [prepared, reports/predictions]}}"


def run(root: Path, *command: str) -> str:
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True, timeout=120).stdout


@pytest.fixture(scope="module")
def project(evaluated_project: Path) -> Path:
    """A run as a project of git and DVC: the first commit has no outputs, the second one has those of the run."""
    for command in ([*GIT, "init", "-q"], [DVC, "init", "-q"], [*GIT, "commit", "-qm", "no outputs"]):
        run(evaluated_project, *command)
    (evaluated_project / "dvc.yaml").write_text(DVC_YAML)
    run(evaluated_project, DVC, "commit", "--force", "run")
    run(evaluated_project, *GIT, "add", "dvc.yaml", "dvc.lock")
    run(evaluated_project, *GIT, "commit", "-qm", "a run")
    return evaluated_project


def test_revision_in_the_cache_is_compared(project: Path) -> None:
    done = call(project, "compare", "HEAD", ".")
    assert done.returncode == 0 and "Every target has the same rank in both runs" in done.stdout


def test_revision_without_a_run_is_named(project: Path) -> None:
    done = call(project, "compare", "HEAD~1", ".")
    commit = run(project, "git", "rev-parse", "--short", "HEAD~1").strip()
    assert done.returncode == 2
    assert done.stderr.startswith(f"befriend: the revision HEAD~1, which is commit {commit}, has no outputs of a run")


def test_revision_without_stored_outputs_is_named_with_the_commands_that_make_them(project: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    run(tmp_path, "git", "clone", "-q", str(project), str(clone))
    commit = run(clone, "git", "rev-parse", "--short", "HEAD").strip()
    done = call(clone, "compare", "HEAD", ".")
    assert done.returncode == 2
    assert f"HEAD, which is commit {commit}, are not stored here" in done.stderr
    assert "DVC's cache does not have prepared, and this project has no default remote" in done.stderr
    assert "dvc pull" not in done.stderr
    commands = [line.strip() for line in done.stderr.splitlines() if line.startswith("  ")]
    assert commands[-1] == f"befriend compare ../befriend-{commit} ."
    for command in commands[:2]:  # the third one runs the whole pipeline
        run(clone, *command.split())
    assert run(tmp_path / f"befriend-{commit}", "git", "rev-parse", "--short", "HEAD").strip() == commit

    run(clone, DVC, "remote", "add", "--default", "store", str(tmp_path / "store"))
    with_remote = call(clone, "compare", "HEAD", ".")
    assert with_remote.returncode == 2
    assert "neither DVC's cache nor the remote store has prepared" in with_remote.stderr
    shutil.copytree(project / ".dvc" / "cache" / "files", tmp_path / "store" / "files")  # as `dvc push` would
    done = call(clone, "compare", "HEAD", "HEAD")
    assert done.returncode == 0 and "Every target has the same rank in both runs" in done.stdout
