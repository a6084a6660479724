"""What the training loop asks of anything that is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor, nn


class Batch(Protocol):
    def to(self, device: torch.device, /) -> Self: ...


B = TypeVar("B", bound=Batch)


@dataclass(frozen=True)
class Losses:
    """What one batch says."""

    loss: Tensor
    """float[], the mean over the batch's positions"""
    positions: int
    """how many positions carried a loss: the batch's weight in the epoch's means"""
    figures: dict[str, Tensor]
    """name -> float[], detached; the same names in every batch, "loss" and "positions" not among them"""


class Trainee(Protocol[B]):
    """A model with its examples, loss and validation.

    The loss may draw from torch's own generator, which the loop seeds before each step. Batches are built ahead, in
    another thread, and draw from generators of their own, seeded by the epoch and the batch: no generator may carry a
    state from one step to the next.
    """

    @property
    def model(self) -> nn.Module:
        """Holds everything that is learned. The loop moves it to the device, and switches train and eval mode."""

    @property
    def metric(self) -> str:
        """The name among validate()'s figures that early stopping watches; larger is better."""

    def scale(self, name: str) -> float:
        """How many times the learning rate a parameter of the model learns with."""

    def batches(self, epoch: int) -> Sequence[B]:
        """The batches of an epoch, counted from 0, each built when it is asked for; maybe not as many in every epoch.

        Equal epochs give equal batches: a resumed run goes straight to the step where it stopped.
        """

    def loss(self, batch: B) -> Losses:
        """The loss of a batch, which is on the model's device already."""

    def validate(self) -> dict[str, float]:
        """Figures of the model as it is, in eval mode and without gradients; moves its own inputs."""
