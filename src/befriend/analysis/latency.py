"""Latency: the time to make a single list, one user per request as an application sends it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from befriend.retrieval.recommender import Recommender
from befriend.retrieval.requests import RequestBatch

MAX_LISTS = 100
LIST_LENGTH = 10
PERCENTILES = (50, 95, 99)


def measure_latency(
    recommender: Recommender, request: RequestBatch, names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Name of a model -> p50, p95 and p99 in milliseconds, over at most MAX_LISTS of the requests.

    All lists are made as of the last cutoff of the batch. A first list of each model isn't timed, as it also computes
    the snapshot of that cutoff.
    """
    num_visible, cutoff = (np.full(len(request), array[-1]) for array in (request.num_visible, request.cutoff))
    request = replace(request, num_visible=num_visible, cutoff=cutoff)
    rows = np.unique(np.linspace(0, len(request) - 1, min(MAX_LISTS, len(request))).astype(np.int64))
    percentiles = {}
    for name in names:
        recommender.rank(request.select(rows[:1]), (name,)).top(name, LIST_LENGTH)
        durations = []
        for row in rows:
            start = time.perf_counter()
            recommender.rank(request.select(np.array([row])), (name,)).top(name, LIST_LENGTH)
            durations.append(1000 * (time.perf_counter() - start))
        percentiles[name] = {f"p{p}": round(float(np.percentile(durations, p)), 2) for p in PERCENTILES}
    return percentiles
