"""The stages compute the same bytes on different processors."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys

import pytest

from befriend import kernels
from befriend.ops.processor import CPUINFO
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
    monkeypatch.setenv("MKL_CBWR", "AVX2")
    assert kernels.pinned_digest() != digest


def test_functions_that_round_differently_on_amd_are_not_used() -> None:
    code = {path: path.read_text() for path in (ROOT / "src").rglob("*.py")}
    assert [path for path, text in code.items() if ".sqrt()" in text or "torch.sqrt(" in text or "cdist(" in text] == []


@pytest.mark.system
@pytest.mark.timeout(900)
@pytest.mark.skipif(not QEMU, reason="needs Debian's package qemu-user")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86 processor")
def test_processor_of_the_other_maker_computes_the_same() -> None:
    # `tests` fixes the instruction sets before the module imports any library.
    program = [sys.executable, "-m", "tests.pipeline.computed"]
    other = "Haswell" if "AuthenticAMD" in CPUINFO.read_text() else "EPYC"
    native, emulated = run(*program), run(str(QEMU), "-cpu", other, *program)
    assert len(native) == 19
    assert emulated == native
