"""The stages compute the same bytes on different processors."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from befriend import kernels
from tests.conftest import ROOT

QEMU = shutil.which("qemu-x86_64")
CPUINFO = Path("/proc/cpuinfo")
IS_INTEL = CPUINFO.is_file() and "GenuineIntel" in CPUINFO.read_text()


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
@pytest.mark.skipif(not QEMU, reason="needs Debian's package qemu-user")
@pytest.mark.skipif(
    not IS_INTEL, reason="needs an Intel processor: on others, results equal those of their own kind only"
)
def test_processor_of_2013_computes_the_same() -> None:
    # `tests` fixes the instruction sets before the module imports any library.
    program = [sys.executable, "-m", "tests.pipeline.computed"]
    native, emulated = run(*program), run(str(QEMU), "-cpu", "Haswell", *program)
    assert len(native) == 15
    assert emulated == native
