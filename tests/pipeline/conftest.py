"""A copy of the checkout with its committed and uncommitted files, and the same after `dvc repro` on the tiny log."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from befriend import files
from tests.conftest import ROOT

BIN = Path(sys.executable).parent
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name != files.LOCK_VARIABLE},
    "PATH": f"{BIN}:{os.environ['PATH']}",
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.org", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.org",
}  # fmt: skip


def call(
    cwd: Path, *command: str, ok: bool = True, timeout: float = 2000, **extra: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT | extra, capture_output=True, text=True, timeout=timeout)
    assert not ok or done.returncode == 0, done.stdout + done.stderr
    return done


def copy_checkout(root: Path) -> None:
    """Copies all files that git does not ignore, and commits them."""
    listed = call(ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard").stdout.split("\n")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    call(root, "git", "init", "-q")
    call(root, "git", "add", "-A")
    call(root, "git", "commit", "-q", "-m", "all")


def _run_tiny(root: Path) -> None:
    copy_checkout(root)
    call(root, "befriend", "use", "--tiny")
    call(root, "dvc", "repro")
    call(root, "git", "add", "-A")
    call(root, "git", "commit", "-q", "-m", "the tiny log")


@pytest.fixture(scope="session")
def shared_clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests import projects

    return projects.shared(tmp_path_factory, "clone", _run_tiny)


@pytest.fixture(scope="module")
def clone(shared_clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone that uses the tiny log, after `dvc repro`. Each test worker has its own copy."""
    return shutil.copytree(shared_clone, tmp_path_factory.mktemp("clone") / "befriend", symlinks=True)
