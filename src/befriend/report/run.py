"""A run as the other stages left it: read once, told by the page, the figures and the model card."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from befriend import files, layout
from befriend.config import Params
from befriend.data.log import EVENTS_FILE
from befriend.evaluation.regimes import REGIMES
from befriend.evaluation.report import LISTS, headline
from befriend.settings import describe, values

MODELS = ("both", "two-tower", "stu")
LEARNED = (*MODELS, "boosted")
"""the models, and the ranker on hand-made features alone; everything else that is evaluated is a rule"""
LOG_FILE = Path("data.dvc")


@dataclass(frozen=True)
class Training:
    """The curves of a model."""

    losses: pl.DataFrame
    """step, loss"""
    epochs: pl.DataFrame
    """figure, epoch, value"""
    best: int
    """the epoch that was kept"""

    @classmethod
    def read(cls, folder: Path) -> Training:
        plots = folder / "plots"
        told = []
        for path in sorted((plots / "metrics").rglob("*.tsv")):
            rows = pl.read_csv(path, separator="\t")
            figure = path.relative_to(plots / "metrics").with_suffix("").as_posix()
            told.append(
                rows.select(
                    pl.lit(figure).alias("figure"),
                    pl.col("step").alias("epoch"),
                    pl.col(rows.columns[1]).cast(pl.Float64).alias("value"),
                )
            )
        losses = pl.read_csv(plots / "loss.tsv", separator="\t", schema_overrides={"loss": pl.Float64})
        return cls(losses, pl.concat(told), files.read_json(folder / "metrics.json")["step"])


@dataclass(frozen=True)
class Run:
    params: Params
    validation: dict[str, Any]
    metrics: dict[str, Any]
    calibration: dict[str, Any]
    decoding: dict[str, Any]
    tokens: dict[str, Any]
    clusters: dict[str, Any]
    cards: list[dict[str, Any]]
    months: pl.DataFrame
    slices: pl.DataFrame
    findable: pl.DataFrame
    """what it is worth to show people without an event, of logs that have some"""
    exposure: pl.DataFrame
    shown: pl.DataFrame
    reliability: pl.DataFrame
    search: pl.DataFrame
    token_map: pl.DataFrame
    cluster_map: pl.DataFrame
    user_ids: pl.Series
    trainings: dict[str, Training]
    versions: dict[str, str]
    """path -> digest, of the log and of what was learned from it"""

    @classmethod
    def read(cls, root: Path, params: Params) -> Run:
        reports = root / layout.REPORTS

        def table(name: str) -> pl.DataFrame:
            return pl.read_csv(reports / name, infer_schema_length=None)

        trainings = {
            "two-tower": Training.read(root / layout.TWO_TOWER_CURVES),
            "stu": Training.read(root / layout.STU_CURVES),
            "clusters": Training.read(reports / "clusters" / "training"),
        }
        return cls(
            params=params,
            validation=files.read_json(root / layout.VALIDATION),
            metrics=files.read_json(root / layout.METRICS),
            calibration=files.read_json(reports / "calibration.json"),
            decoding=files.read_json(reports / "stu.json"),
            tokens=files.read_json(root / layout.TOKEN_METRICS),
            clusters=files.read_json(root / layout.CLUSTER_METRICS),
            cards=files.read_json(reports / "clusters" / "cards.json"),
            months=table("validation/events_by_month.csv"),
            slices=table("evaluation/slices.csv"),
            findable=table("evaluation/findable.csv").filter(pl.col("share").cast(pl.Float64) > 0),
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
        """requests: lists that were asked for as applications ask; differ: how many were not the measured ones."""
        return self.metrics["served"]

    @property
    def regimes(self) -> list[str]:
        return [regime for regime in REGIMES if regime in self.metrics]

    @cached_property
    def headline(self) -> pl.DataFrame:
        """list, regime, model, n, metrics and bounds of the headline cells, best first."""
        return headline(self.metrics)

    def best_rule(self, kind: str, regime: str) -> str | None:
        """The rule that ranks best in a cell of the headline."""
        cell = self.headline.filter(~pl.col("model").is_in(LEARNED), list=kind, regime=regime)
        return next(iter(cell["model"]), None)

    def figures(self, kind: str, regime: str, segment: str | None = None) -> dict[str, dict[str, float]]:
        """Model -> figures, of the headline segment of a list, or of another one; empty where there are none."""
        return self.metrics.get(regime, {}).get(kind, {}).get(segment or LISTS[kind][0], {})

    @property
    def settings(self) -> list[dict[str, str]]:
        """name, value, default and meaning of all settings on which a run depends."""
        chosen = values(self.params)
        return [
            {"name": name, "value": chosen[name], "default": usual, "meaning": meaning}
            for name, usual, meaning in describe(Params)
            if name.split(".")[0] not in ("drift", "gate", "registry")
        ]


def _versions(root: Path) -> dict[str, str]:
    found = {}
    if (root / LOG_FILE).is_file():
        from ruamel.yaml import YAML

        for out in YAML(typ="safe").load(root / LOG_FILE).get("outs", []):
            found[f"{out['path']} (as {LOG_FILE} has it)"] = f"md5 {out['md5']}"
    paths = [root / layout.PREPARED / EVENTS_FILE]
    for folder in layout.TRAINED:
        paths += sorted(path for path in (root / folder).iterdir() if path.is_file())
    return found | {str(path.relative_to(root)): f"sha256 {files.sha256(path)[:16]}" for path in paths}
