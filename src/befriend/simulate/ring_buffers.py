"""What a simulated network remembers: ring buffers of the latest users, and which pairs of users have met.

Arrays of fixed or slowly growing size, drawn from and added to for many users at once.
"""

from __future__ import annotations

import numpy as np


class RingBuffers:
    """Each row holds the last `size` users that were put there, so memory does not grow with the log."""

    def __init__(self, rows: int, size: int) -> None:
        self.slots = np.zeros((rows, size), np.int32)
        self.put_so_far = np.zeros(rows, np.int64)
        self.size = size

    def put(self, rows: np.ndarray, users: np.ndarray) -> None:
        """Adds users[i] to row rows[i], in order; a row may occur several times."""
        order = np.argsort(rows, kind="stable")
        rows, users = rows[order], users[order]
        offset_in_row = np.arange(len(rows)) - np.searchsorted(rows, rows)
        self.slots[rows, (self.put_so_far[rows] + offset_in_row) % self.size] = users
        np.add.at(self.put_so_far, rows, 1)

    def draw(self, rows: np.ndarray, rng: np.random.Generator, lean: float = 1.0) -> np.ndarray:
        """One user from each row, -1 from an empty row or row -1; a larger `lean` favours users put there later."""
        num_put = np.where(rows >= 0, self.put_so_far[rows], 0)
        back = (np.minimum(num_put, self.size) * rng.random(len(rows)) ** lean).astype(np.int64)
        return np.where(num_put > 0, self.slots[rows, (num_put - 1 - back) % self.size], -1)


class PairSet:
    """Unordered pairs of users as sorted keys: a large array, rarely rebuilt, and a small one of recent pairs."""

    def __init__(self, users: int) -> None:
        self.users = users
        self.old = np.empty(0, np.int64)
        self.late = np.empty(0, np.int64)

    def keys(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """int64: the key of each pair, the same in either order."""
        return np.minimum(first, second).astype(np.int64) * self.users + np.maximum(first, second)

    def hold(self, keys: np.ndarray) -> np.ndarray:
        """bool: which keys are in the set."""
        is_member = np.zeros(len(keys), bool)
        for sorted_keys in (self.old, self.late):
            if len(sorted_keys):
                is_member |= sorted_keys[np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)] == keys
        return is_member

    def add(self, keys: np.ndarray) -> None:
        self.late = np.sort(np.concatenate([self.late, keys]))
        if len(self.late) > 1000 + len(self.old) // 32:
            self.old = np.sort(np.concatenate([self.old, self.late]), kind="stable")
            self.late = np.empty(0, np.int64)
