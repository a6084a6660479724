"""Time to make a list: a single user per request, as an application sends them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from befriend.retrieval.recommender import Recommender
from befriend.retrieval.requests import RequestBatch

MAX_LISTS = 100
SHOWN = 10  # users on each list
PERCENTILES = (50, 95, 99)


def latency(recommender: Recommender, request: RequestBatch, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """name -> p50, p95 and p99 in milliseconds, over at most MAX_LISTS of the requests, all at the last cutoff.

    The first list is not counted: it pays for the snapshot of that cutoff.
    """
    num_visible, cutoff = (np.full(len(request), x[-1]) for x in (request.num_visible, request.cutoff))
    request = replace(request, num_visible=num_visible, cutoff=cutoff)
    rows = np.unique(np.linspace(0, len(request) - 1, min(MAX_LISTS, len(request))).astype(np.int64))
    percentiles = {}
    for name in names:
        recommender.rank(request.select(rows[:1]), (name,)).top(name, SHOWN)
        durations = []
        for row in rows:
            start = time.perf_counter()
            recommender.rank(request.select(np.array([row])), (name,)).top(name, SHOWN)
            durations.append(1000 * (time.perf_counter() - start))
        percentiles[name] = {f"p{p}": round(float(np.percentile(durations, p)), 2) for p in PERCENTILES}
    return percentiles
