"""The state of a training that a checkpoint stores: progress, weights, best weights and the state of the optimizer."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
from torch import Tensor, nn

from befriend.training import checkpoint


@dataclass
class TrainingProgress:
    """Counters of a training, and its metrics so far: the JSON state of a checkpoint."""

    num_processes: int
    """number of processes that train together"""
    epoch: int = 0
    """number of completed epochs"""
    step: int = 0
    """number of completed steps of the current epoch"""
    total_steps: int = 0
    """number of completed steps of all epochs"""
    best_epoch: int = 0
    """the best epoch so far, from 1; 0 before the first is completed"""
    history: list[dict[str, float]] = field(default_factory=list)
    """metrics, one row per epoch, as in `FitResult.history`"""
    losses: list[dict[str, float]] = field(default_factory=list)
    """the loss curve, several rows per epoch: "step", counted from 1 over all epochs, and "loss", the mean over the
    positions since the previous row"""
    sums_at_last_row: dict[str, float] = field(default_factory=dict)
    """the sums over the current epoch, of all processes together, at the last row of `losses`"""
    sums: list[dict[str, float]] = field(default_factory=list)
    """the sums over the current epoch, one dict per process, see `RunningMeans`"""


class TrainingState:
    """Progress, model, best weights and optimizer of a training. Writes and reads its checkpoints."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, num_processes: int) -> None:
        self.model, self.optimizer = model, optimizer
        self.progress = TrainingProgress(num_processes)
        self.best_weights: dict[str, Tensor] = {}
        """name -> tensor on the CPU, the weights of the best epoch so far"""

    def store_best_weights(self) -> None:
        """Copies the current weights to `best_weights`: the epoch just completed is the best so far."""
        self.progress.best_epoch = self.progress.epoch
        self.best_weights = {
            name: tensor.detach().to("cpu", copy=True) for name, tensor in _weights(self.model).items()
        }

    def restore_best_weights(self) -> None:
        """Copies the best weights into the model."""
        _copy_weights(self.best_weights, self.model)

    def save(self, file: Path) -> None:
        """Writes the checkpoint."""
        tensors = {f"weights/{name}": tensor for name, tensor in _weights(self.model).items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self.best_weights.items()}
        for parameter_index, optimizer_state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"moments/{parameter_index}/{name}": tensor for name, tensor in optimizer_state.items()}
        checkpoint.save(file, checkpoint.Checkpoint(tensors, asdict(self.progress)))

    def load_usable(self, file: Path) -> checkpoint.Checkpoint | None:
        """The checkpoint at `file`, if this training can resume from it; else None.

        If there is a checkpoint that it cannot resume from, a line on stderr says why.
        """
        saved = checkpoint.load(file)
        reason = self._mismatch(saved) if saved else None
        if reason:
            checkpoint.warn_unusable(file, reason)
        return None if reason else saved

    def resume(self, saved: checkpoint.Checkpoint) -> None:
        """Restores progress, weights, best weights and optimizer from a checkpoint that `load_usable` returned."""
        self.progress = TrainingProgress(**saved.state)
        _copy_weights(_with_prefix("weights/", saved.tensors), self.model)
        self.best_weights = _with_prefix("best/", saved.tensors)
        optimizer_states: dict[int, dict[str, Tensor]] = {}
        for label, tensor in _with_prefix("moments/", saved.tensors).items():
            parameter_index, _, name = label.partition("/")
            optimizer_states.setdefault(int(parameter_index), {})[name] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": optimizer_states, "param_groups": groups})

    def _mismatch(self, saved: checkpoint.Checkpoint) -> str | None:
        """The reason why this training cannot resume from a checkpoint; None if it can."""
        if saved.state.keys() != {f.name for f in fields(TrainingProgress)}:
            return "another version of befriend wrote it"
        if saved.state["num_processes"] != self.progress.num_processes:
            return f"{saved.state['num_processes']} processes wrote it, and there are {self.progress.num_processes} now"
        weights = _with_prefix("weights/", saved.tensors)
        if {name: t.shape for name, t in weights.items()} != {
            name: t.shape for name, t in _weights(self.model).items()
        }:
            return "it is of another model"
        return None


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Name -> parameter or persistent buffer of the model. A tensor with several names appears once, under the
    first."""
    named_tensors: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        named_tensors.setdefault(id(tensor), (name, tensor))
    return dict(named_tensors.values())


def _copy_weights(weights: dict[str, Tensor], model: nn.Module) -> None:
    """Copies tensors, by name, into the parameters and buffers of the model."""
    with torch.no_grad():
        for name, tensor in _weights(model).items():
            tensor.copy_(weights[name])


def _with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with the prefix. The keys are the names without the prefix."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
