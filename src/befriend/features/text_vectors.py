"""Text vectors of users at any cutoff: for each post, its timestamp, and the vector of the user from this post on.

Stage `embed_text` computes them. A vector is computed from the posts up to a post, but not again at every post: see
`text.chunks.snapshot_counts`. In training, evaluation and serving, only posts before the cutoff (a UTC second) count.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from befriend import artifacts, files
from befriend.data.event_log import EventLog

VECTORS_FILE, ABOUT_FILE = "text_vectors.safetensors", "text_vectors.json"
REMEDY = "Run `dvc repro embed_text`"
NUM_STATISTICS = 3  # whether the user has a post; age of the last post; number of posts


@dataclass(frozen=True)
class TextVectors:
    """P posts of N users, sorted by user, then time, and S vectors of width E. P and S may be 0."""

    num_users: int
    user: Tensor
    """int64[P], ascending"""
    timestamp: Tensor
    """int64[P], UTC seconds, ascending within a user"""
    row: Tensor
    """int64[P], the row of `vectors` that is the user's text vector from this post to the next"""
    vectors: Tensor
    """float32[S, E], of length 1"""

    @classmethod
    def none(cls, num_users: int) -> Self:
        """The table for users without posts."""
        empty = torch.zeros(0, dtype=torch.long)
        return cls(num_users, empty, empty, empty, torch.zeros(0, 0))

    @property
    def width(self) -> int:
        """E, width of a vector; 0 in the table without posts, `none`."""
        return self.vectors.shape[1]

    @property
    def last_timestamp(self) -> int:
        """UTC second of the last post, -1 without posts."""
        return int(self.timestamp.max()) if len(self.timestamp) else -1

    @cached_property
    def _begin(self) -> int:
        """UTC second of the first post, 0 without posts."""
        return int(self.timestamp.min()) if len(self.timestamp) else 0

    @cached_property
    def _span(self) -> int:
        """Seconds per user in `_keys`: from the first post to the last, and one more for later cutoffs."""
        return int(self.timestamp.max()) - self._begin + 2 if len(self.timestamp) else 1

    @cached_property
    def _keys(self) -> Tensor:
        """int64[P], ascending: user and timestamp in one integer."""
        return self.user * self._span + (self.timestamp - self._begin)

    @cached_property
    def _indptr(self) -> Tensor:
        """int64[N + 1]: the posts of user x are _indptr[x] to _indptr[x + 1] - 1."""
        counts = torch.bincount(self.user, minlength=self.num_users)
        return torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    def last_posts(self, users: Tensor, cutoff: Tensor) -> Tensor:
        """int64[...]: index of each user's last post before the UTC second `cutoff`, -1 without one.

        users, cutoff: int64[...], broadcast against each other. Users outside 0 to N - 1 have no posts.
        """
        users, cutoff = torch.broadcast_tensors(users, cutoff)
        valid_users = users.clamp(0, max(self.num_users - 1, 0))
        offset = (cutoff - self._begin).clamp(0, self._span - 1)
        post = torch.searchsorted(self._keys, valid_users * self._span + offset) - 1
        return torch.where((post >= self._indptr[valid_users]) & (users == valid_users), post, -1)

    def has_text(self, users: Tensor, cutoff: Tensor) -> Tensor:
        """bool[...]: which users have a post before `cutoff`."""
        return self.last_posts(users, cutoff) >= 0

    def statistics_and_rows(self, users: Tensor, cutoff: Tensor) -> tuple[Tensor, Tensor]:
        """Statistics of users' posts before `cutoff`, and the rows of their text vectors. users, cutoff: int64[...].

        float32[..., NUM_STATISTICS]: 1, log(1 + seconds since the last post), log(1 + number of posts); all 0 without a
        post. int64[...]: a row of `vectors`, -1 without a post.
        """
        post = self.last_posts(users, cutoff)
        has_post, safe_post = post >= 0, post.clamp(min=0)
        age = (cutoff - _take(self.timestamp, safe_post)).clamp(min=0).float().log1p()
        count = (safe_post - self._indptr[users.clamp(0, self.num_users - 1)] + 1).clamp(min=0).float().log1p()
        statistics = torch.stack([torch.ones_like(age), age, count], -1) * has_post[..., None]
        return statistics, self._row(post)

    def _row(self, post: Tensor) -> Tensor:
        """int64[...]: the row of each post's vector, -1 for post -1."""
        return torch.where(post >= 0, _take(self.row, post.clamp(min=0)), -1)

    def vectors_at(self, row: Tensor) -> Tensor:
        """float32[..., E]: the vectors of rows, int64[...]; 0 for row -1."""
        return self.vectors[row.clamp(min=0)] * (row >= 0)[..., None]

    def latest_vectors(self, users: Tensor, cutoff: Tensor) -> Tensor:
        """float32[..., E]: the text vector of each user at `cutoff`, 0 without a post."""
        return self.vectors_at(self._row(self.last_posts(users, cutoff)))

    def without_users(self, erased: Tensor) -> Self:
        """The table without the posts of some users; `vectors` keeps their rows, unused. erased: bool[N]."""
        remaining = ~erased[self.user]
        return replace(self, user=self.user[remaining], timestamp=self.timestamp[remaining], row=self.row[remaining])

    def save(self, folder: Path, log: EventLog) -> None:
        """Writes the vectors to an existing folder. log: the log whose internal ids they have."""
        tensors = {"user": self.user, "second": self.timestamp, "row": self.row, "vectors": self.vectors}
        artifacts.save_tensors(folder / VECTORS_FILE, tensors)
        about = {"users": self.num_users, "lineage": log.lineage(self.num_users), "width": self.width}
        files.write_json(folder / ABOUT_FILE, about)

    @classmethod
    def read(cls, folder: Path, log: EventLog) -> Self:
        """Reads the vectors for the log that they were computed from, or a later version, whose new users have none.

        Raises DataError if the files are missing, damaged, or of another log.
        """
        with artifacts.open_artifact(folder, ABOUT_FILE, "text vectors", REMEDY) as about:
            tensors = artifacts.load_tensors(folder / VECTORS_FILE)
            num_users, lineage = int(about["users"]), about["lineage"]
            texts = cls(log.num_users, tensors["user"], tensors["second"], tensors["row"], tensors["vectors"])
        log.check_lineage(num_users, lineage, f"the table of text vectors in {folder}", REMEDY)
        return texts


def _take(values: Tensor, post: Tensor) -> Tensor:
    """int64[...]: the value of each post, int64[...]. values: int64[P]; if P is 0, the result is 0."""
    return values[post] if len(values) else post.new_zeros(post.shape)


def first_known(log: EventLog, texts: TextVectors) -> np.ndarray:
    """int64[N]: UTC second of each user's first event or post; the largest int64 without either."""
    first = log.first_seen.copy()
    if len(texts.user):
        first_post = texts._indptr[:-1][texts._indptr.diff() > 0]
        author = texts.user[first_post].numpy()
        first[author] = np.minimum(first[author], texts.timestamp[first_post].numpy())
    return first
