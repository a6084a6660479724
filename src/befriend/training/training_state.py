"""Everything that a killed training needs to continue: its progress, weights, best weights and optimizer state."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
from torch import Tensor, nn

from befriend.training import checkpoint


@dataclass
class TrainingPosition:
    """How far a training is, and its results so far."""

    processes: int
    epoch: int = 0
    """completed epochs"""
    step: int = 0
    """completed steps of the current epoch"""
    steps: int = 0
    """completed steps of all epochs"""
    best_epoch: int = 0
    """the best epoch so far, from 1; 0 before the first"""
    history: list[dict[str, float]] = field(default_factory=list)
    """one row per epoch"""
    losses: list[dict[str, float]] = field(default_factory=list)
    """the loss curve, several rows per epoch: step (of all, from 1) and loss, the mean since the previous row"""
    noted: dict[str, float] = field(default_factory=dict)
    """sums of the current epoch, of all processes, when the last row of `losses` was written"""
    sums: list[dict[str, float]] = field(default_factory=list)
    """sums of the current epoch, one entry per process, see RunningMeans"""


class TrainingState:
    """Progress, model, best weights and optimizer of a training, and how they are saved and restored."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, processes: int) -> None:
        self.model, self.optimizer = model, optimizer
        self.progress = TrainingPosition(processes)
        self.best: dict[str, Tensor] = {}

    def keep_as_best(self) -> None:
        """Stores the current weights as those of the best epoch."""
        self.progress.best_epoch = self.progress.epoch
        self.best = {name: tensor.detach().to("cpu", copy=True) for name, tensor in _weights(self.model).items()}

    def return_to_best(self) -> None:
        """Copies the best weights into the model."""
        _copy(self.best, self.model)

    def save(self, file: Path) -> None:
        tensors = {f"weights/{name}": tensor for name, tensor in _weights(self.model).items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        for number, adam_state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"moments/{number}/{name}": tensor for name, tensor in adam_state.items()}
        checkpoint.save(file, checkpoint.Checkpoint(tensors, asdict(self.progress)))

    def usable(self, file: Path) -> checkpoint.Checkpoint | None:
        """The checkpoint at `file` if this training can continue from it; if it cannot, a line on stderr says why."""
        saved = checkpoint.load(file)
        reason = self._mismatch(saved) if saved else None
        if reason:
            checkpoint.warn(file, reason)
        return None if reason else saved

    def resume(self, saved: checkpoint.Checkpoint) -> None:
        """Restores everything from a usable checkpoint."""
        self.progress = TrainingPosition(**saved.state)
        _copy(_below("weights/", saved.tensors), self.model)
        self.best = _below("best/", saved.tensors)
        adam_states: dict[int, dict[str, Tensor]] = {}
        for label, tensor in _below("moments/", saved.tensors).items():
            number, _, name = label.partition("/")
            adam_states.setdefault(int(number), {})[name] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": adam_states, "param_groups": groups})

    def _mismatch(self, saved: checkpoint.Checkpoint) -> str | None:
        """Why this training cannot continue from a checkpoint; None if it can."""
        if saved.state.keys() != {f.name for f in fields(TrainingPosition)}:
            return "another version of befriend wrote it"
        if saved.state["processes"] != self.progress.processes:
            return f"{saved.state['processes']} processes wrote it, now there are {self.progress.processes}"
        weights = _below("weights/", saved.tensors)
        if {name: t.shape for name, t in weights.items()} != {
            name: t.shape for name, t in _weights(self.model).items()
        }:
            return "it is of another model"
        return None


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Name -> parameter or buffer of the model, each only once even if two names share it."""
    once: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        once.setdefault(id(tensor), (name, tensor))
    return dict(once.values())


def _copy(weights: dict[str, Tensor], model: nn.Module) -> None:
    with torch.no_grad():
        for name, tensor in _weights(model).items():
            tensor.copy_(weights[name])


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
