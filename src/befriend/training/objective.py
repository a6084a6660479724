"""The interface between the training loop and a model: batches, the loss of a batch, and the protocol `Objective`."""

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
    """float[], a mean over the positions (training examples) of the batch"""
    num_positions: int
    """number of positions with a loss: the weight of the batch in the means of the epoch"""
    metrics: dict[str, Tensor]
    """name -> float[], detached: other metrics, under the same names in every batch; "loss" and "positions" are
    reserved"""


class Objective(Protocol[B]):
    """What the training loop needs of a model: its batches, its loss and its validation.

    Implement it so that a resumed run repeats the same random draws. The loss may draw from torch's default generator:
    the loop seeds it before each step. A batch is built ahead, in another thread, so it must draw from a generator of
    its own, seeded by epoch and batch. No generator may keep a state from one step to the next.
    """

    @property
    def model(self) -> nn.Module:
        """The module with all learned parameters. The loop moves it to the device and sets train and eval mode."""

    @property
    def metric(self) -> str:
        """The metric of `validate` by which the best epoch is chosen and training stops early; larger is better."""

    def lr_multiplier(self, name: str) -> float:
        """Factor on the learning rate of the parameter `name` of the model."""

    def batches(self, epoch: int) -> Sequence[B]:
        """The batches of an epoch, each built when you index it. epoch: from 0. Epochs may have different lengths.

        The same epoch always has to give the same batches: a resumed run continues in the middle of an epoch.
        """

    def loss(self, batch: B) -> BatchLoss:
        """The loss of a batch. The loop has moved the batch to the model's device."""

    def validate(self) -> dict[str, float]:
        """Metrics of the current model: name -> value. Called in eval mode, without gradients.

        Move the inputs to the model's device yourself.
        """
