"""A small two-tower model for the stages that need one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from befriend.models.settings import TwoTowerSettings
from befriend.stages import train_two_tower

SMALL: dict[str, Any] = {
    "embedding_dim": 8,
    "hidden_dim": 16,
    "history_length": 10,
    "temporal_positions": 5,
    "recent_events": 4,
    "own_contacts": 4,
    "epochs": 1,
    "validation_events": 20,
    "threads": 1,
}


def train(root: Path, **options: Any) -> train_two_tower.TrainResult:
    """Trains a small model on the log prepared in a folder."""
    settings = TwoTowerSettings(**SMALL | options)
    return train_two_tower.run(settings, root / "prepared", root / "models", root / "reports", root / ".checkpoints")
