"""The interface between the training loop and what it trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor, nn


class MovableBatch(Protocol):
    """A batch that can be moved to a device."""

    def to(self, device: torch.device, /) -> Self: ...


B = TypeVar("B", bound=MovableBatch)


@dataclass(frozen=True)
class BatchLoss:
    """The loss of one batch."""

    loss: Tensor
    """float[], the mean over the batch's positions"""
    positions: int
    """number of positions with a loss: the weight of the batch in the means of the epoch"""
    metrics: dict[str, Tensor]
    """name -> float[], detached, of metrics other than "loss" and "positions", the same names in every batch"""


class Objective(Protocol[B]):
    """A model with its examples, loss and validation.

    The loss may draw from torch's default generator, which the loop seeds before each step. Batches are built ahead, in
    another thread, and must draw from generators of their own, seeded by epoch and batch: no generator may carry a
    state from one step to the next.
    """

    @property
    def model(self) -> nn.Module:
        """Holds all learned parameters. The loop moves it to the device, and switches between train and eval mode."""

    @property
    def metric(self) -> str:
        """The name of the metric of validate() that early stopping watches; larger is better."""

    def lr_multiplier(self, name: str) -> float:
        """Factor on the learning rate of a parameter of the model."""

    def batches(self, epoch: int) -> Sequence[B]:
        """The batches of an epoch, counted from 0, each built when it is read. Epochs may differ in their number.

        The same epoch always gives the same batches: a resumed run continues at the step where it stopped.
        """

    def loss(self, batch: B) -> BatchLoss:
        """The loss of a batch that is on the model's device."""

    def validate(self) -> dict[str, float]:
        """Metrics of the current model, called in eval mode and without gradients; moves its inputs itself."""
