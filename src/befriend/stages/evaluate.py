"""Stage evaluate: every model and baseline ranks people for held-out events; the lists are kept and measured."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from befriend import files, layout
from befriend.api import Befriend
from befriend.config import EvaluateSettings
from befriend.data.log import EventLog
from befriend.data.split import read_split
from befriend.evaluation.calibration import calibration
from befriend.evaluation.decoding import decoding
from befriend.evaluation.evaluated import evaluated
from befriend.evaluation.findable import without_events
from befriend.evaluation.latency import latency
from befriend.evaluation.measure import measure, predictions
from befriend.evaluation.parity import differing
from befriend.evaluation.protocol import Questions, ask, requests
from befriend.evaluation.ranked import EVENTS_AT_ONCE, Lists, ranked
from befriend.evaluation.regimes import Regime
from befriend.evaluation.report import headline, write_report
from befriend.retrieval import batch
from befriend.retrieval.models import Models
from befriend.retrieval.ranker import MODELS as TOWERS
from befriend.retrieval.ranker import read_boosters
from befriend.retrieval.recommend import ModelName, RecommendOptions
from befriend.retrieval.request_table import read_requests
from befriend.retrieval.requests import DEPTH

MODELS = (*TOWERS, "both")
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
    loaded, boosters = Models.read(prepared, models, log), read_boosters(models / "ranker")
    asked = {r: ask(log, split, settings.part, settings.events, r, loaded.findable) for r in settings.regimes}
    histories, recommender = loaded.activity.histories, loaded.recommender(boosters)

    lists = ranked(recommender, log, histories, asked, recommender.names, "evaluate")
    metrics: dict[str, Any] = {}
    tables: dict[str, list[pl.DataFrame]] = {}
    with files.atomic(reports / "predictions") as kept:
        for regime, questions in asked.items():
            protocol, served = lists.protocol[regime], lists.served[regime]
            for name, made in protocol.items():
                (kept / name).mkdir(parents=True, exist_ok=True)
                predictions(log, questions, made).write_parquet(kept / name / f"{regime}.parquet", compression="zstd")
            measured = measure(log, histories, split, questions, protocol, served, settings)
            metrics[regime] = measured.metrics
            found = {"slices": measured.slices, "exposure": measured.exposure, "shown": measured.shown}
            found["findable"] = without_events(log, questions, protocol, served, settings)
            for name, table in found.items():
                tables.setdefault(name, []).append(table.select(pl.lit(regime).alias("regime"), pl.all()))
    calibrated, bins = calibration(log, histories, asked, recommender)
    joined = {name: pl.concat(parts) for name, parts in tables.items()}
    with files.atomic(reports / "evaluation") as folder:
        folder.mkdir()
        write_report(folder, metrics, joined["slices"], joined["exposure"], joined["findable"], settings)
        joined["shown"].write_csv(folder / SHOWN_FILE)
        files.write_json(folder / layout.EVALUATED.name, {"of": evaluated(prepared, models)})
        bins.write_csv(folder / CALIBRATION_FILE)
    metrics["served"] = _served(settings, prepared, models, log, asked, lists.served)
    files.write_json(reports / "metrics.json", metrics)
    files.write_json(reports / "calibration.json", calibrated)
    beam = loaded.retrievers(approximate=True)[1]
    decoded = {}
    for regime, questions in asked.items():
        some = requests(log, histories, {regime: questions}, EVENTS_AT_ONCE)
        with_events = ((request, events) for request, events, _ in some)
        decoded[regime] = decoding(log, with_events, recommender, beam, settings.seed)
    files.write_json(reports / "stu.json", decoded)
    top = headline(metrics).filter(list="new").group_by("regime", maintain_order=True).agg(pl.col("model").first())
    events = max(len(questions.events) for questions in asked.values())
    request, _, _ = next(iter(requests(log, histories, asked, EVENTS_AT_ONCE)))
    waited = latency(recommender, request, MODELS)
    return EvaluateResult(events, dict(top.iter_rows()), {"latency": waited})


def _served(
    settings: EvaluateSettings,
    prepared: Path,
    models: Path,
    log: EventLog,
    asked: dict[Regime, Questions],
    measured: Lists,
) -> dict[str, int]:
    """Some of the requests once more, through the API and as a file of requests: how many lists differ."""
    people = Befriend(models.parent, prepared=prepared)

    def by_api(requests: pl.DataFrame, model: ModelName) -> pl.DataFrame:
        return people.answer(requests, RecommendOptions(model, DEPTH))

    def by_file(requests: pl.DataFrame, model: ModelName) -> pl.DataFrame:
        with tempfile.TemporaryDirectory() as name:
            file, lists = Path(name) / "requests.parquet", Path(name) / "lists.parquet"
            requests.write_parquet(file)
            batch.write(people.lists(RecommendOptions(model, DEPTH)), read_requests(file), lists, digest="0")
            return pl.read_parquet(lists)

    ways: list[Any] = [by_api, by_file]
    return differing(log, asked, measured, ways, MODELS, settings.served, settings.seed)
