"""The table of STUs: the tokens of each user, unique to the user.

An STU (social tokenized user id) is the semantic ID (Rajput et al. 2023, TIGER) of a user: L tokens of a residual
quantizer. The row of a user is its internal id. Users are added to a table but never removed, so a later version of a
table begins with the rows of the earlier one. The digest of these rows identifies the earlier version.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
import torch
from torch import Tensor

from befriend.errors import DataError
from befriend.files import atomic

TOKEN_COLUMN = "token_{}"


@dataclass(frozen=True)
class StuTable:
    """The STUs of the first N users of a log. Raises DataError if they are not distinct or not in the vocabulary."""

    stus: Tensor
    """int64[N, L]"""
    vocabulary: tuple[int, ...]
    """L sizes: tokens of level l lie between 0 and vocabulary[l] - 1"""

    def __post_init__(self) -> None:
        if self.stus.shape[1] != len(self.vocabulary):
            raise DataError(f"STUs have {self.stus.shape[1]} tokens, the vocabulary {len(self.vocabulary)} levels.")
        if len(self.stus) and ((self.stus < 0) | (self.stus >= torch.tensor(self.vocabulary))).any():
            raise DataError(f"a token is outside of its vocabulary, {' x '.join(map(str, self.vocabulary))}.")
        distinct, group = torch.unique(self.stus, dim=0, return_inverse=True)
        if len(distinct) < len(self.stus):
            duplicates = (group == group.bincount().argmax()).nonzero().squeeze(1)[:2].tolist()
            raise DataError(
                f"users {duplicates[0]} and {duplicates[1]} have the same STU, {self.stus[duplicates[0]].tolist()}."
            )

    def __len__(self) -> int:
        return len(self.stus)

    def digest(self, num_users: int | None = None) -> str:
        """SHA-256 of the first `num_users` STUs (default: all) and the vocabulary."""
        rows = self.stus[: len(self) if num_users is None else num_users].numpy().astype("<i8")
        return hashlib.sha256(f"{self.vocabulary}".encode() + rows.tobytes()).hexdigest()

    def append(self, stus: Tensor) -> Self:
        """The table with n more users at the end. stus: int64[n, L]."""
        return type(self)(torch.cat([self.stus, stus]), self.vocabulary)

    def users_with_same_prefix(self, user: int, num_tokens: int) -> Tensor:
        """int64[n]: the other users whose first `num_tokens` tokens equal those of a user."""
        has_prefix = (self.stus[:, :num_tokens] == self.stus[user, :num_tokens]).all(1)
        has_prefix[user] = False
        return has_prefix.nonzero().squeeze(1)

    def write(self, path: Path, user_ids: pl.Series) -> None:
        """Writes a Parquet file. user_ids: external ids of the users, which `read` ignores."""
        columns = {
            TOKEN_COLUMN.format(level): pl.Series(column, dtype=pl.Int16)
            for level, column in enumerate(self.stus.T.numpy())
        }
        with atomic(path) as new:
            pl.DataFrame({"user_id": user_ids[: len(self)], **columns}).write_parquet(new)

    @classmethod
    def read(cls, path: Path, vocabulary: tuple[int, ...]) -> Self:
        """The table that `write` wrote."""
        rows = pl.read_parquet(path, columns=[TOKEN_COLUMN.format(level) for level in range(len(vocabulary))])
        return cls(torch.from_numpy(rows.to_numpy().astype(np.int64)), vocabulary)
