"""Draws two pictures: docs/figures/flow.png from dvc.yaml, docs/figures/architecture.png from the import contracts.

The first shows the stages in order and what each writes; the second the packages in layers, as pyproject.toml has them.
Run it after a stage, a package or a layer changed: python docs/draw.py
"""

from __future__ import annotations

import ast
import textwrap
import tomllib
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
    "prepared/attributes.parquet": "attributes of users",
    "prepared/texts.parquet": "texts of users",
    "prepared/statements.parquet": "statements about users",
    "prepared/split.json": "train, validation, test",
    "prepared/rejected.parquet": "refused rows, with reasons",
    "reports/validation": "report with figures",
    "reports/validation.json": "profile of the log, rules",
    "models/text": "text vectors, two towers",
    "reports/text": "report, curves",
    "reports/text.json": "ranks before and after",
    "models/tokens": "STUs, codebooks, trie",
    "reports/tokens": "code usage, a map",
    "reports/tokens.json": "collisions, usage, errors",
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
    "models/clusters": "embeddings, memberships",
    "reports/clusters": "summaries, map, search space",
    "reports/report": "the page, figures, model card",
    "reports/calibration.json": "predicted and observed",
    "reports/clusters.json": "usage, communities, recall",
    "reports/metrics.json": "NDCG, hits, intervals",
}
WIDTH, LEFT, LETTER = 11.5, 2.5, 0.076  # inches; of a letter at 8.5 points
HIGH, BETWEEN = 0.48, 0.1


def outputs(stage: dict) -> list[str]:
    entries = [*stage.get("outs", []), *stage.get("metrics", [])]
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def box(axes: plt.Axes, x: float, y: float, width: float, high: float, colour: str) -> None:
    """A box whose upper left corner is (x, y)."""
    style = "round,pad=0,rounding_size=0.06"
    axes.add_patch(FancyBboxPatch((x, y - high), width, high, boxstyle=style, fc=colour, ec=LINE, lw=0.7))


def rows_of(chips: list[tuple[str, str]]) -> list[list[tuple[str, str, float]]]:
    """Rows of (path, colour, width): as many chips side by side as fit."""
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


def draw_flow() -> None:
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
    axes.text(0, y + 0.12, "blue: read by later stages     yellow: read by people     "
              "DVC runs what is out of date; Prefect orders, schedules, retries, reports",
              fontsize=8.5, color=LINE, va="top")  # fmt: skip
    figure.savefig(ROOT / "docs" / "figures" / "flow.png", dpi=110, metadata={"Software": None})


def layers() -> list[list[str]]:
    """The packages and modules of each layer, top first."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    contract = next(contract for contract in contracts if contract["id"] == "layers")
    return [layer.split(" | ") for layer in contract["layers"]]


def purpose(name: str) -> str:
    """The first sentence of a package's or module's docstring."""
    path = ROOT / "src" / "befriend" / name
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return (ast.get_docstring(ast.parse(file.read_text())) or "").split("\n\n")[0].replace("\n", " ")


def draw_architecture() -> None:
    gap, rows = 0.12, layers()
    texts = {
        name: textwrap.wrap(purpose(name), int((WIDTH - gap * (len(row) - 1)) / len(row) / 0.069))[:3]
        for row in rows
        for name in row
    }
    heights = [0.34 + 0.15 * max(len(texts[name]) for name in row) for row in rows]
    total = sum(heights) + gap * (len(rows) + 1) + 0.3
    figure = plt.figure(figsize=(WIDTH + 0.2, total))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-0.1, WIDTH + 0.1), ylim=(0, total))
    axes.axis("off")
    y = total - gap
    for row, high in zip(rows, heights, strict=True):
        width = (WIDTH - gap * (len(row) - 1)) / len(row)
        for k, name in enumerate(row):
            x = k * (width + gap)
            package = (ROOT / "src" / "befriend" / name).is_dir()
            box(axes, x, y, width, high, FILE if package else SIDE)
            axes.text(x + 0.1, y - 0.08, f"{name}/" if package else name, fontsize=9, weight="bold", va="top")
            axes.text(
                x + 0.1, y - 0.27, "\n".join(texts[name]), fontsize=7.2, va="top", linespacing=1.3, color="#333333"
            )
        y -= high + gap
    axes.text(0, y, "Each package imports only from the rows below it. Packages of one row do not know each other.",
              fontsize=8.5, color=LINE, va="top")  # fmt: skip
    figure.savefig(ROOT / "docs" / "figures" / "architecture.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    draw_flow()
    draw_architecture()
