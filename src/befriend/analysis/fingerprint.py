"""Fingerprint of the inputs of an evaluation: a digest of the prepared log and of the models that it measures."""

from __future__ import annotations

from pathlib import Path

from befriend import artifacts

PREPARED_FILES = ("events.parquet", "users.parquet", "attributes.parquet", "split.json")
MEASURED_MODELS = ("text", "tokens", "two_tower", "stu", "ranker")


def run_fingerprint(prepared: Path, models: Path) -> str:
    """SHA-256, in hexadecimal, over the names and digests of PREPARED_FILES and of all files in MEASURED_MODELS."""
    paths = [prepared / name for name in PREPARED_FILES]
    model_files = artifacts.files_in(*(models / name for name in MEASURED_MODELS))
    return artifacts.fingerprint(prepared, paths, artifacts.fingerprint(models, model_files))
