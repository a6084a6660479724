"""The training loop that every model shares: devices, learning rate, checkpoints, early stopping, curves.

This module knows nothing of users or histories: it trains any `Objective`. A run that was killed continues from its
last checkpoint and ends in the same bytes as a run that was not. Several processes (`accelerate launch`, or `torchrun`
on a machine with CPUs only) share the batches of an epoch and average their gradients; the main process writes files.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic

import torch
from torch import nn

from befriend.errors import DataError
from befriend.progress import track
from befriend.training.curves import write_curves
from befriend.training.determinism import deterministic_torch, seed_step
from befriend.training.means import POSITIONS, RunningMeans
from befriend.training.objective import B, BatchLoss, Objective
from befriend.training.optimizer import adamw, learning_rate
from befriend.training.training_settings import TrainingSettings
from befriend.training.training_state import TrainingState

if TYPE_CHECKING:
    from accelerate import Accelerator  # type: ignore[import-untyped]

CHECKPOINT_FILE = "latest.safetensors"
ROWS = 20  # points of the loss curve per epoch, at most


@dataclass(frozen=True)
class FitResult:
    """Outcome of a training."""

    epochs: int
    """number of epochs trained"""
    best_epoch: int
    """the epoch whose weights the model has now, from 1"""
    value: float
    """the watched metric after the best epoch"""
    stopped_early: bool
    history: list[dict[str, float]]
    """one row per epoch: epoch (from 1), learning_rate, train/<metric>, validation/<metric>"""
    parameters: int
    positions_per_second: float
    """of all processes together, since the last resumption, without validation; 0 if nothing was left to train"""
    main: bool
    """whether this process is the one that writes files"""


def fit(objective: Objective[B], settings: TrainingSettings, checkpoints: Path, curves: Path) -> FitResult:
    """Trains. Afterwards `objective.model` holds the best weights, in eval mode, on the device it was trained on.

    checkpoints: a folder for this training alone (its inputs and settings); training continues from a checkpoint in it.
    The caller removes it once the results are safe. curves: the folder for the curves, see `training.curves`.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs

    # A part of the model may get no gradient from a batch (for example if all embeddings are dropped). The loop handles
    # precision itself: accelerate would reuse the first precision for all later trainings of a process.
    parallel = DistributedDataParallelKwargs(find_unused_parameters=True)
    # With cpu=True, accelerate joins the processes that torchrun started; otherwise each would train alone.
    cpu = settings.device == "cpu" or not torch.accelerator.is_available()
    accelerator = Accelerator(cpu=cpu, mixed_precision="no", kwargs_handlers=[parallel])
    with deterministic_torch(settings.threads, accelerator.device):
        run = _Run(objective, settings, accelerator, checkpoints / CHECKPOINT_FILE)
        run.resume()
        run.draw(curves)
        while not run.finished:
            run.train()
            run.validate()
            run.save()
            run.draw(curves)
            run.print_epoch()
        return run.result()


class _LossModule(nn.Module, Generic[B]):
    """The objective's loss as the forward of a module: gradients are averaged only for calls through a module."""

    def __init__(self, objective: Objective[B], device: torch.device, settings: TrainingSettings) -> None:
        super().__init__()
        self.model = objective.model
        self.loss = objective.loss
        self.device_type = device.type
        supported = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        self.bf16 = settings.mixed_precision == "bf16" or (settings.mixed_precision == "auto" and supported)

    def forward(self, batch: B) -> BatchLoss:
        with torch.autocast(self.device_type, torch.bfloat16, enabled=self.bf16):
            return self.loss(batch)


class _Run(Generic[B]):
    """One training: its state and its steps. Validation, checkpoints and curves follow each epoch."""

    def __init__(
        self, objective: Objective[B], settings: TrainingSettings, accelerator: Accelerator, file: Path
    ) -> None:
        self.objective, self.settings, self.accelerator, self.file = objective, settings, accelerator, file
        self.main = accelerator.is_main_process
        self.module = accelerator.prepare_model(_LossModule(objective, accelerator.device, settings))
        self.optimizer = adamw(objective.model, settings, objective.lr_multiplier)
        self.state = TrainingState(objective.model, self.optimizer, accelerator.num_processes)
        self.means = RunningMeans()
        self.positions = self.seconds = 0.0

    @property
    def finished(self) -> bool:
        progress, patience = self.state.progress, self.settings.patience
        stalled = patience is not None and progress.epoch - progress.best_epoch >= patience
        return progress.epoch >= self.settings.epochs or stalled

    def train(self) -> None:
        """Trains the remaining steps of the current epoch, and adds its row to the history."""
        progress = self.state.progress
        batches = self.objective.batches(progress.epoch)
        if not len(batches):
            raise DataError("there is nothing to train on: the training part gives no batch of examples.")
        self.module.train()
        self.positions -= self._sums().get(POSITIONS, 0.0)  # those before a resumption are not in the time below
        start = time.perf_counter()
        steps = range(progress.step, self._steps_of(batches))
        with ThreadPoolExecutor(1) as executor:  # builds the next batch while the model trains on this one
            next_batch = executor.submit(self._batch, batches, progress.step)
            for step in self._with_progress_bar(steps):
                batch = next_batch.result()
                if step + 1 < steps.stop:
                    next_batch = executor.submit(self._batch, batches, step + 1)
                self._train_step(batch, step, batches)
                if (step + 1) * ROWS // steps.stop > step * ROWS // steps.stop:
                    self._record_loss()
                if progress.steps % self.settings.checkpoint_every == 0:
                    self.save()
        self._read_losses()
        self.seconds += time.perf_counter() - start
        sums = self._sums()
        positions = sums.pop(POSITIONS)
        if not positions:
            raise DataError(f"epoch {progress.epoch + 1} had nothing to learn from: no position carried a loss.")
        self.positions += positions
        means = {f"train/{name}": value / positions for name, value in sums.items()}
        rate = self._rate(progress.step, batches)
        progress.history.append({"epoch": progress.epoch + 1, "learning_rate": rate, **means})

    def _batch_number(self, step: int) -> int:
        """The number of this process's batch in a step."""
        return step * self.accelerator.num_processes + self.accelerator.process_index

    def _batch(self, batches: Sequence[B], step: int) -> B:
        return batches[self._batch_number(step) % len(batches)]

    def _rate(self, step: int, batches: Sequence[B]) -> float:
        """The learning rate of a step of the current epoch, counted from 1.

        Computed as if all epochs had as many steps as this one: epochs differ by a few steps, and their number is not
        known before their batches are drawn. So each epoch covers its share of the schedule, and the last one ends
        where the schedule ends.
        """
        steps = self._steps_of(batches)
        return learning_rate(self.state.progress.epoch * steps + step, self.settings.epochs * steps, self.settings)

    def _train_step(self, batch: B, step: int, batches: Sequence[B]) -> None:
        progress = self.state.progress
        seed_step(self.settings.seed, progress.epoch, step, self.accelerator.process_index)
        batch = batch.to(self.accelerator.device)
        self._read_losses()  # of the previous step, which the device computed while this batch was built
        for group in self.optimizer.param_groups:
            group["lr"] = group["scale"] * self._rate(step + 1, batches)
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.module(batch)
        self.accelerator.backward(losses.loss)
        if self.settings.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.objective.model.parameters(), self.settings.gradient_clip)
        self.optimizer.step()
        progress.step, progress.steps = step + 1, progress.steps + 1
        # In the last step, processes without a batch repeat one of the first batches; the means do not count it.
        self.means.add(losses, losses.positions if self._batch_number(step) < len(batches) else 0)

    def _record_loss(self) -> None:
        """Adds a point to the loss curve."""
        self._read_losses()
        progress, sums = self.state.progress, self._sums()
        loss, positions = (sums[name] - progress.noted.get(name, 0.0) for name in ("loss", POSITIONS))
        if positions:
            progress.losses.append({"step": progress.steps, "loss": loss / positions})
        progress.noted = {name: sums[name] for name in ("loss", POSITIONS)}

    def _read_losses(self) -> None:
        """Adds the losses of the last step to the means. DataError if one is not finite."""
        for name, value in self.means.read().items():
            if not math.isfinite(value):
                clip = "null" if self.settings.gradient_clip is None else self.settings.gradient_clip
                raise DataError(
                    f"training broke down: {name} became {value} in step {self.state.progress.step} of epoch "
                    f"{self.state.progress.epoch + 1}. Lower learning_rate (now {self.settings.learning_rate}) or "
                    f"gradient_clip (now {clip}), or raise warmup (now {self.settings.warmup}). If that does not help, "
                    "look for extreme values in the inputs of the model."
                )

    def validate(self) -> None:
        """Completes the epoch: adds validation metrics to its row, and stores its weights if they are the best yet."""
        progress = self.state.progress
        self.module.eval()
        seed_step(self.settings.seed, progress.epoch, progress.step, 0)
        with torch.no_grad():
            metrics = self._of_main_process(self.objective.validate())
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise DataError(f"validation broke down: {name} is {value} after epoch {progress.epoch + 1}.")
            progress.history[-1][f"validation/{name}"] = float(value)
        progress.epoch, progress.step, self.means = progress.epoch + 1, 0, RunningMeans()
        progress.noted = {}
        if progress.best_epoch == 0 or self._value(progress.epoch) > self._value(progress.best_epoch):
            self.state.keep_as_best()

    def _of_main_process(self, metrics: dict[str, float]) -> dict[str, float]:
        """The metrics of the main process. All processes validate, so that none waits for long; only these count."""
        if self.accelerator.num_processes == 1:
            return metrics
        values = torch.tensor([[metrics[name] for name in sorted(metrics)]], dtype=torch.float64)
        main_values = self.accelerator.gather(values.to(self.accelerator.device))[0]
        return dict(zip(sorted(metrics), main_values.tolist(), strict=True))

    def save(self) -> None:
        """Writes the checkpoint. Every process must call this, because each has its own sums."""
        self._read_losses()
        self.state.progress.sums = self.means.of_all(self.accelerator)
        if self.main:
            self.state.save(self.file)

    def resume(self) -> None:
        """Continues from the checkpoint, if there is one that every process can use."""
        checkpoint = self.state.usable(self.file)
        all_can = self.accelerator.gather(torch.tensor([checkpoint is not None], device=self.accelerator.device)).all()
        if checkpoint and all_can:
            self.state.resume(checkpoint)
            self.means = RunningMeans(self.state.progress.sums[self.accelerator.process_index])

    def result(self) -> FitResult:
        self.state.return_to_best()
        self.objective.model.eval()
        progress = self.state.progress
        return FitResult(
            epochs=progress.epoch,
            best_epoch=progress.best_epoch,
            value=self._value(progress.best_epoch),
            stopped_early=progress.epoch < self.settings.epochs,
            history=progress.history,
            parameters=sum(parameter.numel() for parameter in self.objective.model.parameters()),
            positions_per_second=self._speed(),
            main=self.main,
        )

    def draw(self, curves: Path) -> None:
        """Writes the curves of all epochs so far."""
        progress = self.state.progress
        if self.main and progress.history:
            write_curves(curves, progress.history, progress.losses, progress.best_epoch)

    def print_epoch(self) -> None:
        """Prints one line about the last epoch."""
        if not self.main:
            return
        progress = self.state.progress
        best = " (best)" if progress.best_epoch == progress.epoch else ""
        print(
            f"epoch {progress.epoch} of {self.settings.epochs}: loss {progress.history[-1]['train/loss']:.4f}, "
            f"{self.objective.metric} {self._value(progress.epoch):.4f}{best}, {self._speed():,.0f} positions/s",
            file=sys.stderr,
            flush=True,
        )

    def _value(self, epoch: int) -> float:
        """The watched metric after an epoch, counted from 1."""
        return self.state.progress.history[epoch - 1][f"validation/{self.objective.metric}"]

    def _speed(self) -> float:
        return self.positions / self.seconds if self.seconds else 0.0

    def _sums(self) -> dict[str, float]:
        """The sums of the current epoch, of all processes."""
        rows = self.means.of_all(self.accelerator)
        return {name: sum(row[name] for row in rows) for name in rows[0]}

    def _steps_of(self, batches: Sequence[B]) -> int:
        """The steps of an epoch: each process takes one batch per step."""
        return -(-len(batches) // self.accelerator.num_processes)

    def _with_progress_bar(self, steps: range) -> Iterable[int]:
        label = f"epoch {self.state.progress.epoch + 1} of {self.settings.epochs}"
        return track(steps, label, len(steps)) if self.main else steps
