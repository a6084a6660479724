"""Small projects that tests share: simulated logs, and small models trained on them.

A project that several test modules read is made once for all workers of a test run, and copied for each module.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import polars as pl
import pytest

from befriend.analysis.evaluate_settings import EvaluateSettings
from befriend.config import Params
from befriend.data.columns import ACTION, EVENT_FIELDS, REASON, TIMESTAMP
from befriend.objectives.cluster_settings import ClusterSettings
from befriend.objectives.objective_settings import StuSettings, TwoTowerSettings
from befriend.readers.data_settings import DataSettings
from befriend.report.report_settings import ReportSettings
from befriend.retrieval.ranker_settings import RankerSettings
from befriend.simulate.network import write
from befriend.simulate.network_settings import SimulateSettings
from befriend.stages import cluster, embed_text, evaluate, tokenize, train_ranker, train_stu, train_two_tower, validate
from befriend.stages.run_record import record_run
from befriend.stages.train_stage import TrainResult
from befriend.text.text_settings import EmbedTextSettings
from befriend.tokens.token_settings import TokenizeSettings
from befriend.validation.expectations import RuleResult, profile_rules
from befriend.validation.log_profile import LogProfile
from befriend.validation.validate_settings import ValidateSettings
from befriend.validation.validation_report import markdown

SMALL: dict[str, Any] = {
    "embedding_dim": 8,
    "hidden_dim": 16,
    "history_length": 10,
    "temporal_positions": 5,
    "positions_per_batch": 256,
    "recent_events": 4,
    "history_candidates": 4,
    "epochs": 1,
    "regimes": ["streaming", "daily"],
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
PARAMS = Params(
    data=DataSettings(roles={"view": "signal", "block": "exclude"}),
    evaluate=EvaluateSettings(events=40, bootstrap=100, served=7),
    cluster=ClusterSettings(epochs=2, clusters=8, events_per_batch=128, validation_events=50, threads=1),
    report=ReportSettings(examples=2, people=3),
)


def validate_log(
    data_settings: DataSettings, settings: ValidateSettings, source: Path, prepared: Path, reports: Path
) -> validate.ValidateResult:
    """Stage validate without Great Expectations and the figure, which take seconds and have their own tests."""
    return validate.run(data_settings, settings, source, prepared, reports, check_with_polars, write_markdown)


def check_with_polars(
    raw_rows: pl.DataFrame,
    values: dict[str, float],
    data_settings: DataSettings,
    settings: ValidateSettings,
    docs: Path,
) -> list[RuleResult]:
    """As `check_log`, but without Data Docs. test_expectations.py compares both functions."""
    docs.mkdir()
    results = []
    for rule in profile_rules(settings):
        if rule.name in values:
            low, high = rule.minimum, rule.maximum
            value = values[rule.name]
            results.append(rule.result(value, (low is None or value >= low) and (high is None or value <= high)))
    has_columns = set(raw_rows.columns) == {*EVENT_FIELDS, REASON}
    advice = "See the Data Docs for examples."
    results.append(RuleResult("rows: columns", "critical", has_columns, None, "all columns", advice))
    timestamp = pl.col(TIMESTAMP)
    failing = {f"{field} is there": pl.col(field).is_null() for field in EVENT_FIELDS}
    too_late = False if settings.latest_second is None else timestamp > settings.latest_second
    failing["timestamp in range"] = (timestamp < 0) | too_late
    failing["no reason to refuse"] = pl.col(REASON).is_not_null()
    if data_settings.actions is not None:
        failing["action is listed"] = ~pl.col(ACTION).is_in(data_settings.actions)
    limit = f"at most {round(settings.max_rejected, 6)} of the rows may fail"
    for name, expression in failing.items():
        share = raw_rows.select(expression).to_series().drop_nulls().mean()
        assert share is None or isinstance(share, float)
        passed = share is None or share <= settings.max_rejected
        observed = None if share is None else round(share, 6)
        results.append(RuleResult(f"rows: {name}", "warning", passed, observed, limit, advice))
    return results


def write_markdown(folder: Path, profile: LogProfile, results: list[RuleResult], stride: int) -> None:
    """As `write_report`, without the figure."""
    months = profile.by_month.group_by("month").agg(pl.col("events").sum()).sort("month")
    months.write_csv(folder / "events_by_month.csv")
    (folder / "report.md").write_text(markdown(profile.metrics, results, stride))


def prepare(root: Path, users: int, events: int, texts: float = 0.0) -> None:
    """Simulates a log into root/log and validates it. texts: mean number of texts per user."""
    write(SimulateSettings(users=users, events=events, seed=1, texts=texts), root / "log")
    side_tables: dict[str, Any] = {}
    if texts:
        side_tables = {"texts": {"file": "texts.parquet", "platform": "platform"}}
        side_tables["statements"] = {"file": "statements.parquet"}
        (root / "log" / "truth.parquet").rename(root / "truth.parquet")
    data = DataSettings(roles={"view": "signal", "block": "exclude"}, **side_tables)
    source = root / "log" if texts else root / "log" / "events.parquet"
    validate_log(data, ValidateSettings(), source, root / "prepared", root / "reports")
    embed(root)


def embed(root: Path, **options: Any) -> None:
    """Runs stage embed_text with a tiny encoder on the log prepared in a folder."""
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


def train_everything(root: Path) -> None:
    """Trains all models that evaluation needs."""
    train(root)
    train_tokens(root)
    settings = RankerSettings(events=100, trees=10, threads=1)
    train_ranker.run(settings, root / "prepared", root / "models")


def make_trained(root: Path) -> None:
    prepare(root, users=120, events=3000)
    train_everything(root)


def make_trained_with_texts(root: Path) -> None:
    prepare(root, users=80, events=1500, texts=2.0)
    train_everything(root)


def make_evaluated(root: Path, trained: Path) -> None:
    shutil.copytree(trained, root, dirs_exist_ok=True)
    folders = root / "prepared", root / "models", root / "reports"
    with patch("befriend.analysis.latency.MAX_LISTS", 10):
        record_run("evaluate", root / "runs", lambda: evaluate.run(PARAMS.evaluate, *folders))
    cluster.run(PARAMS.cluster, *folders, root / ".checkpoints")


def shared(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """The folder of a project that tests only read. The first worker that needs it makes it; the others wait."""
    base = factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / name
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            unfinished = folder.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(folder)
    return folder
