"""What the stages that train a model of people have in common."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from befriend import files
from befriend.data.attributes import ATTRIBUTES_FILE, Attributes
from befriend.data.log import EVENTS_FILE, EventLog
from befriend.data.observed import Observed
from befriend.data.split import Split, read_split
from befriend.data.texts import MOMENTS_FILE, TextVectors
from befriend.models import folder
from befriend.models.settings import QuerySettings, RetrievalSettings
from befriend.training.loop import fit
from befriend.training.retrieval import RetrievalTrainee


@dataclass(frozen=True)
class TrainResult:
    parameters: int
    epochs: int
    best_epoch: int
    metric: str
    value: float
    positions_per_second: float
    stopped_early: bool

    def summary(self) -> str:
        speed = (
            f"{self.positions_per_second:,.0f} positions/s" if self.positions_per_second else "nothing left to train"
        )
        stopped = ", stopped early" if self.stopped_early else ""
        return (
            f"{self.parameters:,} parameters, {self.epochs} epochs{stopped}; epoch {self.best_epoch} is best, "
            f"validation {self.metric} {self.value:.4f}; {speed}"
        )


@dataclass(frozen=True)
class Inputs:
    """What training reads."""

    log: EventLog
    split: Split
    attributes: Attributes
    observed: Observed
    data: str
    """sha256 of the events"""
    digest: str
    """of all of it, with the settings"""

    @classmethod
    def read(cls, prepared: Path, models: Path, settings: RetrievalSettings, more: str = "") -> Inputs:
        """The prepared log, and what users wrote, from `models`. more: what else the outcome depends on."""
        log = EventLog.read(prepared)
        split = read_split(prepared, log)
        data, told = files.sha256(prepared / EVENTS_FILE), files.sha256(prepared / ATTRIBUTES_FILE)
        texts = TextVectors.read(models / "text", log)
        written = files.sha256(models / "text" / MOMENTS_FILE)
        whole = f"{data} {told} {written} {split.to_json()} {settings.model_dump_json()}{more}"
        digest = hashlib.sha256(whole.encode()).hexdigest()[:16]
        observed = Observed.of(log, settings.received_events, texts=texts if settings.texts else None)
        return cls(log, split, Attributes.read(prepared), observed, data, digest)


def train(
    stage: str,
    name: str,
    inputs: Inputs,
    trainee: RetrievalTrainee[Any],
    settings: RetrievalSettings,
    tower: type[QuerySettings],
    folders: tuple[Path, Path, Path],
    tokens: str = "",
) -> TrainResult:
    """Trains and saves a model. name: of its folder; tower: the part of the settings that it is made of.

    folders: models, reports, checkpoints. Goes on from what lies in checkpoints/ for the same inputs and settings, and
    removes it when done.
    """
    models, reports, checkpoints = folders
    kept = checkpoints / stage / inputs.digest
    fitted = fit(trainee, settings, kept, reports / "training" / name)
    best = fitted.history[fitted.best_epoch - 1]
    trained = folder.Trained(
        model=trainee.model,
        tower=tower(**{field: getattr(settings, field) for field in tower.model_fields}),
        actions=inputs.log.actions,
        codes=trainee.codes,
        users=inputs.log.num_users,
        lineage=inputs.log.lineage(),
        data=inputs.data,
        trained_until=inputs.split.t_validation,
        validation={
            field.removeprefix("validation/"): v for field, v in best.items() if field.startswith("validation/")
        },
        tokens=tokens,
        text_width=trainee.model.text_width,
    )
    if fitted.main:
        folder.save(models / name, trained, name.replace("_", "-"))
        files.remove(kept.parent)
    return TrainResult(
        fitted.parameters,
        fitted.epochs,
        fitted.best_epoch,
        trainee.metric,
        fitted.value,
        fitted.positions_per_second,
        fitted.stopped_early,
    )
