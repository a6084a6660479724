"""Commands for running the pipeline in production: drift, gate, promotion, rollback, erasing users, cleaning up."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from befriend import layout
from befriend.cli.options import PARAMS, JsonOption, ParamsOption
from befriend.errors import CallError, DataError
from befriend.progress import note

PANEL = "Operating"

app = typer.Typer(add_completion=False)


@app.command(rich_help_panel=PANEL)
def drift(params: ParamsOption = PARAMS) -> None:
    """Measure how the events of the current run differ from those of the champion, the run that is served."""
    from befriend.config import load_params
    from befriend.ops.registry import current_champion
    from befriend.ops.served_run import require_outputs

    layout.require_project()
    settings = load_params(params).drift
    champion = current_champion(Path())
    if champion is None:
        raise CallError(
            "there is no champion yet, so there is nothing to compare with. First: befriend gate, then befriend promote"
        )
    require_outputs(Path(), layout.PREPARED / "events.parquet")
    note(f"comparing the log with that of champion {champion.number} ...")

    from befriend.ops import drift_check as ops

    drift = ops.measure_drift(Path(), champion, settings)
    typer.echo(f"drift: {ops.describe_verdict(drift)}")
    if drift["measures"]:
        typer.echo(f"  {drift['compared']}")
    for name, measure in drift["measures"].items():
        typer.echo(f"  {name}: {measure['value']:.3f}, {measure['verdict']}")
    typer.echo(f"  {layout.DRIFT / ops.REPORT_FILE}")


@app.command(rich_help_panel=PANEL)
def gate(params: ParamsOption = PARAMS, as_json: JsonOption = False) -> None:
    """Check whether the current run may replace the champion, the run that is served; exit code 3 if not."""
    from befriend.config import load_params
    from befriend.files import stage_lock, to_json
    from befriend.ops.served_run import require_outputs

    layout.require_project()
    settings = load_params(params)
    require_outputs(Path(), layout.PREPARED / "events.parquet", *layout.MODEL_FOLDERS, layout.METRICS)
    note("checking the run ...")

    from befriend.ops import gate as ops

    with stage_lock(layout.STAGE_LOCK):
        decision = ops.decide(Path(), settings)
    typer.echo(to_json(decision) if as_json else ops.to_markdown(decision))
    raise typer.Exit(3 if decision["verdict"] == "refuse" else 0)


@app.command(rich_help_panel=PANEL)
def promote(
    force: Annotated[
        bool, typer.Option("--force", help="Promote the run even if the gate refused it; the manifest records this.")
    ] = False,
    params: ParamsOption = PARAMS,
) -> None:
    """Serve the current run from now on (make it the champion), if the gate accepted it."""
    from befriend.config import load_params
    from befriend.files import stage_lock

    layout.require_project()
    settings = load_params(params)
    if not layout.GATE.is_dir():
        raise DataError("the gate has not judged this run yet. Run `befriend gate` first.")
    note("promoting the run ...")

    from befriend.ops import gate as ops
    from befriend.ops import registry

    with stage_lock(layout.STAGE_LOCK):
        decision = ops.read_decision(Path())
        if decision["verdict"] == "unchanged":
            typer.echo(f"this run is champion {decision['champion']} already")
            return
        if decision["verdict"] == "refuse" and not force:
            raise DataError(f"the gate refused this run ({ops.failed_checks(decision)}). --force promotes it anyway.")
        forced = force and decision["verdict"] == "refuse"
        promoted = registry.promote(Path(), decision | {"forced": forced}, settings.registry.keep)
    typer.echo(f"champion {promoted.number} is served from now on ({layout.CHAMPION})")
    typer.echo("To be able to reproduce it from git, commit: " + ", ".join(registry.files_to_commit(Path())))


@app.command(rich_help_panel=PANEL)
def rollback(
    to: Annotated[
        int | None, typer.Option(help="Number of the promoted run; by default the run that was served before.")
    ] = None,
) -> None:
    """Serve an earlier run again, at once."""
    from befriend.ops import registry

    layout.require_project()
    typer.echo(f"champion {registry.rollback(Path(), to).number} is served from now on ({layout.CHAMPION})")


@app.command(rich_help_panel=PANEL)
def champion(as_json: JsonOption = False) -> None:
    """List the promoted runs; the one that is served is marked with an asterisk."""
    from befriend.files import to_json
    from befriend.ops import registry

    layout.require_project()
    current = registry.current_champion(Path())
    if as_json:
        typer.echo(to_json(current.manifest if current else None))
        return
    if current is None:
        typer.echo(
            "there is no champion yet, so `befriend recommend` uses the run in this folder.\n"
            "To make it the champion: befriend gate, then befriend promote"
        )
        return
    for run in registry.promoted_runs(Path()):
        manifest = run.manifest
        ndcg = ", ".join(
            f"{regime} {lists['new']:.4f}" for regime, lists in manifest["ndcg@10"].items() if "new" in lists
        )
        forced = ", forced" if manifest["decision"].get("forced") else ""
        marker = "*" if run.number == current.number else " "
        typer.echo(
            f"{marker} {run.number:4}  {manifest['promoted']}  {manifest['data']['events']:,} events  "
            f"NDCG@10 on list new: {ndcg}{forced}"
        )


@app.command(rich_help_panel=PANEL)
def forget(
    users: Annotated[list[str], typer.Argument(help="Ids of the users, as in your log.")],
    prove: Annotated[
        bool,
        typer.Option("--prove", help="Erase nothing; search all files for these users, and fail if any names them."),
    ] = False,
) -> None:
    """Erase users: from all lists at once, and from data and models when you next run `make run`."""
    layout.require_project()

    from befriend.ops import erase_users as ops

    (ops.verify_erasure if prove else ops.erase)(Path(), users)


@app.command(rich_help_panel=PANEL)
def doctor(as_json: JsonOption = False) -> None:
    """Show versions, machine and project, and what to type for what is missing; exit code 1 if befriend needs it."""
    from befriend.ops.doctor import run

    raise typer.Exit(run(Path(), as_json))


@app.command(rich_help_panel=PANEL)
def tidy(params: ParamsOption = PARAMS) -> None:
    """Free disk space: remove old promoted runs, old checkpoints and cached results; never the champion."""
    from befriend.config import load_params
    from befriend.files import stage_lock
    from befriend.ops import registry

    layout.require_project()
    settings = load_params(params).registry
    with stage_lock(layout.STAGE_LOCK):
        bytes_freed = registry.tidy(Path(), settings.keep, settings.commits)
    typer.echo(f"{bytes_freed / 1e6:,.1f} MB were freed")


@app.command(rich_help_panel=PANEL)
def reproduce(
    revision: Annotated[str, typer.Argument(help="A commit, branch or tag; by default the last commit.")] = "HEAD",
) -> None:
    """Run the pipeline of a commit in a clone of its own, and compare its outputs and figures with the committed."""
    import subprocess
    import sys

    layout.require_project(Path())
    # The stages are run by DVC, which the core does not know: the module is part of the project.
    raise typer.Exit(subprocess.run([sys.executable, "-m", "tasks.reproduce_commit", revision]).returncode)
