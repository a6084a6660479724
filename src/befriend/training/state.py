"""Everything that a killed training needs to go on: its place, weights, best weights and optimizer moments."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
from torch import Tensor, nn

from befriend.training import checkpoint


@dataclass
class Place:
    """Where a training stands."""

    processes: int
    epoch: int = 0
    """epochs done"""
    step: int = 0
    """steps of the running epoch done"""
    steps: int = 0
    """steps done in all"""
    best_epoch: int = 0
    """the best one so far, from 1"""
    history: list[dict[str, float]] = field(default_factory=list)
    """a row an epoch"""
    losses: list[dict[str, float]] = field(default_factory=list)
    """step (of all, from 1) and loss, the mean since the row before; some rows an epoch"""
    noted: dict[str, float] = field(default_factory=dict)
    """the sums of the running epoch, of all processes, when the last row of `losses` was written"""
    sums: list[dict[str, float]] = field(default_factory=list)
    """a process each: the sums of the running epoch, see Means"""


class State:
    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, processes: int) -> None:
        self.model, self.optimizer = model, optimizer
        self.place = Place(processes)
        self.best: dict[str, Tensor] = {}

    def keep_as_best(self) -> None:
        self.place.best_epoch = self.place.epoch
        self.best = {name: tensor.detach().to("cpu", copy=True) for name, tensor in _weights(self.model).items()}

    def return_to_best(self) -> None:
        _copy(self.best, self.model)

    def save(self, file: Path) -> None:
        tensors = {f"weights/{name}": tensor for name, tensor in _weights(self.model).items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        for number, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"moments/{number}/{name}": tensor for name, tensor in moments.items()}
        checkpoint.save(file, checkpoint.Checkpoint(tensors, asdict(self.place)))

    def usable(self, file: Path) -> checkpoint.Checkpoint | None:
        """The checkpoint at `file` if this training can go on from it; where it cannot, a line says why."""
        found = checkpoint.load(file)
        why = self._unfit(found) if found else None
        if why:
            checkpoint.warn(file, why)
        return None if why else found

    def resume(self, found: checkpoint.Checkpoint) -> None:
        self.place = Place(**found.state)
        _copy(_below("weights/", found.tensors), self.model)
        self.best = _below("best/", found.tensors)
        moments: dict[int, dict[str, Tensor]] = {}
        for label, tensor in _below("moments/", found.tensors).items():
            number, _, name = label.partition("/")
            moments.setdefault(int(number), {})[name] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})

    def _unfit(self, found: checkpoint.Checkpoint) -> str | None:
        if found.state.keys() != {place.name for place in fields(Place)}:
            return "another version of befriend wrote it"
        if found.state["processes"] != self.place.processes:
            return f"{found.state['processes']} processes wrote it, now there are {self.place.processes}"
        saved = _below("weights/", found.tensors)
        if {name: t.shape for name, t in saved.items()} != {name: t.shape for name, t in _weights(self.model).items()}:
            return "it is of another model"
        return None


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Name -> parameter or buffer of the model's state, each once even where two names share it."""
    once: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        once.setdefault(id(tensor), (name, tensor))
    return dict(once.values())


def _copy(saved: dict[str, Tensor], model: nn.Module) -> None:
    with torch.no_grad():
        for name, tensor in _weights(model).items():
            tensor.copy_(saved[name])


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
