"""What befriend runs on: versions of packages, programs, processor, memory and disk. Imports none of the packages."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from befriend.kernels import num_cores
from befriend.ops.processor import processor_name

SHOWN_PACKAGES = ("torch", "prefect", "dvc", "great-expectations", "pandera", "polars")
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


def describe_machine(folder: Path) -> dict[str, Any]:
    """Versions, processor, memory and disk, as in JSON. folder: on the disk in question."""
    return {
        "befriend": package_version("befriend"),
        "python": platform.python_version(),
        "environment": sys.prefix,
        "packages": {name: package_version(name) for name in SHOWN_PACKAGES},
        "cuda": describe_cuda(),
        "processor": {"name": processor_name(), "cores": os.cpu_count(), "usable_cores": num_cores()},
        "memory": {name: round(size / 1e9, 1) for name, size in memory().items()} | {"unit": "GB"},
        "disk": {"free": round(shutil.disk_usage(folder).free / 1e9, 1), "unit": "GB"},
    }


def package_version(name: str) -> str | None:
    """The version of an installed package; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def missing_packages() -> list[str]:
    """The packages that befriend requires and that are not installed."""
    try:
        requirements = requires("befriend") or []
    except PackageNotFoundError:
        return ["befriend"]
    names = [re.split(r"[^\w.-]", requirement)[0] for requirement in requirements if "extra ==" not in requirement]
    return [name for name in names if package_version(name) is None]


def missing_programs() -> list[str]:
    """The programs that befriend calls and that are not there. DVC is called from the environment of this Python."""
    dvc = Path(sys.executable).with_name("dvc")
    return [name for name, path in (("git", shutil.which("git")), ("dvc", shutil.which(dvc))) if path is None]


def describe_cuda() -> dict[str, Any]:
    """Whether PyTorch uses an NVIDIA GPU, and how that is known without importing it, which would take seconds.

    Keys: built_for, the version of CUDA, or None; driver, whether this machine has the driver of NVIDIA; used.
    """
    spec = importlib.util.find_spec("torch")
    path = Path(spec.origin).with_name("version.py") if spec is not None and spec.origin else None
    text = path.read_text(encoding="utf-8") if path is not None and path.is_file() else ""
    match = re.search(r"^cuda\b[^=]*= *'([^']+)'", text, re.MULTILINE)
    built_for, has_driver = match[1] if match else None, NVIDIA_DRIVER.exists()
    return {"built_for": built_for, "driver": has_driver, "used": built_for is not None and has_driver}


def memory(meminfo: Path = Path("/proc/meminfo"), limit: Path = Path("/sys/fs/cgroup/memory.max")) -> dict[str, int]:
    """Bytes of memory: total and, on Linux, available. The limit of a container counts if it is lower.

    meminfo, limit: files of Linux.
    """
    if not meminfo.is_file():
        return {"total": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")}
    text = meminfo.read_text(encoding="utf-8")
    sizes = {name: int(size) * 1024 for name, size in re.findall(r"^(\w+): *(\d+) kB$", text, re.MULTILINE)}
    found = {"total": sizes["MemTotal"], "available": sizes["MemAvailable"]}
    of_container = limit.read_text(encoding="utf-8").strip() if limit.is_file() else "max"
    return {name: min(size, int(of_container)) if of_container.isdecimal() else size for name, size in found.items()}
