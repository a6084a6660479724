"""Events of a simulated network as arrays, one row per event."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class EventBatch(NamedTuple):
    """Events that have happened or are due later."""

    time: np.ndarray  # int64[n], UTC seconds
    kind: np.ndarray  # int8[n], a constant of `simulate.network`, such as REQUEST
    actor: np.ndarray  # int32[n]
    target: np.ndarray  # int32[n]; any value where the kind is UNDECIDED

    def select(self, rows: np.ndarray) -> EventBatch:
        """The rows of a mask, bool[n], or of indices, int64[m]."""
        return EventBatch(*(column[rows] for column in self))


def make_batch(time: np.ndarray, kind: int, actor: np.ndarray, target: np.ndarray | None = None) -> EventBatch:
    """Events of one kind. time, actor, target: [n]; no target: events that are UNDECIDED."""
    target = actor if target is None else target
    return EventBatch(
        time.astype(np.int64), np.full(len(time), kind, np.int8), actor.astype(np.int32), target.astype(np.int32)
    )


def concatenate(batches: list[EventBatch]) -> EventBatch:
    """The events of all batches, in this order."""
    return EventBatch(*(np.concatenate(columns) for columns in zip(*batches, strict=True)))
