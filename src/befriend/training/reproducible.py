"""Equal runs, equal bytes: deterministic algorithms, a set number of threads, and a seed for each step.

As every step starts from a seed of its own, no generator has a state that a checkpoint would have to keep.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.utils import deterministic


@contextmanager
def reproducible(threads: int, device: torch.device) -> Iterator[None]:
    """Deterministic algorithms on `threads` CPU threads; torch's settings and generators are as before afterwards."""
    threads_before = torch.get_num_threads()
    deterministic_before = torch.are_deterministic_algorithms_enabled()
    warn_only_before = torch.is_deterministic_algorithms_warn_only_enabled()
    fill_before = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it CUDA refuses matrix products
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(True)
            # Nobody reads memory that nobody wrote: there is no need to fill it first.
            deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
            yield
        finally:
            deterministic.fill_uninitialized_memory = fill_before  # type: ignore[attr-defined]
            torch.use_deterministic_algorithms(deterministic_before, warn_only=warn_only_before)
            torch.set_num_threads(threads_before)


@contextmanager
def limited(threads: int) -> Iterator[None]:
    """A number of CPU threads for torch, scipy and scikit-learn alike: what they compute depends on it."""
    # Limits hold for what is loaded by now.
    import sklearn.cluster  # type: ignore[import-untyped]
    import sklearn.manifold  # type: ignore[import-untyped]  # noqa: F401
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped,unused-ignore]

    torch.set_num_threads(threads)
    with threadpool_limits(threads):
        yield


def seed_step(seed: int, epoch: int, step: int, process: int) -> None:
    """Seeds torch's generators, on every device, for one step of one process."""
    mixed = int(np.random.SeedSequence([seed, epoch, step, process]).generate_state(1, np.uint64)[0])
    if torch.accelerator.is_available():
        torch.manual_seed(mixed)
    else:  # for a device that there is not, torch would note down each time where it is to be seeded from
        torch.default_generator.manual_seed(mixed)
