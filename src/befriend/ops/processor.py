"""The processor of this machine: its name, and whether equal inputs give equal bytes on it."""

from __future__ import annotations

import platform
import re
import sys
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def processor_name(cpuinfo: Path = CPUINFO) -> str:
    """Maker and model, such as "AMD EPYC 9B14"; the architecture where the system does not tell.

    cpuinfo: Linux's description of the processors.
    """
    text = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.is_file() else ""
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    name = match[1] if match else platform.processor() or platform.machine()
    return re.sub(r"\s+", " ", re.sub(r"\((R|TM)\)|\bProcessor\b|\bCPU\b|@.*|\d+-Core", "", name)).strip()


def promises_equal_bytes(cpuinfo: Path = CPUINFO) -> bool:
    """Whether equal inputs give the same bytes here as on other such machines: Linux, x86 with AVX2.

    See `befriend.kernels`. It holds for the package versions of constraints.txt only. cpuinfo: as in `processor_name`.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64" or not cpuinfo.is_file():
        return False
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return flags is not None and "avx2" in flags[1].split()
