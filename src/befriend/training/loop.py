"""The training loop that every model shares: devices, learning rate, checkpoints, early stopping, curves.

Knows nothing of people or histories: what is trained is a `Trainee`. A run that was killed goes on from its last
checkpoint and ends in the same bytes as one that was not. Several processes (`accelerate launch`, or
`torchrun` where there are only CPUs) share an epoch's batches and average their gradients; the main one writes.
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
from befriend.training.curves import draw
from befriend.training.means import POSITIONS, Means
from befriend.training.optimizer import adamw, learning_rate
from befriend.training.reproducible import reproducible, seed_step
from befriend.training.settings import TrainingSettings
from befriend.training.state import State
from befriend.training.trainee import B, Losses, Trainee

if TYPE_CHECKING:
    from accelerate import Accelerator  # type: ignore[import-untyped]

CHECKPOINT_FILE = "latest.safetensors"
ROWS = 20  # of the curve of losses, an epoch


@dataclass(frozen=True)
class Fitted:
    epochs: int
    """epochs that were trained"""
    best_epoch: int
    """the one whose weights were kept, from 1"""
    value: float
    """the watched metric after it"""
    stopped_early: bool
    history: list[dict[str, float]]
    """a row an epoch: epoch (from 1), learning_rate, train/<figure>, validation/<figure>"""
    parameters: int
    positions_per_second: float
    """of all processes together, since the last resumption, validation not counted; 0 if nothing was left to train"""
    main: bool
    """whether this process is the one that writes files"""


def fit(trainee: Trainee[B], settings: TrainingSettings, checkpoints: Path, curves: Path) -> Fitted:
    """Trains; `trainee.model` then holds the best weights, in eval mode, on the device it was trained on.

    checkpoints: a folder that belongs to this training alone (its inputs and settings); it goes on from what it
    finds there. The caller removes it once the results are safe. curves: the folder to draw, see `training.curves`.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs

    # A part of the model may be without a gradient in some batch (embeddings that were dropped throughout). Precision
    # is the loop's own affair: accelerate keeps the first one it was given for all later trainings of a process.
    parallel = DistributedDataParallelKwargs(find_unused_parameters=True)
    # Told that there are only CPUs, accelerate joins the processes that torchrun started; else each would train alone.
    cpu = settings.device == "cpu" or not torch.accelerator.is_available()
    accelerator = Accelerator(cpu=cpu, mixed_precision="no", kwargs_handlers=[parallel])
    with reproducible(settings.threads, accelerator.device):
        run = _Run(trainee, settings, accelerator, checkpoints / CHECKPOINT_FILE)
        run.resume()
        run.draw(curves)
        while not run.finished:
            run.train()
            run.validate()
            run.save()
            run.draw(curves)
            run.tell()
        return run.result()


class _LossModule(nn.Module, Generic[B]):
    """The trainee's loss as a module's forward: gradients are averaged only over calls that go through one."""

    def __init__(self, trainee: Trainee[B], device: torch.device, settings: TrainingSettings) -> None:
        super().__init__()
        self.model = trainee.model
        self.loss = trainee.loss
        self.device_type = device.type
        able = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        self.bf16 = settings.mixed_precision == "bf16" or (settings.mixed_precision == "auto" and able)

    def forward(self, batch: B) -> Losses:
        with torch.autocast(self.device_type, torch.bfloat16, enabled=self.bf16):
            return self.loss(batch)


class _Run(Generic[B]):
    """One training: its state, and what moves it on."""

    def __init__(self, trainee: Trainee[B], settings: TrainingSettings, accelerator: Accelerator, file: Path) -> None:
        self.trainee, self.settings, self.accelerator, self.file = trainee, settings, accelerator, file
        self.main = accelerator.is_main_process
        self.module = accelerator.prepare_model(_LossModule(trainee, accelerator.device, settings))
        self.optimizer = adamw(trainee.model, settings, trainee.scale)
        self.state = State(trainee.model, self.optimizer, accelerator.num_processes)
        self.means = Means()
        self.positions = self.seconds = 0.0

    @property
    def finished(self) -> bool:
        place, patience = self.state.place, self.settings.patience
        stalled = patience is not None and place.epoch - place.best_epoch >= patience
        return place.epoch >= self.settings.epochs or stalled

    def train(self) -> None:
        """The steps of the running epoch that are left, and its row in the history."""
        place = self.state.place
        batches = self.trainee.batches(place.epoch)
        if not len(batches):
            raise DataError("there is nothing to train on: the training part gives not one batch of examples.")
        self.module.train()
        self.positions -= self._sums().get(POSITIONS, 0.0)  # those before a resumption took none of the time below
        start = time.perf_counter()
        steps = range(place.step, self._steps_of(batches))
        with ThreadPoolExecutor(1) as ahead:  # the next batch is built while the model works on this one
            coming = ahead.submit(self._batch, batches, place.step)
            for step in self._watch(steps):
                batch = coming.result()
                if step + 1 < steps.stop:
                    coming = ahead.submit(self._batch, batches, step + 1)
                self._take(batch, step, batches)
                if (step + 1) * ROWS // steps.stop > step * ROWS // steps.stop:
                    self._note()
                if place.steps % self.settings.checkpoint_every == 0:
                    self.save()
        self._read_figures()
        self.seconds += time.perf_counter() - start
        sums = self._sums()
        positions = sums.pop(POSITIONS)
        if not positions:
            raise DataError(f"epoch {place.epoch + 1} had nothing to learn from: no position carried a loss.")
        self.positions += positions
        means = {f"train/{name}": value / positions for name, value in sums.items()}
        rate = self._rate(place.step, batches)
        place.history.append({"epoch": place.epoch + 1, "learning_rate": rate, **means})

    def _number(self, step: int) -> int:
        """Of this process's batch."""
        return step * self.accelerator.num_processes + self.accelerator.process_index

    def _batch(self, batches: Sequence[B], step: int) -> B:
        return batches[self._number(step) % len(batches)]

    def _rate(self, step: int, batches: Sequence[B]) -> float:
        """The learning rate of the running epoch's step, counted from 1.

        As if all epochs had as many steps as this one: epochs differ by a few, and nobody knows how many others have
        until they are drawn. So each covers its share of the schedule, and the last one ends where the schedule does.
        """
        steps = self._steps_of(batches)
        return learning_rate(self.state.place.epoch * steps + step, self.settings.epochs * steps, self.settings)

    def _take(self, batch: B, step: int, batches: Sequence[B]) -> None:
        place = self.state.place
        seed_step(self.settings.seed, place.epoch, step, self.accelerator.process_index)
        batch = batch.to(self.accelerator.device)
        self._read_figures()  # of the step before: the device worked on it while this batch was built
        for group in self.optimizer.param_groups:
            group["lr"] = group["scale"] * self._rate(step + 1, batches)
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.module(batch)
        self.accelerator.backward(losses.loss)
        if self.settings.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.trainee.model.parameters(), self.settings.gradient_clip)
        self.optimizer.step()
        place.step, place.steps = step + 1, place.steps + 1
        # A process that is left without a batch in the last step takes one of the first again; no mean counts it.
        self.means.add(losses, losses.positions if self._number(step) < len(batches) else 0)

    def _note(self) -> None:
        """One more point of the curve of losses."""
        self._read_figures()
        place, sums = self.state.place, self._sums()
        loss, positions = (sums[name] - place.noted.get(name, 0.0) for name in ("loss", POSITIONS))
        if positions:
            place.losses.append({"step": place.steps, "loss": loss / positions})
        place.noted = {name: sums[name] for name in ("loss", POSITIONS)}

    def _read_figures(self) -> None:
        for name, value in self.means.read().items():
            if not math.isfinite(value):
                clip = "null" if self.settings.gradient_clip is None else self.settings.gradient_clip
                raise DataError(
                    f"training broke down: {name} became {value} in step {self.state.place.step} of epoch "
                    f"{self.state.place.epoch + 1}. Lower learning_rate (now {self.settings.learning_rate}) or "
                    f"gradient_clip (now {clip}), or raise warmup (now {self.settings.warmup}); if that does not help, "
                    "look for extreme values among the model's inputs."
                )

    def validate(self) -> None:
        """Completes the epoch: its validation joins its row, and its weights are kept if they are the best so far."""
        place = self.state.place
        self.module.eval()
        seed_step(self.settings.seed, place.epoch, place.step, 0)
        with torch.no_grad():
            found = self._agreed(self.trainee.validate())
        for name, value in found.items():
            if not math.isfinite(value):
                raise DataError(f"validation broke down: {name} is {value} after epoch {place.epoch + 1}.")
            place.history[-1][f"validation/{name}"] = float(value)
        place.epoch, place.step, self.means = place.epoch + 1, 0, Means()
        place.noted = {}
        if place.best_epoch == 0 or self._value(place.epoch) > self._value(place.best_epoch):
            self.state.keep_as_best()

    def _agreed(self, found: dict[str, float]) -> dict[str, float]:
        """What the main process found. All validate, so that none waits for long, but one word counts."""
        if self.accelerator.num_processes == 1:
            return found
        own = torch.tensor([[found[name] for name in sorted(found)]], dtype=torch.float64)
        of_main = self.accelerator.gather(own.to(self.accelerator.device))[0]
        return dict(zip(sorted(found), of_main.tolist(), strict=True))

    def save(self) -> None:
        """Writes the checkpoint; every process comes here, as each has sums of its own."""
        self._read_figures()
        self.state.place.sums = self.means.of_all(self.accelerator)
        if self.main:
            self.state.save(self.file)

    def resume(self) -> None:
        """Goes on from the checkpoint, if there is one that every process can use."""
        found = self.state.usable(self.file)
        all_can = self.accelerator.gather(torch.tensor([found is not None], device=self.accelerator.device)).all()
        if found and all_can:
            self.state.resume(found)
            self.means = Means(self.state.place.sums[self.accelerator.process_index])

    def result(self) -> Fitted:
        self.state.return_to_best()
        self.trainee.model.eval()
        place = self.state.place
        return Fitted(
            epochs=place.epoch,
            best_epoch=place.best_epoch,
            value=self._value(place.best_epoch),
            stopped_early=place.epoch < self.settings.epochs,
            history=place.history,
            parameters=sum(parameter.numel() for parameter in self.trainee.model.parameters()),
            positions_per_second=self._speed(),
            main=self.main,
        )

    def draw(self, curves: Path) -> None:
        place = self.state.place
        if self.main and place.history:
            draw(curves, place.history, place.losses, place.best_epoch)

    def tell(self) -> None:
        """One line about the last epoch."""
        if not self.main:
            return
        place = self.state.place
        best = " (best)" if place.best_epoch == place.epoch else ""
        print(
            f"epoch {place.epoch} of {self.settings.epochs}: loss {place.history[-1]['train/loss']:.4f}, "
            f"{self.trainee.metric} {self._value(place.epoch):.4f}{best}, {self._speed():,.0f} positions/s",
            file=sys.stderr,
            flush=True,
        )

    def _value(self, epoch: int) -> float:
        """The watched metric after an epoch, from 1."""
        return self.state.place.history[epoch - 1][f"validation/{self.trainee.metric}"]

    def _speed(self) -> float:
        return self.positions / self.seconds if self.seconds else 0.0

    def _sums(self) -> dict[str, float]:
        rows = self.means.of_all(self.accelerator)
        return {name: sum(row[name] for row in rows) for name in rows[0]}

    def _steps_of(self, batches: Sequence[B]) -> int:
        """Each process takes one batch a step."""
        return -(-len(batches) // self.accelerator.num_processes)

    def _watch(self, steps: range) -> Iterable[int]:
        label = f"epoch {self.state.place.epoch + 1} of {self.settings.epochs}"
        return track(steps, label, len(steps)) if self.main else steps
