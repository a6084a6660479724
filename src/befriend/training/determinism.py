"""Reproducible training: deterministic algorithms, a fixed number of threads, and a random seed for each step.

Two runs with the same inputs, settings and machine give the same bytes. Every step sets its own seed, so a checkpoint
does not have to store the state of any random generator.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.utils import deterministic


@contextmanager
def deterministic_torch(threads: int, device: torch.device) -> Iterator[None]:
    """In the context, torch uses deterministic algorithms and `threads` CPU threads.

    At the end, torch's settings and random generators are as they were before.
    """
    threads_before = torch.get_num_threads()
    deterministic_before = torch.are_deterministic_algorithms_enabled()
    warn_only_before = torch.is_deterministic_algorithms_warn_only_enabled()
    fill_before = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    if device.type == "cuda":
        # Without it, deterministic matrix products raise an error on CUDA.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(True)
            # Deterministic mode fills uninitialised memory, which costs time. The models never read such memory.
            deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
            yield
        finally:
            deterministic.fill_uninitialized_memory = fill_before  # type: ignore[attr-defined]
            torch.use_deterministic_algorithms(deterministic_before, warn_only=warn_only_before)
            torch.set_num_threads(threads_before)


@contextmanager
def thread_limits(threads: int) -> Iterator[None]:
    """In the context, torch, scipy and scikit-learn use this number of CPU threads: their results depend on it.

    Torch keeps the number afterwards.
    """
    # The limits apply only to libraries that are already loaded.
    import sklearn.cluster  # type: ignore[import-untyped]
    import sklearn.manifold  # type: ignore[import-untyped]  # noqa: F401
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped,unused-ignore]

    torch.set_num_threads(threads)
    with threadpool_limits(threads):
        yield


def seed_step(seed: int, epoch: int, step: int, process: int) -> None:
    """Seeds torch's random generators, on every device, for one step of one process."""
    step_seed = int(np.random.SeedSequence([seed, epoch, step, process]).generate_state(1, np.uint64)[0])
    if torch.accelerator.is_available():
        torch.manual_seed(step_seed)
    else:  # without an accelerator, torch.manual_seed records a stack trace each time, to seed a later device
        torch.default_generator.manual_seed(step_seed)
