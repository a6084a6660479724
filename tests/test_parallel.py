"""Forked processes give the results in order, and an error or a killed process is no hang."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
import pytest

from befriend import parallel
from befriend.errors import DataError, KilledError


@pytest.fixture(autouse=True)
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "num_cores", lambda: 2)


def test_results_are_in_order_and_made_by_other_processes() -> None:
    table = np.arange(10) ** 2  # read by the processes, not copied to them
    results = list(parallel.parallel_map(lambda k: (os.getpid(), int(table[k])), range(10)))
    assert [square for _, square in results] == [k * k for k in range(10)]
    assert os.getpid() not in {process for process, _ in results}


def test_one_core_and_one_item_need_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(parallel.parallel_map(lambda _: os.getpid(), [0])) == [os.getpid()]
    monkeypatch.setattr(parallel, "num_cores", lambda: 1)
    assert list(parallel.parallel_map(lambda _: os.getpid(), [0, 1])) == 2 * [os.getpid()]


def test_an_error_reaches_the_caller() -> None:
    def fail(k: int) -> Any:
        if k == 3:
            raise DataError("a wrong row")
        return k

    with pytest.raises(DataError, match="a wrong row"):
        list(parallel.parallel_map(fail, range(6)))


def test_a_killed_process_is_an_error() -> None:
    with pytest.raises(KilledError, match="killed"):
        list(parallel.parallel_map(lambda k: os.kill(os.getpid(), signal.SIGKILL), range(4)))


def test_a_caller_may_stop_early() -> None:
    results = parallel.parallel_map(lambda k: k, range(100))
    assert next(results) == 0
    results.close()
    assert not parallel._calls
