"""Pins the CPU kernels of numeric libraries: equal bits on x86 processors of Intel and AMD.

PyTorch, MKL, oneDNN, OpenBLAS and NumPy choose their kernels by the processor, and a different order of operations
rounds differently. Processors since 2015 have AVX2; AVX-512, which only some have, is not used. MKL computes alike on
processors of both makers in its compatible mode only. Large products are slow there: oneDNN computes those of the text
encoder. Even there the square root differs, hence no `torch.sqrt` and no `torch.cdist` in befriend. On other
architectures, results are reproducible only on processors of the same kind.
"""

from __future__ import annotations

import hashlib
import os

KERNELS = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_CBWR": "COMPATIBLE",  # the only mode with equal bits on processors of all makers
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    "OMP_NUM_THREADS": "1",  # the number of threads changes the order of operations too; training has its own setting
}
"""environment variables that the libraries read when they are loaded"""


def pin() -> None:
    """Limits the libraries that this process loads later. Does not change variables that are already set."""
    for name, value in KERNELS.items():
        os.environ.setdefault(name, value)


def pinned_digest() -> str:
    """A digest, 8 hexadecimal digits, of the environment variables that choose kernels, as set in this process."""
    pinned = [f"{name}={os.environ.get(name, '')}" for name in KERNELS if name != "OMP_NUM_THREADS"]
    return hashlib.sha256("\n".join(pinned).encode()).hexdigest()[:8]


def num_cores() -> int:
    """Number of processors that this process may use. Only for work whose result does not depend on it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
