"""A project without trained models, whose files suffice for everything that a command checks before it loads models."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from befriend import files, layout


def make_project(root: Path) -> Path:
    """Writes settings, a prepared log of the users 10 to 19, and empty folders in the place of models."""
    root.mkdir()
    (root / "params.yaml").write_text("evaluate: {events: 500}\n")
    (root / "dvc.yaml").write_text("stages: {}\n")
    prepared = root / layout.PREPARED
    for folder in (prepared, root / layout.DATA):
        folder.mkdir()
    events = {
        "timestamp": [1_700_000_000, 1_700_086_400],
        "actor_id": [0, 1],
        "target_id": [1, 2],
        "action": ["message", "block"],
        "role": ["contact", "exclude"],
    }
    schema = {"action": pl.Enum(["block", "message"]), "role": pl.Enum(["contact", "signal", "exclude"])}
    pl.DataFrame(events, schema_overrides=schema).write_parquet(prepared / "events.parquet")
    pl.DataFrame({"user": range(10), "user_id": range(10, 20)}).write_parquet(prepared / "users.parquet")
    pl.DataFrame({"user": range(10)}).write_parquet(prepared / "attributes.parquet")
    pl.DataFrame({"user": [3], "timestamp": [5], "text": ["Rook endgames"]}).write_parquet(prepared / "texts.parquet")
    for folder in layout.MODEL_FOLDERS:
        (root / folder).mkdir(parents=True)
    files.write_json(root / layout.TEXT / "text_vectors.json", {"users": 10, "width": 4, "lineage": ""})
    stus = {"user_id": range(10, 20), "token_0": range(10), "token_1": range(10)}
    pl.DataFrame(stus).write_parquet(root / layout.TOKENS / "table.parquet")
    files.write_json(root / layout.VALIDATION, _VALIDATION)
    files.write_json(root / layout.METRICS, {})
    (root / layout.REPORT_PAGE).parent.mkdir(parents=True)
    (root / layout.REPORT_PAGE).touch()
    return root


_VALIDATION = {
    "users": 10,
    "rows": {"events": 2, "read": 2, "rejected": 0, "self_loops": 0},
    "time": {"days": 1.0, "first": 1_700_000_000, "last": 1_700_086_400},
}
