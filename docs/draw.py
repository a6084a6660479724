"""Draws docs/figures/flow.png from data.dvc and dvc.yaml: what flows into and out of each stage.

Run it after a stage was added: python docs/draw.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch
from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent
STAGE, FILE, SIDE, LINE = "#0072B2", "#E8F1F8", "#FDF3DF", "#5A5A5A"
MEANING = {
    "data": "your event log\nactor, action, target, time",
    "prepared/events.parquet": "events in time order",
    "prepared/users.parquet": "the id map",
    "prepared/attributes.parquet": "what else is known of users",
    "prepared/split.json": "train, validation, test",
    "prepared/rejected.parquet": "refused rows, with reasons",
    "reports/validation": "report with figures",
    "reports/validation.json": "facts and verdicts",
    "models/two_tower": "weights, settings, lineage",
    "reports/training/two_tower/plots": "curves by epoch",
    "reports/training/two_tower/metrics.json": "figures of the kept epoch",
    "reports/evaluation": "report, slices, exposure",
    "reports/predictions": "every model's lists",
    "reports/metrics.json": "NDCG, hits, intervals",
}


def outputs(stage: dict) -> list[str]:
    entries = [*stage.get("outs", []), *stage.get("metrics", [])]
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def box(
    axes: plt.Axes, x: float, y: float, text: str, colour: str, width: float, ink: str = "black", bold: bool = False
) -> None:
    patch = FancyBboxPatch(
        (x, y - 0.3), width, 0.6, boxstyle="round,pad=0.02,rounding_size=0.12", fc=colour, ec=LINE, lw=0.8
    )
    axes.add_patch(patch)
    weight = "bold" if bold else "normal"
    axes.text(
        x + width / 2, y, text, ha="center", va="center", fontsize=8.5, color=ink, weight=weight, linespacing=1.35
    )


def arrow(axes: plt.Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": LINE, "lw": 1, "shrinkA": 0, "shrinkB": 0})


def main() -> None:
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    used = {dep for stage in stages.values() for dep in stage["deps"]}
    width, gap = 2.65, 0.55
    figure, axes = plt.subplots(figsize=(11.5, 5.2))
    box(axes, 0, 0, MEANING["data"], FILE, width)
    x, last, heights = 0.0, [(width, 0.0)], [0.0]
    for name, stage in stages.items():
        x += width + gap
        box(axes, x, 0, f"befriend {name}", STAGE, 2.0, "white", bold=True)
        for point in last:
            arrow(axes, point, (x, 0))
        end = x + 2.0
        x = end + gap
        found = outputs(stage)
        last = []
        for kind, colour, sign in (("on", FILE, 1), ("out", SIDE, -1)):
            chosen = [path for path in found if (path in used) == (kind == "on")]
            for k, path in enumerate(chosen):
                # What the next stage reads stands above, what people read below.
                y = sign * (0.45 + 0.82 * k) if len(found) > 1 else 0
                box(axes, x, y, f"{path}\n{MEANING.get(path, '')}", colour, width)
                heights.append(y)
                arrow(axes, (end, 0), (x, y))
                if kind == "on":
                    last.append((x + width, y))
    axes.text(0, -1.15, "blue: read by the next stage\nyellow: read by people", fontsize=8, color=LINE, va="top")
    axes.text(
        0, max(heights) + 0.66,
        "data.dvc brings the log. DVC runs what is out of date. Prefect orders, schedules, retries, reports.",
        fontsize=9.5, weight="bold",
    )  # fmt: skip
    axes.set(xlim=(-0.1, x + width + 0.1), ylim=(min(heights) - 0.51, max(heights) + 1.01))
    axes.axis("off")
    figure.savefig(ROOT / "docs" / "figures" / "flow.png", dpi=120, bbox_inches="tight", metadata={"Software": None})


if __name__ == "__main__":
    main()
