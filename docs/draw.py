"""Draws docs/figures/flow.png from dvc.yaml, and docs/figures/architecture.png from the import contracts.

flow.png shows the stages in order with their outputs, architecture.png the packages in the layers of pyproject.toml.
Run it after a change of a stage, a package or a layer: python docs/draw.py
"""

from __future__ import annotations

import ast
import textwrap
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch
from ruamel.yaml import YAML

from befriend.plots import LIGHT, saved_figure

ROOT = Path(__file__).parent.parent
STAGE, FILE, SIDE, LINE = LIGHT.series[0], "#E8F1F8", "#FDF3DF", LIGHT.muted
DESCRIPTIONS = {
    "prepared/events.parquet": "events in time order",
    "prepared/users.parquet": "external and internal ids",
    "prepared/attributes.parquet": "attributes of users",
    "prepared/texts.parquet": "texts of users",
    "prepared/statements.parquet": "statements about users",
    "prepared/split.json": "train, validation, test",
    "prepared/rejected.parquet": "rejected rows, with reasons",
    "reports/validation": "report with figures",
    "reports/validation.json": "profile of the log, checks",
    "models/text": "text vectors, two towers",
    "reports/text": "report, curves",
    "reports/text.json": "ranks before and after",
    "models/tokens": "STUs, codebooks, trie",
    "reports/tokens": "usage of codes, a map",
    "reports/tokens.json": "collisions, usage, errors",
    "models/two_tower": "weights, settings",
    "reports/training/two_tower/plots": "curves by epoch",
    "reports/training/two_tower/metrics.json": "metrics of the best epoch",
    "models/stu": "weights, settings",
    "reports/training/stu/plots": "curves by epoch",
    "reports/training/stu/metrics.json": "metrics of the best epoch",
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
    "reports/headline.json": "the main numbers, in git",
    "reports/reference.json": "to compare machines, in git",
}
# all in inches
WIDTH, LEFT = 11.5, 2.5
LETTER_WIDTH = 0.076  # at 8.5 points
BOX_HEIGHT, GAP = 0.48, 0.1


def outputs(stage: dict) -> list[str]:
    """Paths of the outputs and metrics of a stage of dvc.yaml."""
    entries = [*stage.get("outs", []), *stage.get("metrics", [])]
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


@contextmanager
def blank_axes(file_name: str, height: float) -> Iterator[Axes]:
    """Yields axes in inches without lines or labels, and writes them to docs/figures when the block ends."""
    with saved_figure(ROOT / "docs" / "figures" / file_name, WIDTH + 0.2, height) as figure:
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(-0.1, WIDTH + 0.1), ylim=(0, height))
        axes.axis("off")
        yield axes


def draw_box(axes: Axes, x: float, y: float, width: float, height: float, colour: str) -> None:
    """Draws a box whose upper left corner is (x, y)."""
    style = "round,pad=0,rounding_size=0.06"
    axes.add_patch(FancyBboxPatch((x, y - height), width, height, boxstyle=style, fc=colour, ec=LINE, lw=0.7))


def arrange_in_rows(outputs: list[tuple[str, str]]) -> list[list[tuple[str, str, float]]]:
    """Distributes boxes of outputs, given as (path, colour), over rows of limited width.

    Returns for each row (path, colour, width of the box) of its boxes.
    """
    rows: list[list[tuple[str, str, float]]] = [[]]
    x = LEFT
    for path, colour in outputs:
        width = LETTER_WIDTH * max(len(path), len(DESCRIPTIONS[path])) + 0.2
        if x + width > WIDTH:
            rows.append([])
            x = LEFT
        rows[-1].append((path, colour, width))
        x += width + GAP
    return rows


def draw_flow() -> None:
    """Draws docs/figures/flow.png."""
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    inputs = {dep for stage in stages.values() for dep in stage["deps"]}
    rows_by_stage = {}
    for name, stage in stages.items():
        boxes = [(path, FILE if path in inputs or path.startswith("models") else SIDE) for path in outputs(stage)]
        rows_by_stage[name] = arrange_in_rows(sorted(boxes, key=lambda box: box[1] == SIDE))
    total = 1.05 + sum(len(rows) * (BOX_HEIGHT + GAP) + 2 * GAP for rows in rows_by_stage.values())
    with blank_axes("flow.png", total) as axes:
        y = total - 0.2
        axes.text(
            0, y, "data.dvc brings your event log: actor, action, target, time", fontsize=10, weight="bold", va="top"
        )
        y -= 0.45
        for name, rows in rows_by_stage.items():
            height = len(rows) * (BOX_HEIGHT + GAP) - GAP
            draw_box(axes, 0, y, LEFT - 0.25, height, STAGE)
            description = "\n".join(textwrap.wrap(stages[name]["desc"], 34)) if height > BOX_HEIGHT else ""
            axes.text(0.1, y - (0.09 if description else height / 2), name, color="white", weight="bold", fontsize=10,
                      va="top" if description else "center")  # fmt: skip
            axes.text(0.1, y - 0.32, description, color="white", fontsize=7.2, va="top", linespacing=1.3)
            for k, row in enumerate(rows):
                x, top = LEFT, y - k * (BOX_HEIGHT + GAP)
                for path, colour, width in row:
                    draw_box(axes, x, top, width, BOX_HEIGHT, colour)
                    axes.text(x + 0.1, top - 0.08, path, fontsize=8.5, weight="bold", va="top")
                    axes.text(x + 0.1, top - 0.28, DESCRIPTIONS[path], fontsize=8.5, va="top", color="#333333")
                    x += width + GAP
            y -= height + 3 * GAP
            if name != list(rows_by_stage)[-1]:
                arrow = {"arrowstyle": "-|>", "color": LINE, "lw": 1, "shrinkA": 0, "shrinkB": 0}
                axes.annotate("", (0.5, y), (0.5, y + 3 * GAP), arrowprops=arrow)
        axes.text(0, y + 0.12, "blue: read by later stages     yellow: reports for you     "
                  "DVC runs stages that are out of date; Prefect orders, schedules, retries, reports",
                  fontsize=8.5, color=LINE, va="top")  # fmt: skip


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
    """Draws docs/figures/architecture.png."""
    gap, rows = 0.12, layers()
    texts = {
        name: textwrap.wrap(purpose(name), int((WIDTH - gap * (len(row) - 1)) / len(row) / 0.069))[:4]
        for row in rows
        for name in row
    }
    heights = [0.34 + 0.15 * max(len(texts[name]) for name in row) for row in rows]
    total = sum(heights) + gap * (len(rows) + 1) + 0.3
    with blank_axes("architecture.png", total) as axes:
        y = total - gap
        for row, height in zip(rows, heights, strict=True):
            width = (WIDTH - gap * (len(row) - 1)) / len(row)
            for k, name in enumerate(row):
                x = k * (width + gap)
                is_package = (ROOT / "src" / "befriend" / name).is_dir()
                draw_box(axes, x, y, width, height, FILE if is_package else SIDE)
                axes.text(x + 0.1, y - 0.08, f"{name}/" if is_package else name, fontsize=9, weight="bold", va="top")
                axes.text(
                    x + 0.1, y - 0.27, "\n".join(texts[name]), fontsize=7.2, va="top", linespacing=1.3, color="#333333"
                )
            y -= height + gap
        axes.text(0, y, "Packages import only from rows below. Packages in the same row do not import each other.",
                  fontsize=8.5, color=LINE, va="top")  # fmt: skip


if __name__ == "__main__":
    draw_flow()
    draw_architecture()
