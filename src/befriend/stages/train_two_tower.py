"""Stage train_two_tower: trains the two-tower model on the training part of the log, and saves its best epoch."""

from __future__ import annotations

from pathlib import Path

from befriend.evaluation.model_validation import two_tower_validation
from befriend.models.model_settings import TwoTowerModelSettings
from befriend.objectives.objective_settings import TwoTowerSettings
from befriend.objectives.two_tower_objective import TwoTowerObjective
from befriend.stages.train_stage import TrainingInputs, TrainResult, train_model

STAGE, NAME = "train_two_tower", "two_tower"


def run(settings: TwoTowerSettings, prepared: Path, models: Path, reports: Path, checkpoints: Path) -> TrainResult:
    """Reads the prepared log and its text vectors; writes two_tower/ to `models`, training curves to training/ in
    `reports`.

    checkpoints: folder of the checkpoints of all stages.
    """
    inputs = TrainingInputs.read(prepared, models, settings)
    validate = two_tower_validation(inputs.feature_view, inputs.split, settings)
    objective = TwoTowerObjective(inputs.feature_view, inputs.attributes, inputs.split, settings, validate)
    return train_model(STAGE, NAME, inputs, objective, settings, TwoTowerModelSettings, (models, reports, checkpoints))
