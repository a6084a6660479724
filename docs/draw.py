"""Draws docs/figures/flow.png from dvc.yaml: the stages in order, and what each leaves behind.

Run it after a stage was added: python docs/draw.py
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch
from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent
STAGE, FILE, SIDE, LINE = "#0072B2", "#E8F1F8", "#FDF3DF", "#5A5A5A"
MEANING = {
    "prepared/events.parquet": "events in time order",
    "prepared/users.parquet": "the id map",
    "prepared/attributes.parquet": "what else is known of users",
    "prepared/texts.parquet": "what users wrote",
    "prepared/statements.parquet": "what is said of users",
    "prepared/split.json": "train, validation, test",
    "prepared/rejected.parquet": "refused rows, with reasons",
    "reports/validation": "report with figures",
    "reports/validation.json": "facts and verdicts",
    "models/text": "vectors by moment, two towers",
    "reports/text": "report, curves",
    "reports/text.json": "ranks before and after",
    "models/tokens": "STUs, codebooks, trie",
    "reports/tokens": "use of the codes, a map",
    "reports/tokens.json": "collisions, use, errors",
    "models/two_tower": "weights, settings, lineage",
    "reports/training/two_tower/plots": "curves by epoch",
    "reports/training/two_tower/metrics.json": "figures of the kept epoch",
    "models/stu": "weights, settings, lineage",
    "reports/training/stu/plots": "curves by epoch",
    "reports/training/stu/metrics.json": "figures of the kept epoch",
    "models/ranker": "boosted trees",
    "reports/evaluation": "report, slices, exposure",
    "reports/predictions": "every model's lists",
    "reports/stu.json": "tokens, beam, sampling",
    "models/clusters": "table, who belongs where",
    "reports/clusters": "cards, map, search space",
    "reports/report": "the page, figures, model card",
    "reports/calibration.json": "probabilities, foreseen and found",
    "reports/clusters.json": "use, communities, recall kept",
    "reports/metrics.json": "NDCG, hits, intervals",
}
WIDTH, LEFT, LETTER = 11.5, 2.5, 0.076  # inches; of a letter at 8.5 points
HIGH, BETWEEN = 0.48, 0.1


def outputs(stage: dict) -> list[str]:
    entries = [*stage.get("outs", []), *stage.get("metrics", [])]
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def box(axes: plt.Axes, x: float, y: float, width: float, high: float, colour: str) -> None:
    """A box with its upper left corner there."""
    style = "round,pad=0,rounding_size=0.06"
    axes.add_patch(FancyBboxPatch((x, y - high), width, high, boxstyle=style, fc=colour, ec=LINE, lw=0.7))


def rows_of(chips: list[tuple[str, str]]) -> list[list[tuple[str, str, float]]]:
    """Chips (path, colour) with their widths, as many side by side as there is room."""
    rows: list[list[tuple[str, str, float]]] = [[]]
    x = LEFT
    for path, colour in chips:
        width = LETTER * max(len(path), len(MEANING[path])) + 0.2
        if x + width > WIDTH:
            rows.append([])
            x = LEFT
        rows[-1].append((path, colour, width))
        x += width + BETWEEN
    return rows


def main() -> None:
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    used = {dep for stage in stages.values() for dep in stage["deps"]}
    laid = {}
    for name, stage in stages.items():
        chips = [(path, FILE if path in used or path.startswith("models") else SIDE) for path in outputs(stage)]
        laid[name] = rows_of(sorted(chips, key=lambda chip: chip[1] == SIDE))
    total = 1.05 + sum(len(rows) * (HIGH + BETWEEN) + 2 * BETWEEN for rows in laid.values())
    figure = plt.figure(figsize=(WIDTH + 0.2, total))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-0.1, WIDTH + 0.1), ylim=(0, total))
    axes.axis("off")
    y = total - 0.2
    axes.text(0, y, "data.dvc brings your event log: actor, action, target, time", fontsize=10, weight="bold", va="top")
    y -= 0.45
    for name, rows in laid.items():
        high = len(rows) * (HIGH + BETWEEN) - BETWEEN
        box(axes, 0, y, LEFT - 0.25, high, STAGE)
        about = "\n".join(textwrap.wrap(stages[name]["desc"], 34)) if high > HIGH else ""
        axes.text(0.1, y - (0.09 if about else high / 2), name, color="white", weight="bold", fontsize=10,
                  va="top" if about else "center")  # fmt: skip
        axes.text(0.1, y - 0.32, about, color="white", fontsize=7.2, va="top", linespacing=1.3)
        for k, row in enumerate(rows):
            x, top = LEFT, y - k * (HIGH + BETWEEN)
            for path, colour, width in row:
                box(axes, x, top, width, HIGH, colour)
                axes.text(x + 0.1, top - 0.08, path, fontsize=8.5, weight="bold", va="top")
                axes.text(x + 0.1, top - 0.28, MEANING[path], fontsize=8.5, va="top", color="#333333")
                x += width + BETWEEN
        y -= high + 3 * BETWEEN
        if name != list(laid)[-1]:
            arrow = {"arrowstyle": "-|>", "color": LINE, "lw": 1, "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", (0.5, y), (0.5, y + 3 * BETWEEN), arrowprops=arrow)
    axes.text(0, y + 0.12, "blue: what later stages read     yellow: what people read     "
              "DVC runs what is out of date; Prefect orders, schedules, retries, reports",
              fontsize=8.5, color=LINE, va="top")  # fmt: skip
    figure.savefig(ROOT / "docs" / "figures" / "flow.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
