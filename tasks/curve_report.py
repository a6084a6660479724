"""The curves of a training as text: owns how their folder is read, drawn and compared.

The folder is that of `befriend.training.curves`: `plots/metrics/<figure>.tsv` with a row an epoch, and `metrics.json`
with the figures of the best one. Every figure that a model has is shown.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from befriend import files

METRICS_FILE = "metrics.json"
BARS = "▁▂▃▄▅▆▇█"
WIDEST = 40  # bars of a curve

_LOSS, _VALIDATION, _TRAIN = "train/loss", "validation/", "train/"


@dataclass(frozen=True)
class EpochCurves:
    figures: dict[str, dict[int, float]]
    """name -> epoch, from 1 -> value"""
    best_epoch: int


def read_curves(folder: Path) -> EpochCurves:
    plots = folder / "plots" / "metrics"
    figures = {path.relative_to(plots).with_suffix("").as_posix(): _column(path) for path in plots.rglob("*.tsv")}
    return EpochCurves(
        {name: figures[name] for name in _ordered(figures)}, files.read_json(folder / METRICS_FILE)["step"]
    )


def _column(path: Path) -> dict[int, float]:
    with path.open(encoding="utf-8", newline="") as file:
        return {int(step): float(value) for step, value in list(csv.reader(file, delimiter="\t"))[1:]}


def _ordered(names: Iterable[str]) -> list[str]:
    """What was measured on the validation part first, then in training, then what was only set."""
    return sorted(names, key=lambda name: (not name.startswith(_VALIDATION), not name.startswith(_TRAIN), name))


def report(curves: EpochCurves, stage: str) -> str:
    """Markdown: every figure as a small curve, then loss and validation epoch by epoch, the best one bold."""
    epochs = sorted({epoch for values in curves.figures.values() for epoch in values})
    best = curves.best_epoch
    measured = [name for name in curves.figures if name.startswith(_VALIDATION)]
    drawn = (
        [name, sparkline(list(values.values())), *(_number(values.get(e)) for e in (epochs[0], best, epochs[-1]))]
        for name, values in curves.figures.items()
    )
    by_epoch = (
        _bold([str(epoch), *(_number(curves.figures[name].get(epoch)) for name in (_LOSS, *measured))], epoch == best)
        for epoch in epochs
    )
    return "\n".join(
        [
            f"# {stage}: epoch {best} of {len(epochs)} is best\n",
            "Each curve goes from its lowest to its highest value.\n",
            *_table(["figure", "curve", "first", "best epoch", "last"], drawn),
            "\n## Epoch by epoch\n",
            "The loss in training, and what was measured on the validation part after it.\n",
            *_table(["epoch", "loss", *(name.removeprefix(_VALIDATION) for name in measured)], by_epoch),
            "",
        ]
    )


def sparkline(values: list[float]) -> str:
    """Low bars for low values; a long curve is drawn through evenly spaced ones, the first and the last among them."""
    if len(values) > WIDEST:
        values = [values[k * (len(values) - 1) // (WIDEST - 1)] for k in range(WIDEST)]
    low, span = min(values), max(values) - min(values) or 1
    return "".join(BARS[round((value - low) / span * (len(BARS) - 1))] for value in values)


def compare_with_committed(metrics: dict[str, Any], committed: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A row for each figure of the best epoch, its number first; no change where none is committed."""
    now, then = dict(_flat(metrics)), dict(_flat(committed or {}))
    return [
        {
            "figure": "epoch" if name == "step" else name,
            "best epoch": now[name],
            "committed": then.get(name),
            "change": round(now[name] - then[name], 6) if name in then else None,
        }
        for name in ["step", *_ordered(now.keys() - {"step"})]
    ]


def _flat(metrics: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in metrics.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield prefix + name, float(f"{value:.6g}")  # as many digits as a person compares


def _table(header: list[str], rows: Iterable[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def _bold(cells: list[str], bold: bool) -> list[str]:
    return [f"**{cell}**" if bold and cell else cell for cell in cells]


def _number(value: float | None) -> str:
    """Four digits, and all of them where there are more before the point; empty if the epoch has none."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
