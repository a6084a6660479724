"""Fingerprint of the inputs of an evaluation: the prepared log, and the models whose lists it measures."""

from __future__ import annotations

from pathlib import Path

from befriend import artifacts

PREPARED = ("events.parquet", "users.parquet", "attributes.parquet", "split.json")
MODELS = ("text", "tokens", "two_tower", "stu", "ranker")


def run_fingerprint(prepared: Path, models: Path) -> str:
    """SHA-256 over the names and digests of these files, in hexadecimal."""
    paths = [prepared / name for name in PREPARED]
    return artifacts.fingerprint(
        prepared, paths, artifacts.fingerprint(models, artifacts.files_in(*(models / name for name in MODELS)))
    )
