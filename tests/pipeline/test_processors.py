"""What the stages compute has the same bytes on processors of other years."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys

import pytest

from befriend import kernels
from tests.conftest import ROOT

QEMU = shutil.which("qemu-x86_64")


def run(*command: str) -> list[str]:
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.splitlines()


def test_nothing_that_computes_is_loaded_before_it_is_held_to_common_instructions() -> None:
    code = "import sys, befriend.cli.main; print([name for name in ('numpy', 'scipy', 'torch') if name in sys.modules])"
    assert run(sys.executable, "-c", code) == ["[]"]


def test_what_rounds_in_another_way_has_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    here = kernels.pinned_digest()
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # stages set how many threads they use
    assert kernels.pinned_digest() == here
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    assert kernels.pinned_digest() != here


@pytest.mark.system
@pytest.mark.timeout(900)
@pytest.mark.skipif(not QEMU or platform.machine() != "x86_64", reason="needs Debian's package qemu-user, on x86-64")
def test_a_processor_of_2013_computes_the_same() -> None:
    program = [sys.executable, "-m", "tests.pipeline.computed"]  # of which nothing is loaded before `tests` holds it
    here, there = run(*program), run(str(QEMU), "-cpu", "Haswell", *program)
    assert len(here) == 15
    assert there == here
