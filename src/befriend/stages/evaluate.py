"""Stage evaluate: every model and baseline ranks users for held-out events; the lists are written and measured."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from befriend import files, layout
from befriend.analysis.calibration import calibration
from befriend.analysis.cold_start import value_of_cold_targets
from befriend.analysis.decoding_quality import decoding_quality
from befriend.analysis.evaluate_settings import EvaluateSettings
from befriend.analysis.evaluation_report import headline, write_report
from befriend.analysis.fingerprint import run_fingerprint
from befriend.analysis.latency import latency
from befriend.analysis.measure import compute_metrics, predictions
from befriend.analysis.parity import count_differing
from befriend.api import Befriend
from befriend.data.event_log import EventLog
from befriend.data.regimes import Regime
from befriend.data.split import read_split
from befriend.evaluation.protocol import EvalQueries, make_eval_queries, make_requests
from befriend.evaluation.run_rankers import EVENTS_PER_BATCH, RegimeLists, run_rankers
from befriend.recommendation import list_writer as batch
from befriend.recommendation.recommend_options import ModelName, RecommendOptions
from befriend.recommendation.request_table import read_requests
from befriend.retrieval.loaded_models import LoadedModels
from befriend.retrieval.ranker import MODELS as TOWERS
from befriend.retrieval.ranker import read_boosters
from befriend.retrieval.requests import LIST_DEPTH

MODELS = (*TOWERS, "both")
SHOWN_FILE, CALIBRATION_FILE = "shown.csv", "calibration.csv"


@dataclass(frozen=True)
class EvaluateResult:
    events: int
    best: dict[str, str]
    """regime -> the best model on list new"""
    measurements: dict[str, Any]
    """what differs from run to run; latency: milliseconds by model and percentile"""

    def summary(self) -> str:
        return f"{self.events:,} events; best on list new: " + ", ".join(f"{r} {m}" for r, m in self.best.items())


def run(settings: EvaluateSettings, prepared: Path, models: Path, reports: Path) -> EvaluateResult:
    """Reads the prepared log and the models.

    Writes metrics.json, calibration.json, stu.json, evaluation/ and predictions/<model>/.
    """
    log = EventLog.read(prepared)
    split = read_split(prepared, log)
    loaded, boosters = LoadedModels.load(prepared, models, log), read_boosters(models / "ranker")
    queries_by_regime = {
        r: make_eval_queries(log, split, settings.part, settings.events, r, loaded.eligible_since)
        for r in settings.regimes
    }
    histories, recommender = loaded.activity.histories, loaded.recommender(boosters)

    lists = run_rankers(recommender, log, histories, queries_by_regime, recommender.names, "evaluate")
    metrics: dict[str, Any] = {}
    tables: dict[str, list[pl.DataFrame]] = {}
    with files.atomic(reports / "predictions") as predictions_folder:
        for regime, queries in queries_by_regime.items():
            protocol, served = lists.protocol[regime], lists.served[regime]
            for name, model_lists in protocol.items():
                (predictions_folder / name).mkdir(parents=True, exist_ok=True)
                predictions(log, queries, model_lists).write_parquet(
                    predictions_folder / name / f"{regime}.parquet", compression="zstd"
                )
            measured = compute_metrics(log, histories, split, queries, protocol, served, settings)
            metrics[regime] = measured.metrics
            regime_tables = {"slices": measured.slices, "exposure": measured.exposure, "shown": measured.shown}
            regime_tables["cold_start"] = value_of_cold_targets(log, queries, protocol, served, settings)
            for name, table in regime_tables.items():
                tables.setdefault(name, []).append(table.select(pl.lit(regime).alias("regime"), pl.all()))
    calibration_metrics, bins = calibration(log, histories, queries_by_regime, recommender)
    joined = {name: pl.concat(table_list) for name, table_list in tables.items()}
    with files.atomic(reports / "evaluation") as folder:
        folder.mkdir()
        write_report(folder, metrics, joined["slices"], joined["exposure"], joined["cold_start"], settings)
        joined["shown"].write_csv(folder / SHOWN_FILE)
        files.write_json(folder / layout.FINGERPRINT.name, {"of": run_fingerprint(prepared, models)})
        bins.write_csv(folder / CALIBRATION_FILE)
    metrics["served"] = _compare_served(settings, prepared, models, log, queries_by_regime, lists.served)
    files.write_json(reports / "metrics.json", metrics)
    files.write_json(reports / "calibration.json", calibration_metrics)
    beam = loaded.retrievers(approximate=True)[1]
    decoding_metrics = {}
    for regime, queries in queries_by_regime.items():
        requests = make_requests(log, histories, {regime: queries}, EVENTS_PER_BATCH)
        with_events = ((request, events) for request, events, _ in requests)
        decoding_metrics[regime] = decoding_quality(log, with_events, recommender, beam, settings.seed)
    files.write_json(reports / "stu.json", decoding_metrics)
    top = headline(metrics).filter(list="new").group_by("regime", maintain_order=True).agg(pl.col("model").first())
    events = max(len(queries.events) for queries in queries_by_regime.values())
    request, _, _ = next(iter(make_requests(log, histories, queries_by_regime, EVENTS_PER_BATCH)))
    milliseconds = latency(recommender, request, MODELS)
    return EvaluateResult(events, dict(top.iter_rows()), {"latency": milliseconds})


def _compare_served(
    settings: EvaluateSettings,
    prepared: Path,
    models: Path,
    log: EventLog,
    queries_by_regime: dict[Regime, EvalQueries],
    measured: RegimeLists,
) -> dict[str, int]:
    """Repeats some of the requests through the API and as a file of requests, and counts the lists that differ."""
    people = Befriend(models.parent, prepared=prepared)

    def by_api(requests: pl.DataFrame, model: ModelName) -> pl.DataFrame:
        return people.answer(requests, RecommendOptions(model, LIST_DEPTH))

    def by_file(requests: pl.DataFrame, model: ModelName) -> pl.DataFrame:
        with tempfile.TemporaryDirectory() as name:
            file, lists = Path(name) / "requests.parquet", Path(name) / "lists.parquet"
            requests.write_parquet(file)
            batch.write_lists(people.lists(RecommendOptions(model, LIST_DEPTH)), read_requests(file), lists, digest="0")
            return pl.read_parquet(lists)

    interfaces: list[Any] = [by_api, by_file]
    return count_differing(log, queries_by_regime, measured, interfaces, MODELS, settings.served, settings.seed)
