"""Stage train_two_tower: the retrieval model, trained on the training part, chosen on the validation part."""

from __future__ import annotations

from pathlib import Path

from befriend.models.settings import TowerSettings, TwoTowerSettings
from befriend.stages.training import Inputs, TrainResult, train
from befriend.training.two_tower import TwoTowerTrainee

STAGE, NAME = "train_two_tower", "two_tower"


def run(settings: TwoTowerSettings, prepared: Path, models: Path, reports: Path, checkpoints: Path) -> TrainResult:
    """Reads the prepared log; writes the folder two_tower to `models`, and its curves to training/ in `reports`."""
    inputs = Inputs.read(prepared, models, settings)
    trainee = TwoTowerTrainee(inputs.observed, inputs.attributes, inputs.split, settings)
    return train(STAGE, NAME, inputs, trainee, settings, TowerSettings, (models, reports, checkpoints))
