"""Stage evaluate: every model and baseline ranks people for held-out events; the lists are kept and measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from lightgbm import Booster

from befriend import files, layout
from befriend.config import EvaluateSettings
from befriend.data.log import EventLog
from befriend.data.split import read_split
from befriend.evaluation.calibration import calibration
from befriend.evaluation.decoding import decoding
from befriend.evaluation.evaluated import evaluated
from befriend.evaluation.latency import latency
from befriend.evaluation.measure import measure, predictions
from befriend.evaluation.protocol import Questions, ask, requests, requests_and_events
from befriend.evaluation.ranked import EVENTS_AT_ONCE, ranked
from befriend.evaluation.regimes import Regime
from befriend.evaluation.report import headline, write_report
from befriend.retrieval.models import Models
from befriend.retrieval.ranker import read_boosters
from befriend.retrieval.recommend import Lister
from befriend.retrieval.stu import StuRanker

SHOWN_FILE, CALIBRATION_FILE = "shown.csv", "calibration.csv"


@dataclass(frozen=True)
class EvaluateResult:
    events: int
    best: dict[str, str]
    """regime -> the best model on list new"""
    measurements: dict[str, Any]
    """latency: milliseconds by model and percentile"""

    def summary(self) -> str:
        return f"{self.events:,} events; best on list new: " + ", ".join(f"{r} {m}" for r, m in self.best.items())


def run(settings: EvaluateSettings, prepared: Path, models: Path, reports: Path) -> EvaluateResult:
    """Reads the prepared log and the models.

    Writes metrics.json, calibration.json, stu.json, evaluation/ and predictions/<model>/.
    """
    log = EventLog.read(prepared)
    split = read_split(prepared, log)
    asked = {r: ask(log, split, settings.part, settings.events, r) for r in settings.regimes}
    loaded, boosters = Models.read(prepared, models, log), read_boosters(models / "ranker")
    histories = loaded.activity.histories

    lists = ranked(log, histories, asked, lambda: [loaded.ranked(boosters)], "evaluate")
    metrics: dict[str, Any] = {}
    calibrated: dict[str, Any] = {}
    tables: dict[str, list[pl.DataFrame]] = {}
    with files.atomic(reports / "predictions") as kept:
        for regime, questions in asked.items():
            for name, made in lists[regime].items():
                (kept / name).mkdir(parents=True, exist_ok=True)
                predictions(log, questions, made).write_parquet(kept / name / f"{regime}.parquet", compression="zstd")
            measured = measure(log, histories, split, questions, lists[regime], settings)
            metrics[regime] = measured.metrics
            calibrated[regime], bins = calibration(log, histories, questions, regime, loaded.rankers(width=None))
            found = {"slices": measured.slices, "exposure": measured.exposure, "shown": measured.shown, "bins": bins}
            for name, table in found.items():
                tables.setdefault(name, []).append(table.select(pl.lit(regime).alias("regime"), pl.all()))
    told = {name: pl.concat(parts) for name, parts in tables.items()}
    with files.atomic(reports / "evaluation") as folder:
        folder.mkdir()
        write_report(folder, metrics, told["slices"], told["exposure"], settings)
        told["shown"].write_csv(folder / SHOWN_FILE)
        files.write_json(folder / layout.EVALUATED.name, {"of": evaluated(prepared, models)})
        told["bins"].write_csv(folder / CALIBRATION_FILE)
    files.write_json(reports / "metrics.json", metrics)
    files.write_json(reports / "calibration.json", calibrated)
    files.write_json(reports / "stu.json", {r: _decoding(log, loaded, q, r, settings) for r, q in asked.items()})
    top = headline(metrics).filter(list="new").group_by("regime", maintain_order=True).agg(pl.col("model").first())
    events = max(len(questions.events) for questions in asked.values())
    return EvaluateResult(events, dict(top.iter_rows()), {"latency": _latency(log, loaded, boosters, asked)})


def _latency(
    log: EventLog, loaded: Models, boosters: dict[str, Booster], asked: dict[Regime, Questions]
) -> dict[str, dict[str, float]]:
    regime, questions = next(iter(asked.items()))
    request = next(iter(requests(log, loaded.activity.histories, questions, regime, EVENTS_AT_ONCE)))
    two_tower, stu = loaded.rankers()
    listers: dict[str, Lister] = {"two-tower": two_tower, "stu": stu, "both": loaded.ranked(boosters)}
    return latency(listers, request)


def _decoding(
    log: EventLog, loaded: Models, questions: Questions, regime: Regime, settings: EvaluateSettings
) -> dict[str, Any]:
    beam, everyone = loaded.rankers()[1], loaded.rankers(width=None)[1]
    assert isinstance(beam, StuRanker) and isinstance(everyone, StuRanker)

    asked = requests_and_events(log, loaded.activity.histories, questions, regime, EVENTS_AT_ONCE)
    return decoding(log, asked, beam, everyone, settings.seed)
