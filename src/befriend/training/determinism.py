"""Equal runs give equal bytes: deterministic algorithms, a fixed number of threads, and a seed for each step.

Every step sets its own seed, so no random generator has a state that a checkpoint would have to store.
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
    """Deterministic algorithms on `threads` CPU threads. Restores torch's settings and generators afterwards."""
    threads_before = torch.get_num_threads()
    deterministic_before = torch.are_deterministic_algorithms_enabled()
    warn_only_before = torch.is_deterministic_algorithms_warn_only_enabled()
    fill_before = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    if device.type == "cuda":
        os.environ.setdefault(
            "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
        )  # without it, CUDA raises an error in matrix products
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(True)
            # No uninitialised memory is ever read, so it need not be filled first.
            deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
            yield
        finally:
            deterministic.fill_uninitialized_memory = fill_before  # type: ignore[attr-defined]
            torch.use_deterministic_algorithms(deterministic_before, warn_only=warn_only_before)
            torch.set_num_threads(threads_before)


@contextmanager
def thread_limits(threads: int) -> Iterator[None]:
    """A number of CPU threads for torch, scipy and scikit-learn alike: their results depend on it."""
    # The limits apply only to libraries that are loaded already.
    import sklearn.cluster  # type: ignore[import-untyped]
    import sklearn.manifold  # type: ignore[import-untyped]  # noqa: F401
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped,unused-ignore]

    torch.set_num_threads(threads)
    with threadpool_limits(threads):
        yield


def seed_step(seed: int, epoch: int, step: int, process: int) -> None:
    """Seeds torch's generators, on every device, for one step of one process."""
    step_seed = int(np.random.SeedSequence([seed, epoch, step, process]).generate_state(1, np.uint64)[0])
    if torch.accelerator.is_available():
        torch.manual_seed(step_seed)
    else:  # without a device, torch.manual_seed would record a stack trace each time, for seeding the device later
        torch.default_generator.manual_seed(step_seed)
