"""The stages compute the same bytes on different processors."""

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


def test_numeric_libraries_are_not_imported_before_their_instruction_sets_are_fixed() -> None:
    code = "import sys, befriend.cli.main; print([name for name in ('numpy', 'scipy', 'torch') if name in sys.modules])"
    assert run(sys.executable, "-c", code) == ["[]"]


def test_digest_changes_with_settings_that_change_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = kernels.pinned_digest()
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # stages set their number of threads
    assert kernels.pinned_digest() == digest
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    assert kernels.pinned_digest() != digest


@pytest.mark.system
@pytest.mark.timeout(900)
@pytest.mark.skipif(not QEMU or platform.machine() != "x86_64", reason="needs Debian's package qemu-user, on x86-64")
def test_processor_of_2013_computes_the_same() -> None:
    program = [
        sys.executable,
        "-m",
        "tests.pipeline.computed",
    ]  # `tests` fixes the instruction sets before the module imports any library
    native, emulated = run(*program), run(str(QEMU), "-cpu", "Haswell", *program)
    assert len(native) == 15
    assert emulated == native
