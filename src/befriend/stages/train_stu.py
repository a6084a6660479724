"""Stage train_stu: the model that predicts people token by token, trained on the training part."""

from __future__ import annotations

from pathlib import Path

from befriend.data.log import EventLog
from befriend.data.texts import TextVectors
from befriend.models.settings import StuSettings, StuTowerSettings
from befriend.stages.training import Inputs, TrainResult, train
from befriend.tokens.folder import load
from befriend.training.stu import StuTrainee

STAGE, NAME = "train_stu", "stu"


def run(settings: StuSettings, prepared: Path, models: Path, reports: Path, checkpoints: Path) -> TrainResult:
    """Reads the prepared log and the tokens; writes the folder stu to `models`, and its curves to training/."""
    log = EventLog.read(prepared)
    tokens = load(models / "tokens", log, TextVectors.read(models / "text", log))
    digest = tokens.table.digest()
    inputs = Inputs.read(prepared, models, settings, digest)
    trainee = StuTrainee(inputs.observed, inputs.attributes, inputs.split, settings, tokens)
    return train(STAGE, NAME, inputs, trainee, settings, StuTowerSettings, (models, reports, checkpoints), digest)
