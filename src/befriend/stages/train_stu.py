"""Stage train_stu: trains the STU model, which predicts the next target token by token, on the training part.

STU stands for social tokenized user id: the semantic ID of a user, a few tokens of a residual quantizer, as in TIGER.
"""

from __future__ import annotations

from pathlib import Path

from befriend.data.event_log import EventLog
from befriend.evaluation.model_validation import stu_validation
from befriend.features.text_vectors import TextVectors
from befriend.models.model_settings import StuModelSettings
from befriend.objectives.objective_settings import StuSettings
from befriend.objectives.stu_objective import StuObjective
from befriend.stages.train_stage import TrainingInputs, TrainResult, train_model
from befriend.tokens.tokenizer import load_tokenizer

STAGE, NAME = "train_stu", "stu"


def run(settings: StuSettings, prepared: Path, models: Path, reports: Path, checkpoints: Path) -> TrainResult:
    """Reads the prepared log and the STUs; writes the folder stu to `models`, curves to training/ in `reports`.

    checkpoints: folder of the checkpoints of all stages.
    """
    log = EventLog.read(prepared)
    tokenizer = load_tokenizer(models / "tokens", log, TextVectors.read(models / "text", log))
    stu_digest = tokenizer.table.digest()
    inputs = TrainingInputs.read(prepared, models, settings, stu_digest)
    stus = tokenizer.add_newcomers(log).table.stus
    validate = stu_validation(inputs.feature_view, inputs.split, settings, stus)
    objective = StuObjective(
        inputs.feature_view, inputs.attributes, inputs.split, settings, tokenizer.table, stus, validate
    )
    return train_model(
        STAGE, NAME, inputs, objective, settings, StuModelSettings, (models, reports, checkpoints), stu_digest
    )
