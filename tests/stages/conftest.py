"""A small simulated log and a small two-tower model, for the stages that need them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from befriend.config import DataSettings, RankerSettings, ValidateSettings
from befriend.data.simulate import write
from befriend.data.traits import SimulateSettings
from befriend.models.settings import StuSettings, TwoTowerSettings
from befriend.stages import embed_text, tokenize, train_ranker, train_stu, train_two_tower, validate
from befriend.stages.training import TrainResult
from befriend.text.settings import EmbedTextSettings
from befriend.tokens.settings import TokenizeSettings

SMALL: dict[str, Any] = {
    "embedding_dim": 8,
    "hidden_dim": 16,
    "history_length": 10,
    "temporal_positions": 5,
    "positions_per_batch": 256,
    "recent_events": 4,
    "own_contacts": 4,
    "epochs": 1,
    "validation_events": 20,
    "threads": 1,
}


TINY_TOWERS: dict[str, Any] = {
    "user_model_name": "random",
    "item_model_name": "random",
    "embedding_dim": 8,
    "num_epochs": 1,
    "threads": 1,
}


def prepare(root: Path, users: int, events: int, texts: float = 0.0) -> None:
    """Simulates a log into root/log and validates it. texts: a user, on average."""
    write(SimulateSettings(users=users, events=events, seed=1, texts=texts), root / "log")
    beside: dict[str, Any] = {}
    if texts:
        beside = {"texts": {"file": "texts.parquet", "platform": "platform"}}
        beside["statements"] = {"file": "statements.parquet"}
        (root / "log" / "truth.parquet").rename(root / "truth.parquet")
    data = DataSettings(roles={"view": "signal", "block": "exclude"}, **beside)
    source = root / "log" if texts else root / "log" / "events.parquet"
    validate.run(data, ValidateSettings(), source, root / "prepared", root / "reports")
    embed(root)


def embed(root: Path, **options: Any) -> None:
    """Makes vectors of the texts of the log prepared in a folder, by a tiny encoder; an empty table without texts."""
    settings = EmbedTextSettings(**TINY_TOWERS | options)
    folders = root / "prepared", root / "models", root / "reports", root / ".checkpoints", root / ".cache"
    embed_text.run(settings, *folders)


def train(root: Path, **options: Any) -> TrainResult:
    """Trains a small two-tower model on the log prepared in a folder."""
    if not (root / "models" / "text").is_dir():
        embed(root)
    settings = TwoTowerSettings(**SMALL | options)
    return train_two_tower.run(settings, root / "prepared", root / "models", root / "reports", root / ".checkpoints")


def train_tokens(root: Path, **options: Any) -> TrainResult:
    """Makes the tokens of the log prepared in a folder, and trains a small STU model on them."""
    folders = root / "prepared", root / "models", root / "reports", root / ".checkpoints"
    tokenize.run(TokenizeSettings(dimensions=8, threads=1), *folders)
    return train_stu.run(StuSettings(**SMALL | options), *folders)


def small_project(root: Path, texts: float = 0.0) -> Path:
    """A log of 80 users, and all models trained on it. texts: a user, on average."""
    prepare(root, 80, 1500, texts)
    train_everything(root)
    return root


def train_everything(root: Path) -> None:
    """All that evaluation needs."""
    train(root)
    train_tokens(root)
    settings = RankerSettings(events=100, trees=10, threads=1)
    train_ranker.run(settings, root / "prepared", root / "models")
