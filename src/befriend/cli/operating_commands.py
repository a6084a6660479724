"""Commands for running the pipeline in production: drift, gate, promotion, rollback, erasing users, cleaning up."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from befriend import layout

PANEL = "Operating"
PARAMS = Path("params.yaml")
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]
ParamsOption = Annotated[Path, typer.Option("--params", help="The settings file.")]

app = typer.Typer(add_completion=False)


@app.command(rich_help_panel=PANEL)
def drift(params: ParamsOption = PARAMS) -> None:
    """Measure how the events of the current run differ from those of the champion, the run that is served."""
    from befriend.config import load_params
    from befriend.errors import CallError
    from befriend.ops import drift_check as ops
    from befriend.ops.registry import current_champion

    champion = current_champion(Path())
    if champion is None:
        raise CallError("there is no champion yet, so there is nothing to compare with (befriend promote).")
    drift = ops.measure_drift(Path(), champion, load_params(params).drift)
    typer.echo(f"drift: {drift['verdict']} ({drift['compared']})")
    for name, measure in drift["measures"].items():
        typer.echo(f"  {name}: {measure['value']:.3f}, {measure['verdict']}")
    typer.echo(f"  {layout.DRIFT / ops.REPORT_FILE}")


@app.command(rich_help_panel=PANEL)
def gate(params: ParamsOption = PARAMS, as_json: JsonOption = False) -> None:
    """Check whether the current run may replace the champion, the run that is served; exit code 3 if not."""
    from befriend.config import load_params
    from befriend.files import stage_lock, to_json
    from befriend.ops import gate as ops

    with stage_lock(layout.STAGE_LOCK):
        decision = ops.decide(Path(), load_params(params))
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
    from befriend.errors import DataError
    from befriend.files import stage_lock
    from befriend.ops import gate as ops
    from befriend.ops import registry

    settings = load_params(params)
    with stage_lock(layout.STAGE_LOCK):
        decision = ops.read_decision(Path())
        if decision["verdict"] == "unchanged":
            typer.echo(f"this run is champion {decision['champion']} already")
            return
        if decision["verdict"] == "refuse" and not force:
            failed_checks = [check for check in decision["rules"] if not check["passed"]]
            failed = "; ".join(f"{check['name']}: {check['found']}" for check in failed_checks)
            raise DataError(f"the gate refused this run ({failed}). --force promotes it anyway.")
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

    typer.echo(f"champion {registry.rollback(Path(), to).number} is served from now on ({layout.CHAMPION})")


@app.command(rich_help_panel=PANEL)
def champion(as_json: JsonOption = False) -> None:
    """List the promoted runs; the one that is served is marked with an asterisk."""
    from befriend.files import to_json
    from befriend.ops import registry

    current = registry.current_champion(Path())
    if as_json:
        typer.echo(to_json(current.manifest if current else None))
        return
    if current is None:
        typer.echo("there is no champion yet: `befriend recommend` uses the current run (befriend promote)")
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
    """Erase users: from all lists at once, and from data and models when you next run `dvc repro`."""
    from befriend.ops import erase_users as ops

    (ops.verify_erasure if prove else ops.erase)(Path(), users)


@app.command(rich_help_panel=PANEL)
def tidy(params: ParamsOption = PARAMS) -> None:
    """Free disk space: remove old promoted runs, old checkpoints and cached results; never the champion."""
    from befriend.config import load_params
    from befriend.files import stage_lock
    from befriend.ops import registry

    with stage_lock(layout.STAGE_LOCK):
        settings = load_params(params).registry
        bytes_freed = registry.tidy(Path(), settings.keep, settings.commits)
    typer.echo(f"{bytes_freed / 1e6:,.1f} MB were freed")
