"""Running sums, maxima and decayed sums within runs of equal labels, vectorised over all runs."""

from __future__ import annotations

import numpy as np


class Runs:
    """Running values within runs of equal labels, such as the entries of a user. Arrays have a value per index.

    is_first: bool, whether a run starts at an index; start: int64, the first index of the run at each index.
    """

    def __init__(self, label: np.ndarray):
        """label: int64, such that equal labels are adjacent."""
        self.is_first = np.ones(len(label), bool)
        self.is_first[1:] = label[1:] != label[:-1]
        starts = np.flatnonzero(self.is_first)
        self.start = starts[self.is_first.cumsum() - 1] if len(label) else starts
        self.longest = int(np.diff(starts, append=len(label)).max(initial=0))

    def last(self, flag: np.ndarray) -> np.ndarray:
        """int64: at each index, the last index of the run up to this one where `flag` is True; -1 without one."""
        index = np.maximum.accumulate(np.where(flag, np.arange(len(flag)), -1))
        return np.where(index >= self.start, index, -1)

    def sums(self, weight: np.ndarray) -> np.ndarray:
        """float32: at each index, the sum of the weights of the run up to and including this index."""
        total = np.concatenate([[0.0], np.cumsum(weight, dtype=np.float64)])
        return (total[1:] - total[self.start]).astype(np.float32)

    def next_values(self, value: np.ndarray, missing: int) -> np.ndarray:
        """int64: at each index, the value at the next index of the run; `missing` at the last one."""
        result = np.full(len(value), missing, np.int64)
        has_next = ~self.is_first[1:]
        result[:-1][has_next] = value[1:][has_next]
        return result

    def decayed_sums(self, weight: np.ndarray, timestamp: np.ndarray, half_life: int) -> np.ndarray:
        """float32: exponentially decayed sums of the weights of each run, at each index.

        s_k = s_(k-1) * 2 ** -((t_k - t_(k-1)) / half_life) + w_k, with times t in seconds and weights w. Solves this
        linear recurrence by recursive doubling (Hillis and Steele 1986), in log2(longest run) passes. Example: a run of
        three events at 0, 10 and 20 s and a run of one, with a half-life of 10 s. 1, then 1 / 2 + 1, then 1.5 / 2 + 1:

        >>> runs = Runs(np.array([7, 7, 7, 8]))
        >>> runs.decayed_sums(np.ones(4), np.array([0, 10, 20, 20]), half_life=10).tolist()
        [1.0, 1.5, 1.75, 1.0]
        """
        total = weight.astype(np.float32).copy()
        decay = np.zeros(len(weight), np.float32)
        decay[1:] = np.exp2(-np.diff(timestamp).clip(min=0) / half_life)  # below 0 only where a new run starts
        decay[self.is_first] = 0
        step = 1
        while step < self.longest:
            total[step:] += decay[step:] * total[:-step]
            decay[step:] = decay[step:] * decay[:-step]
            decay[:step] = 0
            step *= 2
        return total
