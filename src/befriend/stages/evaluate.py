"""Stage evaluate: every model and baseline ranks people for held-out events; the lists are kept and measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from befriend import files
from befriend.config import EvaluateSettings
from befriend.data.histories import Histories
from befriend.data.log import SPLIT_FILE, EventLog
from befriend.data.split import Split
from befriend.errors import DataError
from befriend.evaluation.baselines import Baselines
from befriend.evaluation.measure import measure, predictions
from befriend.evaluation.protocol import ask, requests
from befriend.evaluation.report import headline, write_report
from befriend.progress import track

ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class EvaluateResult:
    events: int
    best: dict[str, str]
    """regime -> the best model on list new"""

    def summary(self) -> str:
        return f"{self.events:,} events; best on list new: " + ", ".join(f"{r} {m}" for r, m in self.best.items())


def run(settings: EvaluateSettings, prepared: Path, reports: Path) -> EvaluateResult:
    """Reads the prepared log; writes metrics.json, evaluation/ and predictions/<model>/<regime>.parquet."""
    log = EventLog.read(prepared)
    split = _read_split(prepared / SPLIT_FILE, log)
    histories = Histories.of(log)
    metrics: dict[str, Any] = {}
    slices, exposure, events = [], [], 0
    with files.atomic(reports / "predictions") as kept:
        for regime in settings.regimes:
            questions = ask(log, split, settings.part, settings.events, regime)
            rankers = [Baselines(log, histories)]
            lists: dict[str, list[np.ndarray]] = {}
            parts = requests(log, histories, questions, regime, ROWS_AT_ONCE)
            for request in track(parts, f"evaluate, {regime}", total=-(-len(questions.events) // ROWS_AT_ONCE)):
                for ranker in rankers:
                    for name, ranked in ranker.rank(request).items():
                        lists.setdefault(name, []).append(ranked)
            complete = {name: np.concatenate(blocks) for name, blocks in lists.items()}
            for name, ranked in complete.items():
                (kept / name).mkdir(parents=True, exist_ok=True)
                predictions(log, questions, ranked).write_parquet(kept / name / f"{regime}.parquet", compression="zstd")
            measured = measure(log, split, questions, complete, settings)
            metrics[regime] = measured.metrics
            slices.append(measured.slices.select(pl.lit(regime).alias("regime"), pl.all()))
            exposure.append(measured.exposure.select(pl.lit(regime).alias("regime"), pl.all()))
            events = len(questions.events)
    with files.atomic(reports / "evaluation") as folder:
        folder.mkdir()
        write_report(folder, metrics, pl.concat(slices), pl.concat(exposure), settings)
    files.write_json(reports / "metrics.json", metrics)
    top = headline(metrics).filter(list="new").group_by("regime", maintain_order=True).agg(pl.col("model").first())
    return EvaluateResult(events, dict(top.iter_rows()))


def _read_split(path: Path, log: EventLog) -> Split:
    if not path.is_file():
        raise DataError(f"there is no {path}. Run `dvc repro validate` first.")
    raw = files.read_json(path)
    if raw["users"] != log.num_users or raw["lineage"] != log.lineage() or raw["events"] != log.num_events:
        raise DataError(
            f"{path} was made with another log than events.parquet beside it. Run `dvc repro --force validate`."
        )
    return Split(**{name: raw[name] for name in Split.__dataclass_fields__})
