"""The assembly of the events of all chunks: duplicates, and peak memory per event."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from befriend.validation.ingest import _find_duplicates

NUM_EVENTS = 1_000_000
MAX_BYTES_PER_EVENT = 110  # without the chunks themselves
ASSEMBLE = f"""
import resource
import numpy as np, polars as pl
from befriend.config import DataSettings
from befriend.validation.ingest import _assemble

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

num_users, rng = 50_000, np.random.default_rng(0)
def random_chunks(num_events):
    starts = range(0, num_events, 100_000)
    ids = [rng.integers(0, num_users, 100_000, dtype=np.int32) for _ in (*starts, *starts)]
    timestamps = [rng.integers(0, 10**8, 100_000) for _ in starts]
    return [(a, b, np.zeros(100_000, np.int16), t) for a, b, t in zip(ids[::2], ids[1::2], timestamps)]
ids = pl.Series(range(num_users))
_assemble(random_chunks(100_000), ids, 0, {{"hi": 0}}, DataSettings(), "keep")  # loads all modules
chunk_arrays = random_chunks({NUM_EVENTS})
before = peak()
events, _, _ = _assemble(chunk_arrays, ids, 0, {{"hi": 0}}, DataSettings(), "keep")
assert events.height == {NUM_EVENTS}
print((peak() - before) / {NUM_EVENTS})
"""


def test_duplicates_are_all_but_the_first_of_equal_events() -> None:
    rng = np.random.default_rng(0)
    timestamp = np.sort(rng.integers(0, 40, 500))
    actor, target, action = (rng.integers(0, high, 500) for high in (3, 4, 2))
    duplicates = _find_duplicates(timestamp, actor, target, action)
    table = pl.DataFrame({"timestamp": timestamp, "actor": actor, "target": target, "action": action})
    expected = np.flatnonzero(~table.select(pl.struct(pl.all()).is_first_distinct()).to_series().to_numpy())
    assert len(duplicates) > 100 and np.array_equal(np.sort(duplicates), expected)
    assert not len(_find_duplicates(np.arange(5), np.zeros(5))) and not len(_find_duplicates(timestamp[:0], actor[:0]))


@pytest.mark.system
@pytest.mark.skipif(sys.platform != "linux", reason="other systems report peak memory in other units")
def test_assembly_needs_little_memory_per_event() -> None:
    result = subprocess.run([sys.executable, "-c", ASSEMBLE], capture_output=True, text=True, check=True)
    assert float(result.stdout) < MAX_BYTES_PER_EVENT
