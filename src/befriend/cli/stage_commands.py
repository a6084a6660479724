"""Commands that run one stage each. `dvc repro` calls them in order."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from befriend import layout
from befriend.cli.options import PARAMS, ParamsOption
from befriend.errors import SourceError
from befriend.progress import note

app = typer.Typer(add_completion=False)

SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Override a setting of this stage for this call; params.yaml stays as it is. Repeatable.",
    ),
]


def _begin(stage: str) -> None:
    """Says that a stage begins, before its imports, which take seconds. DataError if it has no prepared log to read."""
    if stage != "validate":
        from befriend.ops.served_run import require_outputs

        require_outputs(Path(), layout.PREPARED / "events.parquet")
    if not _is_helper_process():
        note(f"{stage}: loading ...")


def _is_helper_process() -> bool:
    """Whether this is not the first of several processes that train together."""
    return bool(int(os.environ.get("RANK", "0")))


def _run_stage(stage: str, work: Callable[[], Any]) -> None:
    """Runs a stage, and prints its summary and warnings.

    The stage lock keeps other stages from running meanwhile. Start, end and errors are recorded in runs/<stage>.json.
    """
    from befriend.files import stage_lock
    from befriend.stages.run_record import record_run

    if _is_helper_process():  # only the first process holds the lock and prints
        work()
        return
    with stage_lock(layout.STAGE_LOCK):
        result = record_run(stage, layout.RUNS, work)
    typer.echo(f"{stage}: {result.summary()}")
    for warning in getattr(result, "warnings", []):
        typer.echo(f"{stage}: warning: {warning}", err=True)


@app.command(rich_help_panel="Stages")
def validate(
    source: Annotated[Path, typer.Option(help="Your event log: a file or a folder.")] = layout.DATA,
    overrides: SetOption = None,
    params: ParamsOption = PARAMS,
) -> None:
    """Check the event log, assign internal user ids, split it by time, and write a report about it."""
    from befriend.config import load_params  # all of params.yaml is checked before anything else is imported

    settings = load_params(params, overrides, "validate")
    if source != layout.DATA and not source.exists():
        raise SourceError(f"the event log {source} does not exist. Give --source a file or a folder.")
    _begin("validate")

    from befriend.ops import caches
    from befriend.stages import validate as stage

    def work() -> stage.ValidateResult:
        result = stage.run(settings.data, settings.validate_, source, layout.PREPARED, layout.REPORTS)
        caches.remove_outdated(Path())
        return result

    _run_stage("validate", work)


@app.command(rich_help_panel="Stages")
def embed_text(overrides: SetOption = None, params: ParamsOption = PARAMS) -> None:
    """Train the text model, and compute text vectors of every user over time; an empty table if there are no texts."""
    from befriend.config import load_params

    settings = load_params(params, overrides, "embed_text").embed_text
    _begin("embed_text")

    from befriend.stages import embed_text as stage

    folders = layout.PREPARED, layout.MODELS, layout.REPORTS, layout.CHECKPOINTS, layout.TEXT_CACHE
    _run_stage("embed_text", lambda: stage.run(settings, *folders))


@app.command(rich_help_panel="Stages")
def tokenize(overrides: SetOption = None, params: ParamsOption = PARAMS) -> None:
    """Assign every training user a semantic id (STU): a few tokens that no other user has."""
    from befriend.config import load_params

    settings = load_params(params, overrides, "tokenize").tokenize
    _begin("tokenize")

    from befriend.stages import tokenize as stage

    _run_stage(
        "tokenize", lambda: stage.run(settings, layout.PREPARED, layout.MODELS, layout.REPORTS, layout.CHECKPOINTS)
    )


@app.command(rich_help_panel="Stages")
def train_two_tower(overrides: SetOption = None, params: ParamsOption = PARAMS) -> None:
    """Train the two-tower retrieval model; a killed run continues at its last checkpoint."""
    from befriend.config import load_params

    settings = load_params(params, overrides, "train_two_tower").train_two_tower
    _begin("train_two_tower")

    from befriend.stages import train_two_tower as stage

    _run_stage(
        "train_two_tower",
        lambda: stage.run(settings, layout.PREPARED, layout.MODELS, layout.REPORTS, layout.CHECKPOINTS),
    )


@app.command(rich_help_panel="Stages")
def train_stu(overrides: SetOption = None, params: ParamsOption = PARAMS) -> None:
    """Train the model that predicts users token by token; a killed run continues at its last checkpoint."""
    from befriend.config import load_params

    settings = load_params(params, overrides, "train_stu").train_stu
    _begin("train_stu")

    from befriend.stages import train_stu as stage

    _run_stage(
        "train_stu",
        lambda: stage.run(settings, layout.PREPARED, layout.MODELS, layout.REPORTS, layout.CHECKPOINTS),
    )


@app.command(rich_help_panel="Stages")
def train_ranker(overrides: SetOption = None, params: ParamsOption = PARAMS) -> None:
    """Train the ranker, which orders the candidates of all models and heuristics, on validation events."""
    from befriend.config import load_params

    settings = load_params(params, overrides, "train_ranker").train_ranker
    _begin("train_ranker")

    from befriend.stages import train_ranker as stage

    _run_stage("train_ranker", lambda: stage.run(settings, layout.PREPARED, layout.MODELS))


@app.command(rich_help_panel="Stages")
def evaluate(overrides: SetOption = None, params: ParamsOption = PARAMS) -> None:
    """Rank users for held-out events with every model and heuristic, and compute metrics of the lists."""
    from befriend.config import load_params

    settings = load_params(params, overrides, "evaluate")
    _begin("evaluate")

    from befriend.stages import evaluate as stage

    _run_stage("evaluate", lambda: stage.run(settings.evaluate, layout.PREPARED, layout.MODELS, layout.REPORTS))


@app.command(rich_help_panel="Stages")
def cluster(overrides: SetOption = None, params: ParamsOption = PARAMS) -> None:
    """Learn clusters of users from the two-tower model, describe them, and measure how much they speed up search."""
    from befriend.config import load_params

    settings = load_params(params, overrides, "cluster").cluster
    _begin("cluster")

    from befriend.stages import cluster as stage

    _run_stage(
        "cluster", lambda: stage.run(settings, layout.PREPARED, layout.MODELS, layout.REPORTS, layout.CHECKPOINTS)
    )


@app.command(rich_help_panel="Stages")
def report(overrides: SetOption = None, params: ParamsOption = PARAMS) -> None:
    """Describe the whole run on one page with charts, and write a model card."""
    from befriend.config import load_params

    settings = load_params(params, overrides, "report")
    _begin("report")

    from befriend.stages import report as stage

    _run_stage("report", lambda: stage.run(settings, Path()))
