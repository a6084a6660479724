"""Makes equal runs give equal bytes on any x86 machine: limits libraries to instructions that all such machines have.

PyTorch, MKL, oneDNN, OpenBLAS and NumPy choose their kernels by the processor, and a different order of operations
rounds differently. Processors since 2013 have AVX2; AVX-512, which only some have, stays unused. MKL takes a different
path on AMD, and other architectures have their own kernels: there, equal runs are equal only on processors of one kind.
"""

from __future__ import annotations

import hashlib
import os

KERNELS = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_CBWR": "AVX2,STRICT",  # strict: whatever the memory alignment of the numbers
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    "OMP_NUM_THREADS": "1",  # the number of threads changes the order too; training has its own setting
}
"""Environment variables that the libraries read when they are loaded."""


def pin() -> None:
    """Limits the libraries that this process will load; variables that are already set stay as they are."""
    for name, value in KERNELS.items():
        os.environ.setdefault(name, value)


def pinned_digest() -> str:
    """A short digest of the environment that decides how this process rounds: the same where equal runs are equal."""
    pinned = [f"{name}={os.environ.get(name, '')}" for name in KERNELS if name != "OMP_NUM_THREADS"]
    return hashlib.sha256("\n".join(pinned).encode()).hexdigest()[:8]


def cores() -> int:
    """Number of processors that this process may use, for work whose result does not depend on how it is divided."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
