"""Assembling the events of all chunks: repeated events, and peak memory per event."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from befriend.validation.ingest import _repeated

EVENTS = 1_000_000
PEAK = 110  # bytes per event, without the chunks themselves
ASSEMBLE = f"""
import resource
import numpy as np, polars as pl
from befriend.config import DataSettings
from befriend.validation.ingest import _assemble

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

users, rng = 50_000, np.random.default_rng(0)
def parts(events):
    cuts = range(0, events, 100_000)
    ids = [rng.integers(0, users, 100_000, dtype=np.int32) for _ in (*cuts, *cuts)]
    seconds = [rng.integers(0, 10**8, 100_000) for _ in cuts]
    return [(a, b, np.zeros(100_000, np.int16), s) for a, b, s in zip(ids[::2], ids[1::2], seconds)]
ids = pl.Series(range(users))
_assemble(parts(100_000), ids, 0, {{"hi": 0}}, DataSettings(), "keep")  # loads all modules
chunk_arrays = parts({EVENTS})
before = peak()
events, _, _ = _assemble(chunk_arrays, ids, 0, {{"hi": 0}}, DataSettings(), "keep")
assert events.height == {EVENTS}
print((peak() - before) / {EVENTS})
"""


def test_repetitions_are_all_but_the_first_of_equal_events() -> None:
    rng = np.random.default_rng(0)
    second = np.sort(rng.integers(0, 40, 500))
    actor, target, action = (rng.integers(0, most, 500) for most in (3, 4, 2))
    repeated = _repeated(second, actor, target, action)
    table = pl.DataFrame({"s": second, "a": actor, "t": target, "k": action})
    expected = np.flatnonzero(~table.select(pl.struct(pl.all()).is_first_distinct()).to_series().to_numpy())
    assert len(repeated) > 100 and np.array_equal(np.sort(repeated), expected)
    assert not len(_repeated(np.arange(5), np.zeros(5))) and not len(_repeated(second[:0], actor[:0]))


@pytest.mark.system
@pytest.mark.skipif(sys.platform != "linux", reason="other systems report peak memory in other units")
def test_assembling_events_needs_little_memory_per_event() -> None:
    result = subprocess.run([sys.executable, "-c", ASSEMBLE], capture_output=True, text=True, check=True)
    assert float(result.stdout) < PEAK
