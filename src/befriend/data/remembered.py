"""What a simulated network remembers of its past: rings of the latest users, and who has met whom.

Arrays of fixed or slowly growing size, drawn from and added to for many users at once.
"""

from __future__ import annotations

import numpy as np


class Rings:
    """A row holds the last `size` users put there, so memory does not grow with the log."""

    def __init__(self, rows: int, size: int) -> None:
        self.slots = np.zeros((rows, size), np.int32)
        self.put_so_far = np.zeros(rows, np.int64)
        self.size = size

    def put(self, rows: np.ndarray, users: np.ndarray) -> None:
        order = np.argsort(rows, kind="stable")
        rows, users = rows[order], users[order]
        place_in_row = np.arange(len(rows)) - np.searchsorted(rows, rows)
        self.slots[rows, (self.put_so_far[rows] + place_in_row) % self.size] = users
        np.add.at(self.put_so_far, rows, 1)

    def draw(self, rows: np.ndarray, rng: np.random.Generator, lean: float = 1.0) -> np.ndarray:
        """One user from each row, -1 from an empty one or row -1; the larger `lean`, the more likely a late one."""
        put = np.where(rows >= 0, self.put_so_far[rows], 0)
        back = (np.minimum(put, self.size) * rng.random(len(rows)) ** lean).astype(np.int64)
        return np.where(put > 0, self.slots[rows, (put - 1 - back) % self.size], -1)


class Pairs:
    """Unordered pairs of users as sorted keys: a large array that is seldom rebuilt, and a small one of late pairs."""

    def __init__(self, users: int) -> None:
        self.users = users
        self.old = np.empty(0, np.int64)
        self.late = np.empty(0, np.int64)

    def keys(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.minimum(one, other).astype(np.int64) * self.users + np.maximum(one, other)

    def hold(self, keys: np.ndarray) -> np.ndarray:
        found = np.zeros(len(keys), bool)
        for known in (self.old, self.late):
            if len(known):
                found |= known[np.minimum(np.searchsorted(known, keys), len(known) - 1)] == keys
        return found

    def add(self, keys: np.ndarray) -> None:
        self.late = np.sort(np.concatenate([self.late, keys]))
        if len(self.late) > 1000 + len(self.old) // 32:
            self.old = np.sort(np.concatenate([self.old, self.late]), kind="stable")
            self.late = np.empty(0, np.int64)
