"""The state that users of a simulated network see: ring buffers of the latest users, and a set of pairs of users.

Arrays of fixed or slowly growing size, read and written for many users in one call.
"""

from __future__ import annotations

import numpy as np


class RingBuffers:
    """Each row holds the last `size` users that were pushed to it, so memory does not grow with the log."""

    def __init__(self, rows: int, size: int) -> None:
        self.slots = np.zeros((rows, size), np.int32)
        self.num_pushed = np.zeros(rows, np.int64)
        self.size = size

    def push(self, rows: np.ndarray, users: np.ndarray) -> None:
        """Adds users[i] to row rows[i], in this order; a row may occur several times. rows, users: int[n]."""
        order = np.argsort(rows, kind="stable")
        rows, users = rows[order], users[order]
        offset_in_row = np.arange(len(rows)) - np.searchsorted(rows, rows)
        self.slots[rows, (self.num_pushed[rows] + offset_in_row) % self.size] = users
        np.add.at(self.num_pushed, rows, 1)

    def draw(self, rows: np.ndarray, rng: np.random.Generator, recency_exponent: float = 1.0) -> np.ndarray:
        """int64[n]: a random user of each row, int64[n]; -1 for an empty row and for row -1.

        recency_exponent: 1 draws uniformly; larger values prefer users that were pushed later.
        """
        num_pushed = np.where(rows >= 0, self.num_pushed[rows], 0)
        steps_back = (np.minimum(num_pushed, self.size) * rng.random(len(rows)) ** recency_exponent).astype(np.int64)
        return np.where(num_pushed > 0, self.slots[rows, (num_pushed - 1 - steps_back) % self.size], -1)


class PairSet:
    """A set of unordered pairs of users, as sorted keys.

    New keys go to a small array, which is merged into a large one when it has grown, so that adding is fast.
    """

    def __init__(self, num_users: int) -> None:
        self.num_users = num_users
        self.large_keys = np.empty(0, np.int64)
        self.small_keys = np.empty(0, np.int64)

    def keys(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """int64[n]: the key of each pair, the same in both orders. first, second: int[n]."""
        return np.minimum(first, second).astype(np.int64) * self.num_users + np.maximum(first, second)

    def contains(self, keys: np.ndarray) -> np.ndarray:
        """bool[n]: which keys, int64[n], are in the set."""
        is_member = np.zeros(len(keys), bool)
        for sorted_keys in (self.large_keys, self.small_keys):
            if len(sorted_keys):
                is_member |= sorted_keys[np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)] == keys
        return is_member

    def add(self, keys: np.ndarray) -> None:
        """Adds keys, int64[n]."""
        self.small_keys = np.sort(np.concatenate([self.small_keys, keys]))
        if len(self.small_keys) > 1000 + len(self.large_keys) // 32:
            self.large_keys = np.sort(np.concatenate([self.large_keys, self.small_keys]), kind="stable")
            self.small_keys = np.empty(0, np.int64)
