"""The results of a run: read once from the files of the other stages, for the page, the charts and the model card."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from befriend import files, layout
from befriend.analysis.evaluation_report import LISTS, headline
from befriend.data.event_log import EVENTS_FILE
from befriend.data.regimes import REGIMES
from befriend.settings import Settings, describe, values

MODELS = ("both", "two-tower", "stu")
LEARNED = (*MODELS, "boosted")
"""the models, and the ranker on hand-made features alone; all others that are evaluated are rules"""
LOG_FILE = Path("data.dvc")


@dataclass(frozen=True)
class TrainingCurves:
    """The training curves of a model."""

    losses: pl.DataFrame
    """step, loss"""
    epochs: pl.DataFrame
    """figure, epoch, value"""
    best: int
    """the best epoch, whose model is used"""

    @classmethod
    def read(cls, folder: Path) -> TrainingCurves:
        plots = folder / "plots"
        epochs = []
        for path in sorted((plots / "metrics").rglob("*.tsv")):
            rows = pl.read_csv(path, separator="\t")
            figure = path.relative_to(plots / "metrics").with_suffix("").as_posix()
            epochs.append(
                rows.select(
                    pl.lit(figure).alias("figure"),
                    pl.col("step").alias("epoch"),
                    pl.col(rows.columns[1]).cast(pl.Float64).alias("value"),
                )
            )
        losses = pl.read_csv(plots / "loss.tsv", separator="\t", schema_overrides={"loss": pl.Float64})
        return cls(losses, pl.concat(epochs), files.read_json(folder / "metrics.json")["step"])


@dataclass(frozen=True)
class RunResults:
    """The settings of a run, and what its stages wrote to reports/, models/ and prepared/."""

    params: Any
    """settings of params.yaml, by section"""
    validation: dict[str, Any]
    metrics: dict[str, Any]
    calibration: dict[str, Any]
    decoding: dict[str, Any]
    tokens: dict[str, Any]
    clusters: dict[str, Any]
    cluster_summaries: list[dict[str, Any]]
    months: pl.DataFrame
    slices: pl.DataFrame
    cold_start: pl.DataFrame
    """the gain from listing cold-start users; empty if the lists have none"""
    exposure: pl.DataFrame
    shown: pl.DataFrame
    reliability: pl.DataFrame
    search: pl.DataFrame
    token_map: pl.DataFrame
    cluster_map: pl.DataFrame
    user_ids: pl.Series
    trainings: dict[str, TrainingCurves]
    versions: dict[str, str]
    """path -> digest, of the log and of the trained models"""

    @classmethod
    def read(cls, root: Path, params: Settings) -> RunResults:
        reports = root / layout.REPORTS

        def table(name: str) -> pl.DataFrame:
            return pl.read_csv(reports / name, infer_schema_length=None)

        trainings = {
            "two-tower": TrainingCurves.read(root / layout.TWO_TOWER_CURVES),
            "stu": TrainingCurves.read(root / layout.STU_CURVES),
            "clusters": TrainingCurves.read(reports / "clusters" / "training"),
        }
        return cls(
            params=params,
            validation=files.read_json(root / layout.VALIDATION),
            metrics=files.read_json(root / layout.METRICS),
            calibration=files.read_json(reports / "calibration.json"),
            decoding=files.read_json(reports / "stu.json"),
            tokens=files.read_json(root / layout.TOKEN_METRICS),
            clusters=files.read_json(root / layout.CLUSTER_METRICS),
            cluster_summaries=files.read_json(reports / "clusters" / "summaries.json"),
            months=table("validation/events_by_month.csv"),
            slices=table("evaluation/slices.csv"),
            cold_start=table("evaluation/cold_start.csv").filter(pl.col("share").cast(pl.Float64) > 0),
            exposure=table("evaluation/exposure.csv"),
            shown=table("evaluation/shown.csv"),
            reliability=table("evaluation/calibration.csv"),
            search=table("clusters/curve.csv"),
            token_map=table("tokens/map.csv"),
            cluster_map=table("clusters/map.csv"),
            user_ids=pl.read_parquet(root / layout.PREPARED / "users.parquet")["user_id"],
            trainings=trainings,
            versions=_versions(root),
        )

    @property
    def served(self) -> dict[str, int]:
        """requests: number of lists requested as applications do; differ: how many differ from the measured ones."""
        return self.metrics["served"]

    @property
    def regimes(self) -> list[str]:
        return [regime for regime in REGIMES if regime in self.metrics]

    @cached_property
    def headline(self) -> pl.DataFrame:
        """list, regime, model, n, metrics and bounds of the headline cells, best model first in each."""
        return headline(self.metrics)

    def best_rule(self, kind: str, regime: str) -> str | None:
        """The rule that ranks best in a cell of the headline."""
        cell = self.headline.filter(~pl.col("model").is_in(LEARNED), list=kind, regime=regime)
        return next(iter(cell["model"]), None)

    def figures(self, kind: str, regime: str, segment: str | None = None) -> dict[str, dict[str, float]]:
        """model -> figures of a segment of a list, by default its headline segment; empty if there are none."""
        return self.metrics.get(regime, {}).get(kind, {}).get(segment or LISTS[kind][0], {})

    @property
    def settings(self) -> list[dict[str, str]]:
        """name, value, default and meaning of all settings that a run depends on."""
        chosen = values(self.params)
        return [
            {"name": name, "value": chosen[name], "default": default, "meaning": meaning}
            for name, default, meaning in describe(type(self.params))
            if name.split(".")[0] not in ("drift", "gate", "registry")
        ]


def _versions(root: Path) -> dict[str, str]:
    """path -> digest, of the log as data.dvc has it, the prepared log and the files of the trained models."""
    digests = {}
    if (root / LOG_FILE).is_file():
        from ruamel.yaml import YAML

        for out in YAML(typ="safe").load(root / LOG_FILE).get("outs", []):
            digests[f"{out['path']} (as {LOG_FILE} has it)"] = f"md5 {out['md5']}"
    paths = [root / layout.PREPARED / EVENTS_FILE]
    for folder in layout.TRAINED:
        paths += sorted(path for path in (root / folder).iterdir() if path.is_file())
    return digests | {str(path.relative_to(root)): f"sha256 {files.sha256(path)[:16]}" for path in paths}
