"""How long somebody waits for a list: one user at a time, as an application asks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from befriend.retrieval.recommender import Recommender
from befriend.retrieval.requests import Request

MOST = 100  # lists
SHOWN = 10  # people
PERCENTILES = (50, 95, 99)


def latency(recommender: Recommender, request: Request, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """name -> p50, p95 and p99 in milliseconds, over rows of a request, all as of the moment of its last.

    What is made anew with the moment was made by then: the first list is not counted.
    """
    visible, horizon = (np.full(len(request), x[-1]) for x in (request.visible, request.horizon))
    request = replace(request, visible=visible, horizon=horizon)
    rows = np.unique(np.linspace(0, len(request) - 1, min(MOST, len(request))).astype(np.int64))
    found = {}
    for name in names:
        recommender.rank(request.of(rows[:1]), (name,)).head(name, SHOWN)
        waited = []
        for row in rows:
            start = time.perf_counter()
            recommender.rank(request.of(np.array([row])), (name,)).head(name, SHOWN)
            waited.append(1000 * (time.perf_counter() - start))
        found[name] = {f"p{p}": round(float(np.percentile(waited, p)), 2) for p in PERCENTILES}
    return found
