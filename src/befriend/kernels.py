"""Equal runs, equal bytes, on whatever x86 machine: its libraries are held to the instructions that all of them have.

PyTorch, MKL, oneDNN, OpenBLAS and NumPy choose by the processor how they compute, and what is computed in another order
is rounded in another way. Processors since 2013 have AVX2; AVX-512, which only some have, stays unused. MKL takes its
own way on AMD, and other architectures compute as they do: there, equal runs are equal on processors of one kind.
"""

from __future__ import annotations

import hashlib
import os

KERNELS = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_CBWR": "AVX2,STRICT",  # strict: wherever in memory the numbers lie
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    "OMP_NUM_THREADS": "1",  # the number of threads decides the order as well; training has a setting of its own
}
"""Environment variables, which the libraries read when they are loaded."""


def hold() -> None:
    """Holds the libraries that this process will load; what somebody has set already stays."""
    for name, value in KERNELS.items():
        os.environ.setdefault(name, value)


def held() -> str:
    """A short name of how this process rounds, as far as the environment says: the same where equal runs are equal."""
    said = [f"{name}={os.environ.get(name, '')}" for name in KERNELS if name != "OMP_NUM_THREADS"]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:8]


def cores() -> int:
    """How many processors this process may use: for work in pieces whose bytes do not depend on who does them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
