"""Stage embed_text: a vector for every user at every moment, of what they wrote until then; empty without texts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from befriend import files
from befriend.data.columns import CONTEXT, PLATFORM, STATEMENT, TEXT, TIMESTAMP, USER
from befriend.data.contracts import STATEMENTS, TEXTS, read_table
from befriend.data.log import STATEMENTS_FILE, TEXTS_FILE, EventLog
from befriend.data.split import read_split
from befriend.text.settings import EmbedTextSettings

REPORT, TOWERS, INFERENCE = "report.md", "towers", "inference.json"


@dataclass(frozen=True)
class EmbedTextResult:
    texts: int
    users: int
    figures: dict[str, Any] = field(default_factory=dict)

    def summary(self) -> str:
        if not self.texts:
            return "the log has no texts; an empty table"
        found = ", ".join(f"{name} {value:.3f}" for name, value in self.figures["validation"].items())
        return f"{self.texts:,} texts of {self.users:,} users; mean reciprocal ranks on validation: {found}"


def run(
    settings: EmbedTextSettings, prepared: Path, models: Path, reports: Path, checkpoints: Path, cache: Path
) -> EmbedTextResult:
    """Reads texts and statements; writes the folder text to `models`, text.json and text/ to `reports`.

    The towers learn from what was written before the validation part begins. cache: of what a frozen encoder has read.
    """
    log = EventLog.read(prepared)
    texts = read_table(prepared / TEXTS_FILE, TEXTS)
    if not texts.height:
        return _nothing(log, models, reports)
    # torch and the encoders are slow to import, and most logs have no texts
    from befriend.training.reproducible import limited

    with limited(settings.threads):
        return _run(settings, log, texts, prepared, models, reports, checkpoints, cache)


def _nothing(log: EventLog, models: Path, reports: Path) -> EmbedTextResult:
    from befriend.data.texts import TextVectors

    with files.atomic(models / "text") as new:
        new.mkdir(parents=True)
        TextVectors.none(log.num_users).save(new, log)
    with files.atomic(reports / "text") as drawn:
        drawn.mkdir(parents=True)
        files.write_text(drawn / REPORT, "# Texts\n\nThe log has none. data.texts in params.yaml names a table.\n")
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
    from befriend.text.moments import embedded, posts_of, users_before
    from befriend.text.trainer import UniversalUserEmbeddingTrainer

    config, until = settings.model_config_of(), read_split(prepared, log).t_validation
    posts = posts_of(texts[USER].to_numpy(), texts[TIMESTAMP], texts[PLATFORM], texts[TEXT], config)
    told = read_table(prepared / STATEMENTS_FILE, STATEMENTS)
    told = told.filter(pl.col(TIMESTAMP).is_null() | (pl.col(TIMESTAMP) < until))
    said = list(zip(told[USER].to_list(), told[STATEMENT].to_list(), told[CONTEXT].to_list(), strict=True))
    users = users_before(posts, said, until, config)
    chosen = np.random.default_rng(settings.seed).random(len(users)) < settings.validation_share
    learned, held = ([user for user, out in zip(users, chosen, strict=True) if out == side] for side in (False, True))
    if not learned:
        learned, held = users, []
    with files.atomic(models / "text") as new, files.atomic(reports / "text") as drawn:
        new.mkdir(parents=True)
        drawn.mkdir(parents=True)
        kept = checkpoints / "embed_text"
        trainer = UniversalUserEmbeddingTrainer(
            config, learned, held, output=new / TOWERS, checkpoints=kept, cache=cache
        )
        begun = trainer.trainee.validate()
        fitted = trainer.train(drawn / "training")
        if fitted is not None and not fitted.main:  # one of several processes: the first writes
            raise SystemExit(0)
        vectors = embedded(trainer, posts, log.num_users)
        vectors.save(new, log)
        figures: dict[str, Any] = {
            "texts": texts.height,
            "users": int(texts[USER].n_unique()),
            "statements": trainer.trainee.learnable,
            "vectors": len(vectors.vectors),
            "learned_from": len(learned),
            "epoch": fitted.best_epoch if fitted else 0,
            "begun": rounded(begun),
            "validation": rounded(trainer.trainee.validate()),
        }
        files.write_json(new / INFERENCE, {"threshold": trainer.threshold()})
        files.write_text(drawn / REPORT, report(figures, settings))
    files.write_json(reports / "text.json", figures)
    return EmbedTextResult(figures["texts"], figures["users"], figures)


def rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in figures.items()}


def report(figures: dict[str, Any], settings: EmbedTextSettings) -> str:
    """The metrics file, to be read."""
    lines = [
        "# Texts",
        "",
        f"{figures['texts']:,} texts of {figures['users']:,} users, {figures['vectors']:,} vectors of width "
        f"{settings.embedding_dim}: a user has a new one with the 1st, 2nd, 4th, 8th, ... text and with the first of "
        f"each day. The towers learned from {figures['learned_from']:,} users, {figures['statements']:,} statements; "
        f"epoch {figures['epoch']} was kept.",
        "",
        "Mean reciprocal ranks on users who were not learned from, before and after training:",
        "",
        "| | before | after |",
        "|---|---:|---:|",
    ]
    names = {"statements": "a user's statement, among all", "authors": "the other half of a user's texts, among all"}
    for name, label in names.items():
        if name in figures["validation"]:
            lines.append(f"| {label} | {figures['begun'][name]:.3f} | {figures['validation'][name]:.3f} |")
    return "\n".join(lines) + "\n"
