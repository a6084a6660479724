"""Everybody's lists for the questions of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from befriend.data.histories import Histories
from befriend.data.log import EventLog
from befriend.evaluation.protocol import Questions, Ranker, Request, requests
from befriend.evaluation.regimes import Regime
from befriend.progress import track

EVENTS_AT_ONCE = 256


def ranked(
    log: EventLog, histories: Histories, asked: dict[Regime, Questions], rankers: Callable[[], list[Ranker]], label: str
) -> dict[Regime, dict[str, np.ndarray]]:
    """Regime -> model -> int32[R, k], a list for each row of the questions.

    rankers: makes them anew, for time starts over with each regime; label: of the progress.
    """

    def steps() -> Iterator[tuple[Regime, Ranker, Request]]:
        for regime, questions in asked.items():
            started = rankers()
            for request in requests(log, histories, questions, regime, EVENTS_AT_ONCE):
                for ranker in started:
                    yield regime, ranker, request

    blocks: dict[Regime, dict[str, list[np.ndarray]]] = {regime: {} for regime in asked}
    total = sum(-(-len(questions.events) // EVENTS_AT_ONCE) for questions in asked.values())
    for regime, ranker, request in track(steps(), label, total):
        for name, lists in ranker.rank(request).items():
            blocks[regime].setdefault(name, []).append(lists)
    return {r: {name: np.concatenate(parts) for name, parts in found.items()} for r, found in blocks.items()}
