"""Common code of the stages train_two_tower and train_stu: reading the inputs, training, and saving the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from befriend import artifacts, files
from befriend.data.attributes import ATTRIBUTES_FILE, Attributes
from befriend.data.event_log import EVENTS_FILE, EventLog
from befriend.data.split import Split, read_split
from befriend.features.feature_view import FeatureView
from befriend.features.text_vectors import VECTORS_FILE, TextVectors
from befriend.models import trained_model as folder
from befriend.models.model_settings import QuerySettings
from befriend.objectives.objective_settings import RetrievalSettings
from befriend.objectives.retrieval_objective import RetrievalObjective
from befriend.training.loop import fit


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
class TrainingInputs:
    """The inputs of a training."""

    log: EventLog
    split: Split
    attributes: Attributes
    feature_view: FeatureView
    data: str
    """sha256 of the events"""
    digest: str
    """of all inputs and settings"""

    @classmethod
    def read(cls, prepared: Path, models: Path, settings: RetrievalSettings, extra: str = "") -> TrainingInputs:
        """Reads the prepared log, and the text vectors from `models`. extra: added to what the digest covers."""
        log = EventLog.read(prepared)
        split = read_split(prepared, log)
        data, texts = files.sha256(prepared / EVENTS_FILE), TextVectors.read(models / "text", log)
        text_vectors = artifacts.fingerprint(models, [models / "text" / VECTORS_FILE])
        more = text_vectors, f"{split.to_json()}", settings.model_dump_json(), extra
        tables = [prepared / name for name in (EVENTS_FILE, ATTRIBUTES_FILE)]
        digest = artifacts.fingerprint(prepared, tables, *more)[:16]
        feature_view = FeatureView.of(log, settings.received_events, texts=texts if settings.texts else None)
        return cls(log, split, Attributes.read(prepared), feature_view, data, digest)


def train_model(
    stage: str,
    name: str,
    inputs: TrainingInputs,
    objective: RetrievalObjective[Any],
    settings: RetrievalSettings,
    tower: type[QuerySettings],
    folders: tuple[Path, Path, Path],
    tokens: str = "",
) -> TrainResult:
    """Trains a model and saves it.

    name: of its folder; tower: the class of the settings that the model is built from; folders: models, reports and
    checkpoints; tokens: digest of the STUs that the model uses. Resumes from checkpoints of the same inputs and
    settings, and removes them when done.
    """
    models, reports, checkpoints = folders
    checkpoint = checkpoints / stage / inputs.digest
    fitted = fit(objective, settings, checkpoint, reports / "training" / name)
    best = fitted.history[fitted.best_epoch - 1]
    trained = folder.TrainedModel(
        model=objective.model,
        tower=tower(**{field: getattr(settings, field) for field in tower.model_fields}),
        actions=inputs.log.actions,
        attribute_encoding=objective.attribute_encoding,
        users=inputs.log.num_users,
        lineage=inputs.log.lineage(),
        data=inputs.data,
        trained_until=inputs.split.t_validation,
        validation={
            field.removeprefix("validation/"): v for field, v in best.items() if field.startswith("validation/")
        },
        tokens=tokens,
        text_width=objective.model.text_width,
    )
    if fitted.main:
        folder.save_model(models / name, trained, name.replace("_", "-"))
        files.remove(checkpoint.parent)
    return TrainResult(
        fitted.parameters,
        fitted.epochs,
        fitted.best_epoch,
        objective.metric,
        fitted.value,
        fitted.positions_per_second,
        fitted.stopped_early,
    )
