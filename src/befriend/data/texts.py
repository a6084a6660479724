"""What users wrote, as vectors, at any moment: for each post when it was written, and what it and all before it say.

Made by stage `embed_text`. At a moment only posts before it are known, so that training, evaluation and service look
at the same thing; nothing at or after a moment is ever looked at.
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
from befriend.data.log import EventLog
from befriend.errors import DataError

MOMENTS_FILE, ABOUT_FILE = "moments.safetensors", "moments.json"
STATISTICS = 3  # whether anything was written; how long ago; how much


@dataclass(frozen=True)
class TextVectors:
    """P posts of N users, by user, then time; S vectors of width E, both maybe 0."""

    num_users: int
    user: Tensor
    """int64[P], ascending"""
    second: Tensor
    """int64[P], UTC seconds, ascending within a user"""
    row: Tensor
    """int64[P], which vector a user has from this post on"""
    vectors: Tensor
    """float32[S, E], of length 1"""

    @classmethod
    def none(cls, num_users: int) -> Self:
        """Of users who wrote nothing."""
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
        return int(self.second.min()) if len(self.second) else 0

    @cached_property
    def _span(self) -> int:
        return int(self.second.max()) - self._begin + 2 if len(self.second) else 1

    @cached_property
    def _keys(self) -> Tensor:
        """int64[P], ascending: user and second in one."""
        return self.user * self._span + (self.second - self._begin)

    @cached_property
    def _first(self) -> Tensor:
        """int64[N + 1], the place of each user's first post."""
        counts = torch.bincount(self.user, minlength=self.num_users)
        return torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    def places(self, users: Tensor, horizon: Tensor) -> Tensor:
        """int64[...]: each user's last post before the UTC second `horizon`, -1 without one.

        users, horizon: int64[...], broadcast against each other; users that there are not have none.
        """
        users, horizon = torch.broadcast_tensors(users, horizon)
        known = users.clamp(0, max(self.num_users - 1, 0))
        later = (horizon - self._begin).clamp(0, self._span - 1)
        place = torch.searchsorted(self._keys, known * self._span + later) - 1
        return torch.where((place >= self._first[known]) & (users == known), place, -1)

    def known(self, users: Tensor, horizon: Tensor) -> Tensor:
        """bool[...]: who wrote anything before `horizon`."""
        return self.places(users, horizon) >= 0

    def told(self, users: Tensor, horizon: Tensor) -> tuple[Tensor, Tensor]:
        """float32[..., STATISTICS]: whether, how long ago and how much somebody wrote, 0 for nothing; and what.

        That is a row of `vectors`, int64[...], -1 for nothing.
        """
        place = self.places(users, horizon)
        some, at = place >= 0, place.clamp(min=0)
        age = (horizon - _taken(self.second, at)).clamp(min=0).float().log1p()
        count = (at - self._first[users.clamp(0, self.num_users - 1)] + 1).clamp(min=0).float().log1p()
        told = torch.stack([torch.ones_like(age), age, count], -1) * some[..., None]
        return told, self._row(place)

    def _row(self, place: Tensor) -> Tensor:
        """int64[...]: the row of a post's vector, -1 for place -1."""
        return torch.where(place >= 0, _taken(self.row, place.clamp(min=0)), -1)

    def of(self, row: Tensor) -> Tensor:
        """float32[..., E]: vectors by their rows, int64[...], 0 for -1."""
        return self.vectors[row.clamp(min=0)] * (row >= 0)[..., None]

    def latest(self, users: Tensor, horizon: Tensor) -> Tensor:
        """float32[..., E]: the vector of each user at a moment, 0 without one."""
        return self.of(self._row(self.places(users, horizon)))

    def without(self, gone: Tensor) -> Self:
        """Without what some users wrote. gone: bool[N]."""
        kept = ~gone[self.user]
        return replace(self, user=self.user[kept], second=self.second[kept], row=self.row[kept])

    def save(self, folder: Path, log: EventLog) -> None:
        """Into a folder that is being written."""
        from safetensors.torch import save_file

        save_file({name: getattr(self, name) for name in ("user", "second", "row", "vectors")}, folder / MOMENTS_FILE)
        about = {"users": self.num_users, "lineage": log.lineage(self.num_users), "width": self.width}
        files.write_json(folder / ABOUT_FILE, about)

    @classmethod
    def read(cls, folder: Path, log: EventLog) -> Self:
        """Of a log: the one they were made for, or a later version of it, of whose new users nothing is known."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        again = "Run `dvc repro embed_text`"
        if not (folder / ABOUT_FILE).is_file():
            raise DataError(f"there are no vectors of texts in {folder}. {again} first.")
        try:
            about: dict[str, Any] = files.read_json(folder / ABOUT_FILE)
            tensors = load_file(folder / MOMENTS_FILE)
            users, lineage = int(about["users"]), about["lineage"]
            found = cls(log.num_users, tensors["user"], tensors["second"], tensors["row"], tensors["vectors"])
        except (KeyError, TypeError, ValueError, OSError, SafetensorError) as error:
            raise DataError(f"the vectors of texts in {folder} cannot be read ({error}). {again}.") from None
        now = log.lineage(users) if log.num_users >= users else "shorter"
        if now != lineage:
            raise DataError(
                f"the vectors of texts in {folder} belong to another log: lineage {lineage[:12]} of {users:,} users, "
                f"this log has {log.num_users:,} users and lineage {log.lineage()[:12]}. {again}."
            )
        return found


def _taken(values: Tensor, place: Tensor) -> Tensor:
    """int64[...]: of values, int64[P], those at some places; 0 without any, where all who wrote are forgotten."""
    return values[place] if len(values) else place.new_zeros(place.shape)


def first_moments(log: EventLog, texts: TextVectors) -> np.ndarray:
    """int64[N]: when each user was first there, by event or by text: the UTC second by which something is known."""
    first = log.first_seen.copy()
    if len(texts.user):
        begun = texts._first[:-1][texts._first.diff() > 0]
        who = texts.user[begun].numpy()
        first[who] = np.minimum(first[who], texts.second[begun].numpy())
    return first
