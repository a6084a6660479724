"""Stage train_two_tower: the retrieval model, trained on the training part, chosen on the validation part."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from befriend import files
from befriend.data.attributes import ATTRIBUTES_FILE, Attributes
from befriend.data.log import EVENTS_FILE, EventLog
from befriend.data.observed import Observed
from befriend.data.split import read_split
from befriend.models import folder
from befriend.models.settings import TowerSettings, TwoTowerSettings
from befriend.training.loop import fit
from befriend.training.two_tower import TwoTowerTrainee


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


def run(settings: TwoTowerSettings, prepared: Path, models: Path, reports: Path, checkpoints: Path) -> TrainResult:
    """Reads the prepared log; writes the folder two_tower to `models`, and its curves to training/ in `reports`.

    Goes on from what lies in checkpoints/ for the same inputs and settings, and removes it when done.
    """
    log = EventLog.read(prepared)
    split = read_split(prepared, log)
    attributes = Attributes.read(prepared)
    data = files.sha256(prepared / EVENTS_FILE)
    told = files.sha256(prepared / ATTRIBUTES_FILE)
    digest = hashlib.sha256(f"{data} {told} {split.to_json()} {settings.model_dump_json()}".encode()).hexdigest()[:16]
    kept = checkpoints / "train_two_tower" / digest
    observed = Observed.of(log, settings.received_events)
    trainee = TwoTowerTrainee(observed, attributes, split, settings)
    fitted = fit(trainee, settings, kept, reports / "training" / "two_tower")
    best = fitted.history[fitted.best_epoch - 1]
    trained = folder.TwoTowerModel(
        model=trainee.model,
        tower=TowerSettings(**{name: getattr(settings, name) for name in TowerSettings.model_fields}),
        actions=log.actions,
        codes=trainee.codes,
        users=log.num_users,
        lineage=log.lineage(),
        data=data,
        trained_until=split.t_validation,
        validation={name.removeprefix("validation/"): v for name, v in best.items() if name.startswith("validation/")},
    )
    if fitted.main:
        folder.save(models / "two_tower", trained)
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
