"""Dataclasses of tensors that move between devices together, and the distinct rows that a batch uses."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Self

import torch
from torch import Tensor


def used_rows(rows: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The distinct rows, int64[U], ascending; and the index of each row among them, int64[...].

    rows: int64[...], of a table with `size` rows. The same as `unique` with its inverse, without sorting.
    """
    used = torch.zeros(size, dtype=torch.bool, device=rows.device)
    used[rows] = True
    return used.nonzero().squeeze(1), (used.cumsum(0) - 1)[rows]


class TensorBatch:
    """Dataclasses of tensors that move between devices."""

    def to(self, device: torch.device | str) -> Self:
        moved = {}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            moved[field.name] = value.to(device) if hasattr(value, "to") else value
        return replace(self, **moved)  # type: ignore[type-var]

    def concat(self, other: Self) -> Self:
        """Joins the tensors of both along the second dimension; a field that is None here stays None."""
        joined: dict[str, Tensor | TensorBatch | None] = {}
        for field in fields(self):  # type: ignore[arg-type]
            value, other_value = getattr(self, field.name), getattr(other, field.name)
            if isinstance(value, TensorBatch):
                joined[field.name] = value.concat(other_value)
            else:
                joined[field.name] = None if value is None else torch.cat([value, other_value], 1)
        return replace(self, **joined)  # type: ignore[type-var]
