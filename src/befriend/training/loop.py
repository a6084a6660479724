"""The training loop that every model shares: devices, learning rate, checkpoints, early stopping, curves.

The loop knows nothing of users or histories: it trains any `Objective`, which brings a model, batches, a loss and a
validation. A *position* is one training example: a place at which the model predicts something and gets a loss. A batch
has many of them, and all means of the loop are weighted by them.

A killed run resumes from its last checkpoint. Its weights and curves then equal those of an uninterrupted run byte for
byte. Several processes (`accelerate launch`, or `torchrun` on a machine with CPUs only) share the batches of an epoch
and average their gradients. Only the main process writes files.
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
MAX_LOSS_POINTS = 20  # points of the loss curve per epoch, at most


@dataclass(frozen=True)
class FitResult:
    """Outcome of a training."""

    num_epochs: int
    """number of epochs trained"""
    best_epoch: int
    """the epoch, from 1, whose weights the model has now"""
    best_value: float
    """the objective's metric after the best epoch"""
    stopped_early: bool
    """whether training ended before the last epoch of the settings, because the metric no longer improved"""
    history: list[dict[str, float]]
    """one row per epoch: epoch (from 1), learning_rate, train/<metric>, validation/<metric>"""
    num_parameters: int
    """number of learned parameters of the model"""
    positions_per_second: float
    """training speed of all processes together, without validation, since the run started or was resumed; 0 if no step
    was left to train"""
    is_main_process: bool
    """whether this process is the one that writes files"""


def fit(objective: Objective[B], settings: TrainingSettings, checkpoints: Path, curves: Path) -> FitResult:
    """Trains. Afterwards `objective.model` holds the weights of the best epoch, in eval mode, on the training device.

    checkpoints: a folder of this training alone, so name it by a digest of all inputs and settings. If it holds a
    checkpoint, training resumes from it. Remove the folder when the results are saved. curves: the folder of the
    training curves, see `training.curves`.

    Raises a DataError if there is no batch to train on, or if a loss or a metric is not finite.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs

    # A part of the model may get no gradient from a batch, for example if dropout removes all user embeddings.
    parallel = DistributedDataParallelKwargs(find_unused_parameters=True)
    # With cpu=True, accelerate joins the processes that torchrun started; otherwise each would train alone. The loop
    # sets the precision itself: accelerate would reuse the first precision for all later trainings of a process.
    cpu = settings.device == "cpu" or not torch.accelerator.is_available()
    accelerator = Accelerator(cpu=cpu, mixed_precision="no", kwargs_handlers=[parallel])
    with deterministic_torch(settings.threads, accelerator.device):
        run = _Run(objective, settings, accelerator, checkpoints / CHECKPOINT_FILE)
        run.resume()
        run.write_curves(curves)
        while not run.is_finished:
            run.train()
            run.validate()
            run.save()
            run.write_curves(curves)
            run.print_epoch()
        return run.result()


class _LossModule(nn.Module, Generic[B]):
    """The objective's loss as the forward pass of a module.

    With several processes, PyTorch averages gradients only of calls that go through the wrapped module.
    """

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
    """One training: its state, and its steps. `fit` calls validation, checkpoints and curves after each epoch."""

    def __init__(
        self, objective: Objective[B], settings: TrainingSettings, accelerator: Accelerator, checkpoint_file: Path
    ) -> None:
        self.objective, self.settings, self.accelerator = objective, settings, accelerator
        self.checkpoint_file = checkpoint_file
        self.is_main_process = accelerator.is_main_process
        self.module = accelerator.prepare_model(_LossModule(objective, accelerator.device, settings))
        self.optimizer = adamw(objective.model, settings, objective.lr_multiplier)
        self.state = TrainingState(objective.model, self.optimizer, accelerator.num_processes)
        self.means = RunningMeans()
        """sums over the current epoch, of this process alone"""
        self.positions_trained = self.seconds_trained = 0.0
        """positions of all processes, and wall-clock seconds, since the run started or was resumed"""

    @property
    def is_finished(self) -> bool:
        progress, patience = self.state.progress, self.settings.patience
        has_stalled = patience is not None and progress.epoch - progress.best_epoch >= patience
        return progress.epoch >= self.settings.epochs or has_stalled

    def train(self) -> None:
        """Trains the remaining steps of the current epoch, and adds its row to the history."""
        progress = self.state.progress
        batches = self.objective.batches(progress.epoch)
        if not len(batches):
            raise DataError("there is nothing to train on: the training part of the log gives no training example.")
        self.module.train()
        # A resumed epoch has sums already; their positions were not trained in the time measured below.
        self.positions_trained -= self._sums().get(POSITIONS, 0.0)
        start = time.perf_counter()
        steps = range(progress.step, self._num_steps(batches))
        with ThreadPoolExecutor(1) as executor:  # builds the next batch while the model trains on this one
            next_batch = executor.submit(self._build_batch, batches, progress.step)
            for step in self._with_progress_bar(steps):
                batch = next_batch.result()
                if step + 1 < steps.stop:
                    next_batch = executor.submit(self._build_batch, batches, step + 1)
                self._train_step(batch, step, batches)
                if (step + 1) * MAX_LOSS_POINTS // steps.stop > step * MAX_LOSS_POINTS // steps.stop:
                    self._record_loss()
                if progress.total_steps % self.settings.checkpoint_every == 0:
                    self.save()
        self._read_losses()
        self.seconds_trained += time.perf_counter() - start
        sums = self._sums()
        num_positions = sums.pop(POSITIONS)
        if not num_positions:
            raise DataError(f"epoch {progress.epoch + 1} had nothing to learn from: none of its positions has a loss.")
        self.positions_trained += num_positions
        means = {f"train/{name}": value / num_positions for name, value in sums.items()}
        rate = self._learning_rate(progress.step, batches)
        progress.history.append({"epoch": progress.epoch + 1, "learning_rate": rate, **means})

    def _batch_index(self, step: int) -> int:
        """The index, among the batches of the epoch, of the batch that this process takes in a step."""
        return step * self.accelerator.num_processes + self.accelerator.process_index

    def _build_batch(self, batches: Sequence[B], step: int) -> B:
        return batches[self._batch_index(step) % len(batches)]

    def _learning_rate(self, step: int, batches: Sequence[B]) -> float:
        """The learning rate of a step of the current epoch. step: from 1.

        Computed as if every epoch had as many steps as this one. Epochs differ by a few steps, and the number of steps
        of an epoch is known only when its batches are drawn. So each epoch covers an equal share of the schedule, and
        the last one ends where the schedule ends.
        """
        steps = self._num_steps(batches)
        return learning_rate(self.state.progress.epoch * steps + step, self.settings.epochs * steps, self.settings)

    def _train_step(self, batch: B, step: int, batches: Sequence[B]) -> None:
        progress = self.state.progress
        seed_step(self.settings.seed, progress.epoch, step, self.accelerator.process_index)
        batch = batch.to(self.accelerator.device)
        self._read_losses()  # those of the previous step: the device computed them while this batch was built
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr_multiplier"] * self._learning_rate(step + 1, batches)
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.module(batch)
        self.accelerator.backward(losses.loss)
        if self.settings.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.objective.model.parameters(), self.settings.gradient_clip)
        self.optimizer.step()
        progress.step, progress.total_steps = step + 1, progress.total_steps + 1
        # In the last step of an epoch, there may be fewer batches than processes. The other processes train on one of
        # the first batches again, and the means do not count it.
        self.means.add(losses, losses.num_positions if self._batch_index(step) < len(batches) else 0)

    def _record_loss(self) -> None:
        """Adds a row to the loss curve: the mean loss since the previous row."""
        self._read_losses()
        progress, sums = self.state.progress, self._sums()
        loss, num_positions = (sums[name] - progress.sums_at_last_row.get(name, 0.0) for name in ("loss", POSITIONS))
        if num_positions:
            progress.losses.append({"step": progress.total_steps, "loss": loss / num_positions})
        progress.sums_at_last_row = {name: sums[name] for name in ("loss", POSITIONS)}

    def _read_losses(self) -> None:
        """Adds the losses of the last step to the means. Raises a DataError if one is not finite."""
        for name, value in self.means.read().items():
            if not math.isfinite(value):
                clip = "null" if self.settings.gradient_clip is None else self.settings.gradient_clip
                raise DataError(
                    f"training diverged: {name} became {value} in step {self.state.progress.step} of epoch "
                    f"{self.state.progress.epoch + 1}. Lower learning_rate (now {self.settings.learning_rate}) or "
                    f"gradient_clip (now {clip}), or raise warmup (now {self.settings.warmup}). If that does not help, "
                    "look for extreme values in the inputs of the model."
                )

    def validate(self) -> None:
        """Completes the epoch: adds validation metrics to its row, and stores its weights if they are the best so far.

        Raises a DataError if a metric is not finite.
        """
        progress = self.state.progress
        self.module.eval()
        seed_step(self.settings.seed, progress.epoch, progress.step, 0)
        with torch.no_grad():
            metrics = self._from_main_process(self.objective.validate())
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise DataError(f"validation failed: {name} is {value} after epoch {progress.epoch + 1}.")
            progress.history[-1][f"validation/{name}"] = float(value)
        progress.epoch, progress.step, self.means = progress.epoch + 1, 0, RunningMeans()
        progress.sums_at_last_row = {}
        if progress.best_epoch == 0 or self._metric_after(progress.epoch) > self._metric_after(progress.best_epoch):
            self.state.store_best_weights()

    def _from_main_process(self, metrics: dict[str, float]) -> dict[str, float]:
        """The metrics that the main process computed, in every process.

        All processes validate, so that none waits for long, but only these metrics count.
        """
        if self.accelerator.num_processes == 1:
            return metrics
        values = torch.tensor([[metrics[name] for name in sorted(metrics)]], dtype=torch.float64)
        main_values = self.accelerator.gather(values.to(self.accelerator.device))[0]
        return dict(zip(sorted(metrics), main_values.tolist(), strict=True))

    def save(self) -> None:
        """Writes the checkpoint. Every process has to call this, because each contributes its own sums."""
        self._read_losses()
        self.state.progress.sums = self.means.sums_per_process(self.accelerator)
        if self.is_main_process:
            self.state.save(self.checkpoint_file)

    def resume(self) -> None:
        """Restores the state from the checkpoint, if there is one that every process can use."""
        checkpoint = self.state.load_usable(self.checkpoint_file)
        is_usable = torch.tensor([checkpoint is not None], device=self.accelerator.device)
        if checkpoint and self.accelerator.gather(is_usable).all():
            self.state.resume(checkpoint)
            self.means = RunningMeans(self.state.progress.sums[self.accelerator.process_index])

    def result(self) -> FitResult:
        self.state.restore_best_weights()
        self.objective.model.eval()
        progress = self.state.progress
        return FitResult(
            num_epochs=progress.epoch,
            best_epoch=progress.best_epoch,
            best_value=self._metric_after(progress.best_epoch),
            stopped_early=progress.epoch < self.settings.epochs,
            history=progress.history,
            num_parameters=sum(parameter.numel() for parameter in self.objective.model.parameters()),
            positions_per_second=self._speed(),
            is_main_process=self.is_main_process,
        )

    def write_curves(self, curves: Path) -> None:
        """Writes the curves of all epochs so far."""
        progress = self.state.progress
        if self.is_main_process and progress.history:
            write_curves(curves, progress.history, progress.losses, progress.best_epoch)

    def print_epoch(self) -> None:
        """Prints one line about the last epoch."""
        if not self.is_main_process:
            return
        progress = self.state.progress
        best = " (best)" if progress.best_epoch == progress.epoch else ""
        print(
            f"epoch {progress.epoch} of {self.settings.epochs}: loss {progress.history[-1]['train/loss']:.4f}, "
            f"{self.objective.metric} {self._metric_after(progress.epoch):.4f}{best}, {self._speed():,.0f} positions/s",
            file=sys.stderr,
            flush=True,
        )

    def _metric_after(self, epoch: int) -> float:
        """The objective's metric after an epoch. epoch: from 1."""
        return self.state.progress.history[epoch - 1][f"validation/{self.objective.metric}"]

    def _speed(self) -> float:
        """Positions per second of all processes together; 0 before the first step."""
        return self.positions_trained / self.seconds_trained if self.seconds_trained else 0.0

    def _sums(self) -> dict[str, float]:
        """Name -> sum over the current epoch, of all processes together."""
        sums = self.means.sums_per_process(self.accelerator)
        return {name: sum(process_sums[name] for process_sums in sums) for name in sums[0]}

    def _num_steps(self, batches: Sequence[B]) -> int:
        """The number of steps of an epoch: in each, every process takes one batch."""
        return -(-len(batches) // self.accelerator.num_processes)

    def _with_progress_bar(self, steps: range) -> Iterable[int]:
        label = f"epoch {self.state.progress.epoch + 1} of {self.settings.epochs}"
        return track(steps, label, len(steps)) if self.is_main_process else steps
