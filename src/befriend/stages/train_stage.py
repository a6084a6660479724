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
from befriend.models.model_settings import ModelSettings
from befriend.objectives.objective_settings import RetrievalSettings
from befriend.objectives.retrieval_objective import RetrievalObjective
from befriend.training.loop import fit


@dataclass(frozen=True)
class TrainResult:
    """Figures of a training, for the line that the command prints at the end."""

    num_parameters: int
    """number of learned parameters of the model"""
    num_epochs: int
    """number of epochs trained"""
    best_epoch: int
    """the epoch, from 1, whose weights were saved"""
    metric: str
    """name of the validation metric that chose the best epoch"""
    best_value: float
    """the metric after the best epoch"""
    positions_per_second: float
    """training speed, in predicted targets; 0 if a checkpoint held the finished training"""
    stopped_early: bool

    def summary(self) -> str:
        speed = (
            f"{self.positions_per_second:,.0f} positions/s" if self.positions_per_second else "nothing left to train"
        )
        stopped = ", stopped early" if self.stopped_early else ""
        return (
            f"{self.num_parameters:,} parameters, {self.num_epochs} epochs{stopped}; epoch {self.best_epoch} is best, "
            f"validation {self.metric} {self.best_value:.4f}; {speed}"
        )


@dataclass(frozen=True)
class TrainingInputs:
    """The inputs of a training, and digests that identify them."""

    log: EventLog
    split: Split
    attributes: Attributes
    feature_view: FeatureView
    """the log and its texts as the model reads them"""
    events_digest: str
    """SHA-256 of the file of events"""
    digest: str
    """digest of all inputs and settings, 16 hexadecimal digits"""

    @classmethod
    def read(cls, prepared: Path, models: Path, settings: RetrievalSettings, extra: str = "") -> TrainingInputs:
        """Reads the prepared log, and the text vectors from `models`. extra: another text that the digest includes."""
        log = EventLog.read(prepared)
        split = read_split(prepared, log)
        events_digest, texts = files.sha256(prepared / EVENTS_FILE), TextVectors.read(models / "text", log)
        text_digest = artifacts.fingerprint(models, [models / "text" / VECTORS_FILE])
        other_inputs = text_digest, f"{split.to_json()}", settings.model_dump_json(), extra
        tables = [prepared / name for name in (EVENTS_FILE, ATTRIBUTES_FILE)]
        digest = artifacts.fingerprint(prepared, tables, *other_inputs)[:16]
        feature_view = FeatureView.of(log, settings.received_events, texts=texts if settings.texts else None)
        return cls(log, split, Attributes.read(prepared), feature_view, events_digest, digest)


def train_model(
    stage: str,
    name: str,
    inputs: TrainingInputs,
    objective: RetrievalObjective[Any],
    settings: RetrievalSettings,
    model_settings: type[ModelSettings],
    folders: tuple[Path, Path, Path],
    stu_digest: str = "",
) -> TrainResult:
    """Trains a model and saves it. Resumes from checkpoints of the same inputs and settings; removes them at the end.

    name: of the model's folder; model_settings: the class of the settings that the model is built from, a part of
    `settings`; folders: models, reports and checkpoints; stu_digest: digest of the STUs (social tokenized user ids, the
    semantic IDs of users) that the model uses, empty for a model without.
    """
    models, reports, checkpoints = folders
    checkpoint = checkpoints / stage / inputs.digest
    fitted = fit(objective, settings, checkpoint, reports / "training" / name)
    best = fitted.history[fitted.best_epoch - 1]
    trained = folder.TrainedModel(
        model=objective.model,
        settings=model_settings(**{field: getattr(settings, field) for field in model_settings.model_fields}),
        actions=inputs.log.actions,
        attribute_encoding=objective.attribute_encoding,
        num_users=inputs.log.num_users,
        lineage=inputs.log.lineage(),
        events_digest=inputs.events_digest,
        trained_until=inputs.split.t_validation,
        validation_metrics={
            column.removeprefix("validation/"): value
            for column, value in best.items()
            if column.startswith("validation/")
        },
        stu_digest=stu_digest,
        text_width=objective.model.text_width,
    )
    if fitted.is_main_process:
        folder.save_model(models / name, trained, name.replace("_", "-"))
        files.remove(checkpoint.parent)
    return TrainResult(
        fitted.num_parameters,
        fitted.num_epochs,
        fitted.best_epoch,
        objective.metric,
        fitted.best_value,
        fitted.positions_per_second,
        fitted.stopped_early,
    )
