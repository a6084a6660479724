"""Stage embed_text: text vectors of every user at each point in time; an empty table if the log has no texts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from befriend import files
from befriend.data.columns import CONTEXT, PLATFORM, STATEMENT, TEXT, TIMESTAMP, USER
from befriend.data.contracts import STATEMENTS, TEXTS, read_table
from befriend.data.event_log import STATEMENTS_FILE, TEXTS_FILE, EventLog
from befriend.data.split import read_split
from befriend.text.text_settings import EmbedTextSettings

REPORT, TOWERS, INFERENCE = "report.md", "towers", "inference.json"


@dataclass(frozen=True)
class EmbedTextResult:
    num_texts: int
    num_users: int
    metrics: dict[str, Any] = field(default_factory=dict)

    def summary(self) -> str:
        if not self.num_texts:
            return "the log has no texts; wrote an empty table"
        ranks = ", ".join(f"{name} {value:.3f}" for name, value in self.metrics["validation"].items())
        return f"{self.num_texts:,} texts of {self.num_users:,} users; mean reciprocal ranks on validation: {ranks}"


def run(
    settings: EmbedTextSettings, prepared: Path, models: Path, reports: Path, checkpoints: Path, cache: Path
) -> EmbedTextResult:
    """Reads texts and statements; writes the folder text to `models`, text.json and text/ to `reports`.

    Texts and statements before the validation part train the towers. cache: folder of cached vectors of frozen
    encoders.
    """
    log = EventLog.read(prepared)
    texts = read_table(prepared / TEXTS_FILE, TEXTS)
    if not texts.height:
        return _write_empty(log, models, reports)
    # torch and the encoders are slow to import, so they are only imported for logs with texts
    from befriend.training.determinism import thread_limits

    with thread_limits(settings.threads):
        return _run(settings, log, texts, prepared, models, reports, checkpoints, cache)


def _write_empty(log: EventLog, models: Path, reports: Path) -> EmbedTextResult:
    """Writes the outputs of a log without texts."""
    from befriend.features.text_vectors import TextVectors

    with files.atomic(models / "text") as new:
        new.mkdir(parents=True)
        TextVectors.none(log.num_users).save(new, log)
    with files.atomic(reports / "text") as report_folder:
        report_folder.mkdir(parents=True)
        files.write_text(
            report_folder / REPORT, "# Texts\n\nThe log has no texts. Set data.texts in params.yaml to name a table.\n"
        )
    files.write_json(reports / "text.json", {"texts": 0, "users": 0})
    return EmbedTextResult(0, 0)


def _run(
    settings: EmbedTextSettings,
    log: EventLog,
    texts: pl.DataFrame,
    prepared: Path,
    models: Path,
    reports: Path,
    checkpoints: Path,
    cache: Path,
) -> EmbedTextResult:
    from befriend.text.text_snapshots import embed_over_time, posts_by_user, users_before
    from befriend.text.text_trainer import UniversalUserEmbeddingTrainer

    config, cutoff = settings.model_config_only(), read_split(prepared, log).t_validation
    posts = posts_by_user(texts[USER].to_numpy(), texts[TIMESTAMP], texts[PLATFORM], texts[TEXT], config)
    table = read_table(prepared / STATEMENTS_FILE, STATEMENTS)
    table = table.filter(pl.col(TIMESTAMP).is_null() | (pl.col(TIMESTAMP) < cutoff))
    statements = list(zip(table[USER].to_list(), table[STATEMENT].to_list(), table[CONTEXT].to_list(), strict=True))
    users = users_before(posts, statements, cutoff, config)
    is_validation_user = np.random.default_rng(settings.seed).random(len(users)) < settings.validation_share
    training_users, validation_users = (
        [user for user, is_validation in zip(users, is_validation_user, strict=True) if is_validation == part]
        for part in (False, True)
    )
    if not training_users:
        training_users, validation_users = users, []
    with files.atomic(models / "text") as new, files.atomic(reports / "text") as report_folder:
        new.mkdir(parents=True)
        report_folder.mkdir(parents=True)
        checkpoint = checkpoints / "embed_text"
        trainer = UniversalUserEmbeddingTrainer(
            config, training_users, validation_users, output=new / TOWERS, checkpoints=checkpoint, cache=cache
        )
        before_training = trainer.objective.validate()
        fitted = trainer.train(report_folder / "training")
        if fitted is not None and not fitted.is_main_process:  # with several processes, only the main one writes
            raise SystemExit(0)
        vectors = embed_over_time(trainer, posts, log.num_users)
        vectors.save(new, log)
        figures: dict[str, Any] = {
            "texts": texts.height,
            "users": int(texts[USER].n_unique()),
            "statements": trainer.objective.num_training_statements,
            "vectors": len(vectors.vectors),
            "learned_from": len(training_users),
            "epoch": fitted.best_epoch if fitted else 0,
            "begun": rounded(before_training),
            "validation": rounded(trainer.objective.validate()),
        }
        files.write_json(new / INFERENCE, {"threshold": trainer.threshold()})
        files.write_text(report_folder / REPORT, report(figures, settings))
    files.write_json(reports / "text.json", figures)
    return EmbedTextResult(figures["texts"], figures["users"], figures)


def rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in figures.items()}


def report(figures: dict[str, Any], settings: EmbedTextSettings) -> str:
    """The figures of text.json, as Markdown."""
    lines = [
        "# Texts",
        "",
        f"{figures['texts']:,} texts of {figures['users']:,} users, {figures['vectors']:,} vectors of width "
        f"{settings.embedding_dim}: a user gets a new vector with the 1st, 2nd, 4th, 8th, ... text and with the first "
        f"text of each day. The towers were trained on {figures['learned_from']:,} users and {figures['statements']:,} "
        f"statements; epoch {figures['epoch']} was the best.",
        "",
        "Mean reciprocal ranks on the validation users, before and after training:",
        "",
        "| | before | after |",
        "|---|---:|---:|",
    ]
    names = {"statements": "a user's statement, among all", "authors": "the other half of a user's texts, among all"}
    for name, label in names.items():
        if name in figures["validation"]:
            lines.append(f"| {label} | {figures['begun'][name]:.3f} | {figures['validation'][name]:.3f} |")
    return "\n".join(lines) + "\n"
