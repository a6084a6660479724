"""Training curves as Markdown, and a comparison of the best epoch with that of the last committed training.

The curves are in a folder that `befriend.training.curves` wrote: `plots/metrics/<metric>.tsv` with a row per epoch, and
`metrics.json` with the metrics of the best epoch.
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
MAX_BARS = 40  # in the drawing of a curve

_LOSS, _VALIDATION, _TRAIN = "train/loss", "validation/", "train/"


@dataclass(frozen=True)
class EpochCurves:
    """The metrics of a training by epoch."""

    metrics: dict[str, dict[int, float]]
    """name -> epoch, from 1 -> value"""
    best_epoch: int
    """the epoch whose model is used"""


def read_curves(folder: Path) -> EpochCurves:
    """Reads the curves in the folder of a training. Metrics are in the order of `_sorted_names`."""
    plots = folder / "plots" / "metrics"
    metrics = {path.relative_to(plots).with_suffix("").as_posix(): _read_curve(path) for path in plots.rglob("*.tsv")}
    return EpochCurves(
        {name: metrics[name] for name in _sorted_names(metrics)}, files.read_json(folder / METRICS_FILE)["step"]
    )


def _read_curve(path: Path) -> dict[int, float]:
    with path.open(encoding="utf-8", newline="") as file:
        return {int(step): float(value) for step, value in list(csv.reader(file, delimiter="\t"))[1:]}


def _sorted_names(names: Iterable[str]) -> list[str]:
    """Metrics of the validation part first, then those of training, then scheduled values such as the learning rate."""
    return sorted(names, key=lambda name: (not name.startswith(_VALIDATION), not name.startswith(_TRAIN), name))


def report(curves: EpochCurves, stage: str) -> str:
    """Markdown: a small curve of each metric; then loss and validation metrics by epoch, the best epoch in bold."""
    epochs = sorted({epoch for values in curves.metrics.values() for epoch in values})
    best = curves.best_epoch
    validation_names = [name for name in curves.metrics if name.startswith(_VALIDATION)]
    curve_rows = (
        [
            name,
            sparkline(list(values.values())),
            *(_format_number(values.get(epoch)) for epoch in (epochs[0], best, epochs[-1])),
        ]
        for name, values in curves.metrics.items()
    )
    by_epoch = (
        _bold(
            [str(epoch), *(_format_number(curves.metrics[name].get(epoch)) for name in (_LOSS, *validation_names))],
            epoch == best,
        )
        for epoch in epochs
    )
    return "\n".join(
        [
            f"# {stage}: epoch {best} of {len(epochs)} is best\n",
            "Each curve is scaled from its lowest to its highest value.\n",
            *_table(["figure", "curve", "first", "best epoch", "last"], curve_rows),
            "\n## Epoch by epoch\n",
            "Mean training loss of each epoch, and metrics of the validation part after it.\n",
            *_table(["epoch", "loss", *(name.removeprefix(_VALIDATION) for name in validation_names)], by_epoch),
            "",
        ]
    )


def sparkline(values: list[float]) -> str:
    """The values as a row of bars; evenly spaced values, with the first and last, if there are more than MAX_BARS."""
    if len(values) > MAX_BARS:
        values = [values[k * (len(values) - 1) // (MAX_BARS - 1)] for k in range(MAX_BARS)]
    low, span = min(values), max(values) - min(values) or 1
    return "".join(BARS[round((value - low) / span * (len(BARS) - 1))] for value in values)


def compare_with_committed(metrics: dict[str, Any], committed: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A row for each metric of the best epoch, and one for its number; change is None if no value is committed.

    metrics, committed: content of metrics.json of this training and of the last committed one.
    """
    new, old = dict(_flattened(metrics)), dict(_flattened(committed or {}))
    return [
        {
            "figure": "epoch" if name == "step" else name,
            "best epoch": new[name],
            "committed": old.get(name),
            "change": round(new[name] - old[name], 6) if name in old else None,
        }
        for name in ["step", *_sorted_names(new.keys() - {"step"})]
    ]


def _flattened(metrics: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yields (name, value) for nested metrics; the levels of a name are separated by slashes."""
    for name, value in metrics.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{name}/")
        else:
            yield prefix + name, float(f"{value:.6g}")  # digits that are worth comparing


def _table(header: list[str], rows: Iterable[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def _bold(cells: list[str], bold: bool) -> list[str]:
    return [f"**{cell}**" if bold and cell else cell for cell in cells]


def _format_number(value: float | None) -> str:
    """The value with four significant digits, as an integer from 1,000 on; empty if the epoch has no value."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
