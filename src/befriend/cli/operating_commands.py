"""Commands to operate the pipeline day by day: drift, gate, promotion, rollback, erasure and cleaning up."""

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
    """Measure how the newest prepared log differs from the champion's."""
    from befriend.config import load_params
    from befriend.errors import CallError
    from befriend.ops import drift_check as ops
    from befriend.ops.registry import champion as served_run

    serving = served_run(Path())
    if serving is None:
        raise CallError("there is no champion yet, so there is nothing to compare with (befriend promote).")
    drift = ops.measure(Path(), serving, load_params(params).drift)
    typer.echo(f"drift: {drift['verdict']} ({drift['compared']})")
    for name, measure in drift["measures"].items():
        typer.echo(f"  {name}: {measure['value']:.3f}, {measure['verdict']}")
    typer.echo(f"  {layout.DRIFT / ops.REPORT}")


@app.command(rich_help_panel=PANEL)
def gate(params: ParamsOption = PARAMS, as_json: JsonOption = False) -> None:
    """Decide whether the current run may replace the champion; exit code 3 if it may not."""
    from befriend.config import load_params
    from befriend.files import stage_lock, to_json
    from befriend.ops import gate as ops

    with stage_lock(layout.LOCK):
        decision = ops.decide(Path(), load_params(params))
    typer.echo(to_json(decision) if as_json else ops.report(decision))
    raise typer.Exit(3 if decision["verdict"] == "refuse" else 0)


@app.command(rich_help_panel=PANEL)
def promote(
    force: Annotated[
        bool, typer.Option("--force", help="Promote even if the gate refused; the manifest records it.")
    ] = False,
    params: ParamsOption = PARAMS,
) -> None:
    """Serve the current run from now on, if the gate accepted it."""
    from befriend.config import load_params
    from befriend.errors import DataError
    from befriend.files import stage_lock
    from befriend.ops import gate as ops
    from befriend.ops import registry

    settings = load_params(params)
    with stage_lock(layout.LOCK):
        decision = ops.read(Path())
        if decision["verdict"] == "unchanged":
            typer.echo(f"this run is champion {decision['champion']} already")
            return
        if decision["verdict"] == "refuse" and not force:
            failed = "; ".join(f"{r['name']}: {r['found']}" for r in decision["rules"] if not r["passed"])
            raise DataError(f"the gate refused this run ({failed}). --force promotes it anyway.")
        forced = force and decision["verdict"] == "refuse"
        promoted = registry.promote(Path(), decision | {"forced": forced}, settings.registry.keep)
    typer.echo(f"champion {promoted.number} is served from now on ({layout.CHAMPION})")
    typer.echo("To record in git how it was made, commit: " + ", ".join(registry.to_commit(Path())))


@app.command(rich_help_panel=PANEL)
def rollback(
    to: Annotated[
        int | None, typer.Option(help="Number of a promoted run; by default the one before the champion.")
    ] = None,
) -> None:
    """Serve an earlier run again, at once."""
    from befriend.ops import registry

    typer.echo(f"champion {registry.rollback(Path(), to).number} is served from now on ({layout.CHAMPION})")


@app.command(rich_help_panel=PANEL)
def champion(as_json: JsonOption = False) -> None:
    """Show which run is served, and which were before it."""
    from befriend.files import to_json
    from befriend.ops import registry

    serving = registry.champion(Path())
    if as_json:
        typer.echo(to_json(serving.manifest if serving else None))
        return
    if serving is None:
        typer.echo("there is no champion yet: `befriend recommend` uses the current run (befriend promote)")
        return
    for entry in registry.promoted(Path()):
        manifest = entry.manifest
        figures = ", ".join(
            f"{regime} {lists['new']:.4f}" for regime, lists in manifest["ndcg@10"].items() if "new" in lists
        )
        forced = ", forced" if manifest["decision"].get("forced") else ""
        marker = "*" if entry.number == serving.number else " "
        typer.echo(
            f"{marker} {entry.number:4}  {manifest['promoted']}  {manifest['data']['events']:,} events  "
            f"NDCG@10 on list new: {figures}{forced}"
        )


@app.command(rich_help_panel=PANEL)
def forget(
    users: Annotated[list[str], typer.Argument(help="User ids of the log.")],
    prove: Annotated[bool, typer.Option("--prove", help="Search for traces of them; fails if there is one.")] = False,
) -> None:
    """Erase users: from everything that is served at once, and from all data at the next run."""
    from befriend.ops import forget_people as ops

    (ops.prove if prove else ops.forget)(Path(), users)


@app.command(rich_help_panel=PANEL)
def tidy(params: ParamsOption = PARAMS) -> None:
    """Remove old promoted runs, checkpoints and cached results that the settings do not keep; never the champion."""
    from befriend.config import load_params
    from befriend.files import stage_lock
    from befriend.ops import registry

    with stage_lock(layout.LOCK):
        settings = load_params(params).registry
        freed = registry.tidy(Path(), settings.keep, settings.commits)
    typer.echo(f"{freed / 1e6:,.1f} MB were freed")
