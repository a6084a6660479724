"""Work on all cores: forked processes that share the models and the log of their parent."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from befriend.errors import KilledError
from befriend.kernels import num_cores

T = TypeVar("T")
R = TypeVar("R")

_calls: dict[int, tuple[Callable[[Any], Any], Sequence[Any]]] = {}
"""key of a call of `parallel_map` -> its arguments; forked processes find them here, so they are never copied"""


def parallel_map(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """The result of `function` for each item, in order, computed by one process per core.

    The processes are forked: they have all that the function reads, without a copy, and do not change it here. Only
    results are copied. The function must not use polars or a GPU, whose threads do not survive a fork, and each process
    uses one thread. Where there is one core, or no fork, this process computes all. KilledError if a process is killed.
    """
    num_processes = min(num_cores(), len(items))
    if num_processes < 2 or sys.platform != "linux":
        yield from map(function, items)
        return
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    key = max(_calls, default=0) + 1
    _calls[key] = function, items
    executor = ProcessPoolExecutor(num_processes, multiprocessing.get_context("fork"), _initialise)
    try:
        yield from executor.map(_call, [(key, index) for index in range(len(items))])
    except BrokenProcessPool:
        raise KilledError(
            "one of the processes that share this work was killed, most often for lack of memory. Run the command "
            "again with more memory, or with one process: taskset -c 0 COMMAND."
        ) from None
    except BaseException:
        for process in multiprocessing.active_children():  # do not wait for items that nobody needs now
            process.terminate()
        raise
    finally:
        executor.shutdown(cancel_futures=True)
        del _calls[key]


def _initialise() -> None:
    """Prepares a forked process: one thread, and Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)


def _call(key_and_index: tuple[int, int]) -> Any:
    key, index = key_and_index
    function, items = _calls[key]
    return function(items[index])
