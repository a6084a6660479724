"""Reads the results of a run from the files of the other stages, for the page, the charts and the model card."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from befriend import files, layout
from befriend.analysis.metric_tables import LEARNED, LISTS, headline, metrics_by_regime
from befriend.data.event_log import EVENTS_FILE
from befriend.data.regimes import Regime
from befriend.settings import Settings, describe_settings, setting_values

"""the ranker whose lists are served"""
LOG_FILE = Path("data.dvc")


@dataclass(frozen=True)
class TrainingCurves:
    """The training curves of a model."""

    losses: pl.DataFrame
    """step, loss"""
    epochs: pl.DataFrame
    """metric, epoch, value"""
    best_epoch: int
    """the epoch whose model is used"""

    @classmethod
    def read(cls, folder: Path) -> TrainingCurves:
        """Reads what `befriend.training.curves` wrote to a folder."""
        plots = folder / "plots"
        epochs = []
        for path in sorted((plots / "metrics").rglob("*.tsv")):
            rows = pl.read_csv(path, separator="\t")
            metric = path.relative_to(plots / "metrics").with_suffix("").as_posix()
            epochs.append(
                rows.select(
                    pl.lit(metric).alias("metric"),
                    pl.col("step").alias("epoch"),
                    pl.col(rows.columns[1]).cast(pl.Float64).alias("value"),
                )
            )
        losses = pl.read_csv(plots / "loss.tsv", separator="\t", schema_overrides={"loss": pl.Float64})
        return cls(losses, pl.concat(epochs), files.read_json(folder / "metrics.json")["step"])


@dataclass(frozen=True)
class RunResults:
    """The settings of a run, and the contents of the files that its stages wrote to reports/, models/ and prepared/."""

    params: Any
    """of type `Params`: the settings, by section of params.yaml"""
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
    """as of `measure_cold_start_gain`; empty if no list has cold-start users"""
    exposure: pl.DataFrame
    exposure_by_group: pl.DataFrame
    reliability: pl.DataFrame
    search_curve: pl.DataFrame
    token_map: pl.DataFrame
    cluster_map: pl.DataFrame
    user_ids: pl.Series
    trainings: dict[str, TrainingCurves]
    versions: dict[str, str]
    """path -> digest, of the log and of the trained models"""

    @classmethod
    def read(cls, root: Path, params: Settings) -> RunResults:
        """root: folder of the project."""
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
            exposure_by_group=table("evaluation/shown.csv"),
            reliability=table("evaluation/calibration.csv"),
            search_curve=table("clusters/curve.csv"),
            token_map=table("tokens/map.csv"),
            cluster_map=table("clusters/map.csv"),
            user_ids=pl.read_parquet(root / layout.PREPARED / "users.parquet")["user_id"],
            trainings=trainings,
            versions=_versions(root),
        )

    @property
    def serving_parity(self) -> dict[str, int]:
        """requests: number of lists that were requested again as served; differ: how many of them differed."""
        return self.metrics["served"]

    def served_source(self, kind: str, regime: str) -> str | None:
        """The model or rule whose lists are served in place of the ranker's, as they were better on validation."""
        source: str | None = self.metrics["sources"].get(kind, {}).get(regime)
        return source

    @property
    def regimes(self) -> list[Regime]:
        """The evaluated regimes, in the order of REGIMES."""
        return list(metrics_by_regime(self.metrics))

    @cached_property
    def headline(self) -> pl.DataFrame:
        """As of `headline`: list, regime, model, n, metrics and bounds, best model first in each list and regime."""
        return headline(self.metrics)

    def best_rule(self, kind: str, regime: str) -> str | None:
        """The baseline rule with the highest NDCG@10 in a list and regime. kind: of the lists, any or new."""
        rules = self.headline.filter(~pl.col("model").is_in(LEARNED), list=kind, regime=regime)
        return next(iter(rules["model"]), None)

    def metrics_by_model(self, kind: str, regime: str, segment: str | None = None) -> dict[str, dict[str, float]]:
        """model -> metrics, in a segment of a list; empty if no event is in it.

        kind: of the lists, any or new; segment: None for the headline segment of the list.
        """
        return self.metrics.get(regime, {}).get(kind, {}).get(segment or LISTS[kind][0], {})

    @property
    def settings(self) -> list[dict[str, str]]:
        """name, value, default and meaning of all settings that a run depends on."""
        value_by_name = setting_values(self.params)
        return [
            {"name": name, "value": value_by_name[name], "default": default, "meaning": meaning}
            for name, default, meaning in describe_settings(type(self.params))
            if name.split(".")[0] not in ("drift", "gate", "registry")
        ]


def _versions(root: Path) -> dict[str, str]:
    """path -> digest, of the log (as in data.dvc), of the prepared log, and of the files of the trained models."""
    digests = {}
    if (root / LOG_FILE).is_file():
        from ruamel.yaml import YAML

        for out in YAML(typ="safe").load(root / LOG_FILE).get("outs", []):
            digests[f"{out['path']} (as {LOG_FILE} has it)"] = f"md5 {out['md5']}"
    paths = [root / layout.PREPARED / EVENTS_FILE]
    for folder in layout.MODEL_FOLDERS:
        paths += sorted(path for path in (root / folder).iterdir() if path.is_file())
    return digests | {str(path.relative_to(root)): f"sha256 {files.sha256(path)[:16]}" for path in paths}
