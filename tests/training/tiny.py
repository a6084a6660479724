"""A small model to train, with dropout, an embedding, a norm and a buffer. As a program, it trains the model.

    python -m tests.training.tiny FOLDER SECONDS LOSS

Trains in FOLDER, sleeps SECONDS in every step, and dies at the loss of index LOSS (-1: never).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import save
from torch import Tensor, nn

from befriend.training.loop import BatchLoss, FitResult, fit
from befriend.training.training_settings import TrainingSettings

SETTINGS = TrainingSettings(epochs=3, learning_rate=0.05, checkpoint_every=2, threads=1, device="cpu", patience=None)
BATCHES, ROWS = 5, 8


class Killed(BaseException):
    """Simulates a kill: nothing catches it."""


@dataclass(frozen=True)
class Rows:
    user: Tensor
    """int[B]"""
    inputs: Tensor
    """float[B, 4]"""
    target: Tensor
    """float[B]"""

    def to(self, device: torch.device) -> Self:
        return type(self)(*(tensor.to(device) for tensor in (self.user, self.inputs, self.target)))


def rows(seed: int) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(ROWS, 4, generator=generator)
    return Rows(torch.randint(0, 6, (ROWS,), generator=generator), inputs, inputs @ torch.tensor([1.0, -2.0, 0.5, 0.0]))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.users = nn.Embedding(6, 4)
        self.hidden = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.LayerNorm(8))
        self.out = nn.Linear(8, 1)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, batch: Rows) -> Tensor:
        return self.out(self.hidden(batch.inputs + self.users(batch.user))).squeeze(-1) * self.scale


class EpochRows(Sequence[Rows]):
    def __init__(self, epoch: int, count: int) -> None:
        self.epoch, self.count = epoch, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Rows:  # type: ignore[override]
        return rows(100 * self.epoch + index)


class Tiny:
    """Learns a weighted sum of inputs. Dies at a given loss or validation; records the sum of the targets of each
    batch."""

    uneven: tuple[int, ...] = ()
    """number of additional batches in each epoch; empty: none in any"""

    metric = "luck"  # random; the first epoch is the best, so the best weights are not the last ones

    def __init__(self, dies_at_loss: int = -1, dies_at_validation: int = -1, rest: float = 0, batches: int = BATCHES):
        self.model = Model()
        self.dies_at_loss, self.dies_at_validation = dies_at_loss, dies_at_validation
        self.rest, self.count = rest, batches
        self.losses = self.validations = 0
        self.target_sums: list[float] = []

    def lr_multiplier(self, name: str) -> float:
        return 1.0

    def batches(self, epoch: int) -> Sequence[Rows]:
        return EpochRows(epoch, self.count + (self.uneven[epoch] if self.uneven else 0))

    def loss(self, batch: Rows) -> BatchLoss:
        if self.losses == self.dies_at_loss:
            raise Killed
        self.losses += 1
        time.sleep(self.rest)
        self.target_sums.append(float(batch.target.sum()))
        error = self.model(batch) - batch.target
        return BatchLoss((error**2).mean(), ROWS, {"absolute error": error.detach().abs().mean()})

    def validate(self) -> dict[str, float]:
        if self.validations == self.dies_at_validation:
            raise Killed
        self.validations += 1
        batch = rows(-1)
        return {"gain": -float(((self.model(batch) - batch.target) ** 2).mean()), "luck": float(torch.rand(()))}


def train(objective: Tiny, folder: Path, settings: TrainingSettings = SETTINGS) -> FitResult:
    return fit(objective, settings, folder / "checkpoints", folder / "curves")


def weights(objective: Tiny) -> bytes:
    return save(objective.model.state_dict())


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    tiny = Tiny(rest=float(sys.argv[2]), dies_at_loss=int(sys.argv[3]))
    fitted = train(tiny, folder)
    process = "main" if fitted.is_main_process else "other"
    (folder / f"{process}.safetensors").write_bytes(save(dict(tiny.model.named_parameters())))
    (folder / f"{process}.txt").write_text("\n".join(map(repr, tiny.target_sums)))
