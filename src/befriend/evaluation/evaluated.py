"""What an evaluation is of: the prepared log and the models whose lists it measured."""

from __future__ import annotations

import hashlib
from pathlib import Path

from befriend import files

PREPARED = ("events.parquet", "users.parquet", "attributes.parquet", "split.json")
MODELS = ("text", "tokens", "two_tower", "stu", "ranker")


def evaluated(prepared: Path, models: Path) -> str:
    """A digest of them."""
    paths = [prepared / name for name in PREPARED]
    paths += [path for name in MODELS for path in sorted((models / name).glob("*")) if path.is_file()]
    told = [f"{path.parent.name}/{path.name} {files.sha256(path)}" for path in paths]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()
