"""Stage evaluate: all models and heuristics rank users for held-out events; writes their lists and metrics."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from befriend import files, layout
from befriend.analysis.calibration import measure_calibration
from befriend.analysis.cold_start import measure_cold_start_gain
from befriend.analysis.decoding_quality import measure_decoding_quality
from befriend.analysis.evaluate_settings import EvaluateSettings
from befriend.analysis.evaluation_report import write_report
from befriend.analysis.fingerprint import run_fingerprint
from befriend.analysis.latency import measure_latency
from befriend.analysis.measure import ALL_NEW, compute_metrics, measure_first_contacts, predictions_table
from befriend.analysis.metric_tables import headline
from befriend.analysis.parity import count_differing_lists
from befriend.api import Befriend
from befriend.data.event_log import EventLog
from befriend.data.regimes import Regime
from befriend.data.split import read_split
from befriend.evaluation.protocol import EvalQueries, make_eval_queries, make_requests
from befriend.evaluation.run_rankers import EVENTS_PER_BATCH, RegimeLists, run_rankers
from befriend.parallel import parallel_map
from befriend.recommendation.list_writer import write_lists
from befriend.recommendation.recommend_options import ModelName, RecommendOptions
from befriend.recommendation.request_table import read_requests
from befriend.retrieval.loaded_models import LoadedModels
from befriend.retrieval.ranker import MODELS as RETRIEVAL_MODELS
from befriend.retrieval.ranker import Rankers
from befriend.retrieval.recommender import Recommender
from befriend.retrieval.requests import LIST_DEPTH

MODELS = (*RETRIEVAL_MODELS, "both")
SHOWN_FILE, CALIBRATION_FILE = "shown.csv", "calibration.csv"


@dataclass(frozen=True)
class EvaluateResult:
    num_events: int
    best_models: dict[str, str]
    """regime -> the model, ranker or heuristic with the highest NDCG@10 on list new"""
    measurements: dict[str, Any]
    """what differs from run to run: `latency`, milliseconds by model and percentile"""

    def summary(self) -> str:
        best_models = ", ".join(f"{regime} {model}" for regime, model in self.best_models.items())
        return f"{self.num_events:,} events; best on list new: {best_models}"


def run(settings: EvaluateSettings, prepared: Path, models: Path, reports: Path) -> EvaluateResult:
    """Reads the prepared log from `prepared` and the models from `models`.

    Writes metrics.json, calibration.json, stu.json, evaluation/ and predictions/<model>/ to `reports`.
    """
    log = EventLog.read(prepared)
    split = read_split(prepared, log)
    loaded, rankers = LoadedModels.load(prepared, models, log), Rankers.read(models / "ranker")
    all_queries = {
        r: make_eval_queries(
            log, split, settings.part, settings.events, r, loaded.eligible_since, settings.first_contacts
        )
        for r in settings.regimes
    }
    histories, recommender = loaded.activity.histories, loaded.recommender(rankers)

    all_lists = run_rankers(recommender, log, histories, all_queries, recommender.names, "evaluate")
    queries_by_regime, lists = all_lists.sample(all_queries)
    metrics: dict[str, Any] = {}
    tables: dict[str, list[pl.DataFrame]] = {}
    with files.atomic(reports / "predictions") as predictions_folder:
        for regime, queries in queries_by_regime.items():
            # The same lists without and with cold-start users, who have texts but no event.
            protocol, served = lists.protocol[regime], lists.served[regime]
            for name, model_lists in protocol.items():
                (predictions_folder / name).mkdir(parents=True, exist_ok=True)
                predictions_table(log, queries, model_lists).write_parquet(
                    predictions_folder / name / f"{regime}.parquet", compression="zstd"
                )
            regime_metrics = compute_metrics(log, histories, split, queries, protocol, served, settings)
            if first_contacts := measure_first_contacts(log, all_queries[regime], all_lists.protocol[regime], settings):
                regime_metrics.metrics.setdefault("new", {})[ALL_NEW] = first_contacts
            metrics[regime] = regime_metrics.metrics
            regime_tables = {
                "slices": regime_metrics.slices,
                "exposure": regime_metrics.exposure,
                "shown": regime_metrics.exposure_by_group,
                "cold_start": measure_cold_start_gain(log, queries, protocol, served, settings),
            }
            for name, table in regime_tables.items():
                tables.setdefault(name, []).append(table.select(pl.lit(regime).alias("regime"), pl.all()))
    calibration_metrics, reliability = measure_calibration(log, histories, queries_by_regime, recommender)
    all_regimes = {name: pl.concat(table_list) for name, table_list in tables.items()}
    with files.atomic(reports / "evaluation") as folder:
        folder.mkdir()
        slices, exposure, cold_start = (all_regimes[name] for name in ("slices", "exposure", "cold_start"))
        write_report(folder, metrics, slices, exposure, cold_start, settings)
        all_regimes["shown"].write_csv(folder / SHOWN_FILE)
        files.write_json(folder / layout.FINGERPRINT.name, {"of": run_fingerprint(prepared, models)})
        reliability.write_csv(folder / CALIBRATION_FILE)
    metrics["sources"] = rankers.served_sources
    metrics["served"] = _check_parity(settings, prepared, models, log, queries_by_regime, lists.served)
    files.write_json(reports / "metrics.json", metrics)
    files.write_json(reports / "calibration.json", calibration_metrics)
    files.write_json(reports / "stu.json", _measure_decoding(loaded, recommender, queries_by_regime, settings.seed))
    best = headline(metrics).filter(list="new").group_by("regime", maintain_order=True).agg(pl.col("model").first())
    num_events = max(len(queries.events) for queries in queries_by_regime.values())
    request, _, _ = next(iter(make_requests(log, histories, queries_by_regime, EVENTS_PER_BATCH)))
    latency = measure_latency(recommender, request, MODELS)
    return EvaluateResult(num_events, dict(best.iter_rows()), {"latency": latency})


def _measure_decoding(
    loaded: LoadedModels, recommender: Recommender, queries_by_regime: dict[Regime, EvalQueries], seed: int
) -> dict[Regime, dict[str, Any]]:
    """regime -> decoding quality of the STU model."""
    log, histories = loaded.feature_view.log, loaded.activity.histories
    _, beam_retriever = loaded.retrievers(approximate=True)

    def measure(regime: Regime) -> dict[str, Any]:
        requests = make_requests(log, histories, {regime: queries_by_regime[regime]}, EVENTS_PER_BATCH)
        with_events = ((request, events) for request, events, _ in requests)
        return measure_decoding_quality(log, with_events, recommender, beam_retriever, seed)

    return dict(zip(queries_by_regime, parallel_map(measure, list(queries_by_regime)), strict=True))


def _check_parity(
    settings: EvaluateSettings,
    prepared: Path,
    models: Path,
    log: EventLog,
    queries_by_regime: dict[Regime, EvalQueries],
    evaluated_lists: RegimeLists,
) -> dict[str, int]:
    """Repeats some requests through the API and as a file of requests, and counts the lists that differ."""
    api = Befriend(models.parent, prepared=prepared)

    def by_api(requests: pl.DataFrame, model: ModelName) -> pl.DataFrame:
        return api.recommend_requests(requests, RecommendOptions(model, LIST_DEPTH))

    def by_file(requests: pl.DataFrame, model: ModelName) -> pl.DataFrame:
        with tempfile.TemporaryDirectory() as name:
            file, lists = Path(name) / "requests.parquet", Path(name) / "lists.parquet"
            requests.write_parquet(file)
            write_lists(api.list_maker(RecommendOptions(model, LIST_DEPTH)), read_requests(file), lists, digest="0")
            return pl.read_parquet(lists)

    interfaces: list[Any] = [by_api, by_file]
    return count_differing_lists(
        log, queries_by_regime, evaluated_lists, interfaces, MODELS, settings.served, settings.seed
    )
