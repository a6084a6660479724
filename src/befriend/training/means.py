"""Means of an epoch's losses and metrics, weighted by positions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from befriend.training.objective import BatchLoss

if TYPE_CHECKING:
    from accelerate import Accelerator  # type: ignore[import-untyped]

POSITIONS = "positions"


class RunningMeans:
    """Means over positions, stored as sums in Python floats, which JSON holds exactly. Each process has its own."""

    def __init__(self, sums: dict[str, float] | None = None) -> None:
        self.sums = dict(sums or {})
        self._unread: tuple[BatchLoss, int] | None = None

    def add(self, losses: BatchLoss, positions: int) -> None:
        """Takes the losses of a step without waiting for the device to compute them. Call read() before the next."""
        self._unread = (losses, positions)

    def read(self) -> dict[str, float]:
        """Adds the unread losses to the sums, in one transfer from the device, and returns them: name -> value."""
        if self._unread is None:
            return {}
        (losses, positions), self._unread = self._unread, None
        named = {"loss": losses.loss.detach(), **losses.metrics}
        values = dict(zip(named, torch.stack([value.float() for value in named.values()]).tolist(), strict=True))
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * positions
        self.sums[POSITIONS] = self.sums.get(POSITIONS, 0.0) + positions
        return values

    def of_all(self, accelerator: Accelerator) -> list[dict[str, float]]:
        """The sums of every process, in the order of the processes."""
        if accelerator.num_processes == 1 or not self.sums:
            return [dict(self.sums)] * accelerator.num_processes
        names = sorted(self.sums)
        sums = torch.tensor([[self.sums[name] for name in names]], dtype=torch.float64, device=accelerator.device)
        return [dict(zip(names, row, strict=True)) for row in accelerator.gather(sums).tolist()]
