"""Stage train_stu: trains the model that predicts users token by token, on the training part."""

from __future__ import annotations

from pathlib import Path

from befriend.data.event_log import EventLog
from befriend.evaluation.validation import stu_validation
from befriend.features.text_vectors import TextVectors
from befriend.models.model_settings import StuTowerSettings
from befriend.objectives.objective_settings import StuSettings
from befriend.objectives.stu_objective import StuObjective
from befriend.stages.train_stage import TrainingInputs, TrainResult, train_model
from befriend.tokens.tokenizer import load_tokenizer

STAGE, NAME = "train_stu", "stu"


def run(settings: StuSettings, prepared: Path, models: Path, reports: Path, checkpoints: Path) -> TrainResult:
    """Reads the prepared log and the tokens; writes the folder stu to `models`, curves to training/ in `reports`."""
    log = EventLog.read(prepared)
    tokens = load_tokenizer(models / "tokens", log, TextVectors.read(models / "text", log))
    digest = tokens.table.digest()
    inputs = TrainingInputs.read(prepared, models, settings, digest)
    stus = tokens.with_newcomers(log).table.stus
    validate = stu_validation(inputs.feature_view, inputs.split, settings, stus)
    objective = StuObjective(
        inputs.feature_view, inputs.attributes, inputs.split, settings, tokens.table, stus, validate
    )
    return train_model(
        STAGE, NAME, inputs, objective, settings, StuTowerSettings, (models, reports, checkpoints), digest
    )
