"""Text vectors of users at any cutoff: for each post, when it was written, and the vector of it and all posts before.

Stage `embed_text` makes them. Only posts before the cutoff are visible, in training, evaluation and serving alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from befriend import files
from befriend.data.event_log import EventLog
from befriend.errors import DataError

VECTORS_FILE, ABOUT_FILE = "text_vectors.safetensors", "text_vectors.json"
STATISTICS = 3  # columns: whether the user wrote anything; age of the last post; number of posts


@dataclass(frozen=True)
class TextVectors:
    """P posts of N users, by user, then time; S vectors of width E. P and S may be 0."""

    num_users: int
    user: Tensor
    """int64[P], ascending"""
    second: Tensor
    """int64[P], UTC seconds, ascending within a user"""
    row: Tensor
    """int64[P], the row of `vectors` that the user has from this post on"""
    vectors: Tensor
    """float32[S, E], of length 1"""

    @classmethod
    def none(cls, num_users: int) -> Self:
        """For users who wrote nothing."""
        empty = torch.zeros(0, dtype=torch.long)
        return cls(num_users, empty, empty, empty, torch.zeros(0, 0))

    @property
    def width(self) -> int:
        """E, 0 where nobody wrote anything."""
        return self.vectors.shape[1]

    @property
    def last(self) -> int:
        """UTC second of the last post, -1 without any."""
        return int(self.second.max()) if len(self.second) else -1

    @cached_property
    def _begin(self) -> int:
        """UTC second of the first post, 0 without any."""
        return int(self.second.min()) if len(self.second) else 0

    @cached_property
    def _span(self) -> int:
        """Seconds that `_keys` reserves for each user: first post to last, and one for later cutoffs."""
        return int(self.second.max()) - self._begin + 2 if len(self.second) else 1

    @cached_property
    def _keys(self) -> Tensor:
        """int64[P], ascending: user and second in one number."""
        return self.user * self._span + (self.second - self._begin)

    @cached_property
    def _indptr(self) -> Tensor:
        """int64[N + 1]: the posts of user x are _indptr[x] to _indptr[x + 1]."""
        counts = torch.bincount(self.user, minlength=self.num_users)
        return torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    def last_posts(self, users: Tensor, cutoff: Tensor) -> Tensor:
        """int64[...]: each user's last post before the UTC second `cutoff`, -1 without one.

        users, cutoff: int64[...], broadcast against each other; users outside 0 to N - 1 have none.
        """
        users, cutoff = torch.broadcast_tensors(users, cutoff)
        valid_users = users.clamp(0, max(self.num_users - 1, 0))
        offset = (cutoff - self._begin).clamp(0, self._span - 1)
        post = torch.searchsorted(self._keys, valid_users * self._span + offset) - 1
        return torch.where((post >= self._indptr[valid_users]) & (users == valid_users), post, -1)

    def has_text(self, users: Tensor, cutoff: Tensor) -> Tensor:
        """bool[...]: which users wrote anything before `cutoff`."""
        return self.last_posts(users, cutoff) >= 0

    def statistics_and_rows(self, users: Tensor, cutoff: Tensor) -> tuple[Tensor, Tensor]:
        """Statistics of what users wrote before `cutoff`, and the rows of their text vectors.

        float32[..., STATISTICS]: 1, log(1 + seconds since the last post), log(1 + posts), all 0 for a user without a
        post; int64[...]: a row of `vectors`, -1 without a post.
        """
        post = self.last_posts(users, cutoff)
        has_post, safe_post = post >= 0, post.clamp(min=0)
        age = (cutoff - _take(self.second, safe_post)).clamp(min=0).float().log1p()
        count = (safe_post - self._indptr[users.clamp(0, self.num_users - 1)] + 1).clamp(min=0).float().log1p()
        statistics = torch.stack([torch.ones_like(age), age, count], -1) * has_post[..., None]
        return statistics, self._row(post)

    def _row(self, post: Tensor) -> Tensor:
        """int64[...]: the row of each post's vector, -1 for post -1."""
        return torch.where(post >= 0, _take(self.row, post.clamp(min=0)), -1)

    def vectors_of(self, row: Tensor) -> Tensor:
        """float32[..., E]: the vectors of rows, int64[...]; 0 for row -1."""
        return self.vectors[row.clamp(min=0)] * (row >= 0)[..., None]

    def latest_vectors(self, users: Tensor, cutoff: Tensor) -> Tensor:
        """float32[..., E]: the vector of each user at the cutoff, 0 without one."""
        return self.vectors_of(self._row(self.last_posts(users, cutoff)))

    def without_users(self, erased: Tensor) -> Self:
        """Without the posts of some users. erased: bool[N]."""
        remaining = ~erased[self.user]
        return replace(self, user=self.user[remaining], second=self.second[remaining], row=self.row[remaining])

    def save(self, folder: Path, log: EventLog) -> None:
        """Writes the vectors into a folder that is being written."""
        from safetensors.torch import save_file

        save_file({name: getattr(self, name) for name in ("user", "second", "row", "vectors")}, folder / VECTORS_FILE)
        about = {"users": self.num_users, "lineage": log.lineage(self.num_users), "width": self.width}
        files.write_json(folder / ABOUT_FILE, about)

    @classmethod
    def read(cls, folder: Path, log: EventLog) -> Self:
        """Reads the vectors for a log: the log they were made for, or a later version of it, whose new users have none.

        DataError if they are missing, damaged, or of another log.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        command = "Run `dvc repro embed_text`"
        if not (folder / ABOUT_FILE).is_file():
            raise DataError(f"there are no text vectors in {folder}. {command} first.")
        try:
            about: dict[str, Any] = files.read_json(folder / ABOUT_FILE)
            tensors = load_file(folder / VECTORS_FILE)
            num_users, lineage = int(about["users"]), about["lineage"]
            texts = cls(log.num_users, tensors["user"], tensors["second"], tensors["row"], tensors["vectors"])
        except (KeyError, TypeError, ValueError, OSError, SafetensorError) as error:
            raise DataError(f"the text vectors in {folder} cannot be read ({error}). {command}.") from None
        log_lineage = log.lineage(num_users) if log.num_users >= num_users else "shorter"
        if log_lineage != lineage:
            raise DataError(
                f"the text vectors in {folder} belong to another log: lineage {lineage[:12]} of {num_users:,} users, "
                f"this log has {log.num_users:,} users and lineage {log.lineage()[:12]}. {command}."
            )
        return texts


def _take(values: Tensor, post: Tensor) -> Tensor:
    """int64[...]: the value of each post. values: int64[P]; all 0 if P is 0, as when all who wrote were erased."""
    return values[post] if len(values) else post.new_zeros(post.shape)


def first_known(log: EventLog, texts: TextVectors) -> np.ndarray:
    """int64[N]: UTC second of each user's first event or text; the largest int64 without any."""
    first = log.first_seen.copy()
    if len(texts.user):
        first_post = texts._indptr[:-1][texts._indptr.diff() > 0]
        writer = texts.user[first_post].numpy()
        first[writer] = np.minimum(first[writer], texts.second[first_post].numpy())
    return first
