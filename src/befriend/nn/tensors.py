"""A base class of dataclasses of tensors, and the distinct rows of a table that a batch uses."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Self

import torch
from torch import Tensor


def used_rows(rows: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The distinct rows, int64[U], ascending; and the index of each row among them, int64[...].

    rows: int64[...], of a table with `size` rows. Equal to `torch.unique(rows, return_inverse=True)`, without sorting.
    """
    is_used = torch.zeros(size, dtype=torch.bool, device=rows.device)
    is_used[rows] = True
    return is_used.nonzero().squeeze(1), (is_used.cumsum(0) - 1)[rows]


class TensorBatch:
    """Base class of dataclasses whose fields are tensors, other such dataclasses, or None."""

    def to(self, device: torch.device | str) -> Self:
        """All tensors on a device."""
        moved = {}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            moved[field.name] = value.to(device) if hasattr(value, "to") else value
        return replace(self, **moved)  # type: ignore[type-var]

    def concat(self, other: Self) -> Self:
        """The tensors of both joined along the second dimension. A field that is None here stays None."""
        joined: dict[str, Tensor | TensorBatch | None] = {}
        for field in fields(self):  # type: ignore[arg-type]
            value, other_value = getattr(self, field.name), getattr(other, field.name)
            if isinstance(value, TensorBatch):
                joined[field.name] = value.concat(other_value)
            else:
                joined[field.name] = None if value is None else torch.cat([value, other_value], 1)
        return replace(self, **joined)  # type: ignore[type-var]
