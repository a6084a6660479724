"""Means of losses and metrics over the positions (training examples) of an epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from befriend.training.objective import BatchLoss

if TYPE_CHECKING:
    from accelerate import Accelerator  # type: ignore[import-untyped]

POSITIONS = "positions"  # key of the number of positions among the sums


class RunningMeans:
    """Means over positions, as sums and the number of positions. Each process has its own.

    The sums are Python floats, which JSON stores exactly.
    """

    def __init__(self, sums: dict[str, float] | None = None) -> None:
        """sums: those of the epoch so far, name -> sum; None at the beginning of an epoch."""
        self.sums = dict(sums or {})
        self._pending: tuple[BatchLoss, int] | None = None

    def add(self, losses: BatchLoss, num_positions: int) -> None:
        """Adds the losses of a step, without waiting until the device has computed them.

        Call `read` before the next `add`. num_positions: the weight of the step.
        """
        self._pending = (losses, num_positions)

    def read(self) -> dict[str, float]:
        """Waits for the losses last added, adds them to the sums, and returns them: name -> value; empty if none are
        new.

        All values come from the device in one transfer.
        """
        if self._pending is None:
            return {}
        (losses, num_positions), self._pending = self._pending, None
        named = {"loss": losses.loss.detach(), **losses.metrics}
        values = dict(zip(named, torch.stack([value.float() for value in named.values()]).tolist(), strict=True))
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * num_positions
        self.sums[POSITIONS] = self.sums.get(POSITIONS, 0.0) + num_positions
        return values

    def sums_per_process(self, accelerator: Accelerator) -> list[dict[str, float]]:
        """The sums of every process, in the order of the processes."""
        if accelerator.num_processes == 1 or not self.sums:
            return [dict(self.sums)] * accelerator.num_processes
        names = sorted(self.sums)
        sums = torch.tensor([[self.sums[name] for name in names]], dtype=torch.float64, device=accelerator.device)
        return [dict(zip(names, row, strict=True)) for row in accelerator.gather(sums).tolist()]
