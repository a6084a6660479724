"""The command line, second part: what it takes to run the pipeline day by day."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from befriend import layout

PANEL = "Operating"
PARAMS = Path("params.yaml")
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]
ParamsOption = Annotated[Path, typer.Option("--params", help="File of settings.")]

app = typer.Typer(add_completion=False)


@app.command(rich_help_panel=PANEL)
def drift(params: ParamsOption = PARAMS) -> None:
    """How the log that was prepared last differs from the champion's."""
    from befriend.config import load_params
    from befriend.errors import CallError
    from befriend.ops import drift as ops
    from befriend.ops.registry import champion as serving

    now = serving(Path())
    if now is None:
        raise CallError("there is no champion yet, so there is nothing to differ from (befriend promote).")
    told = ops.measure(Path(), now, load_params(params).drift)
    typer.echo(f"drift: {told['verdict']} ({told['compared']})")
    for name, found in told["measures"].items():
        typer.echo(f"  {name}: {found['value']:.3f}, {found['verdict']}")
    typer.echo(f"  {layout.DRIFT / ops.REPORT}")


@app.command(rich_help_panel=PANEL)
def gate(params: ParamsOption = PARAMS, as_json: JsonOption = False) -> None:
    """Judge whether the run that lies here may take the champion's place; exit code 3 where it may not."""
    from befriend.config import load_params
    from befriend.files import stage_lock, to_json
    from befriend.ops import gate as ops

    with stage_lock(layout.LOCK):
        decision = ops.decide(Path(), load_params(params))
    typer.echo(to_json(decision) if as_json else ops.report(decision))
    raise typer.Exit(3 if decision["verdict"] == "refuse" else 0)


@app.command(rich_help_panel=PANEL)
def promote(
    force: Annotated[bool, typer.Option("--force", help="Also what the gate refused; the manifest says so.")] = False,
    params: ParamsOption = PARAMS,
) -> None:
    """Serve the run that lies here from now on, if the gate let it through."""
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
            raise DataError(f"the gate refused this run ({failed}). --force promotes it all the same.")
        forced = force and decision["verdict"] == "refuse"
        done = registry.promote(Path(), decision | {"forced": forced}, settings.registry.keep)
    typer.echo(f"champion {done.number} is served from now on ({layout.CHAMPION})")
    typer.echo("To keep what made it in git, commit: " + ", ".join(registry.to_commit(Path())))


@app.command(rich_help_panel=PANEL)
def rollback(
    to: Annotated[int | None, typer.Option(help="The number of a promoted run; the one before without.")] = None,
) -> None:
    """Serve the run that was served before, at once."""
    from befriend.ops import registry

    typer.echo(f"champion {registry.rollback(Path(), to).number} is served from now on ({layout.CHAMPION})")


@app.command(rich_help_panel=PANEL)
def champion(as_json: JsonOption = False) -> None:
    """What is served, and what was before."""
    from befriend.files import to_json
    from befriend.ops import registry

    now = registry.champion(Path())
    if as_json:
        typer.echo(to_json(now.manifest if now else None))
        return
    if now is None:
        typer.echo("there is no champion yet: `befriend recommend` uses the run that lies here (befriend promote)")
        return
    for entry in registry.promoted(Path()):
        told = entry.manifest
        figures = ", ".join(
            f"{regime} {lists['new']:.4f}" for regime, lists in told["ndcg@10"].items() if "new" in lists
        )
        forced = ", forced" if told["decision"].get("forced") else ""
        here = "*" if entry.number == now.number else " "
        typer.echo(
            f"{here} {entry.number:4}  {told['promoted']}  {told['data']['events']:,} events  "
            f"NDCG@10 on list new: {figures}{forced}"
        )


@app.command(rich_help_panel=PANEL)
def forget(
    users: Annotated[list[str], typer.Argument(help="Ids in the log.")],
    prove: Annotated[bool, typer.Option("--prove", help="Look for traces of them; fails at any.")] = False,
) -> None:
    """Take people out of all that is served at once, and out of everything at the next run."""
    from befriend.ops import forget as ops

    (ops.prove if prove else ops.forget)(Path(), users)


@app.command(rich_help_panel=PANEL)
def tidy(params: ParamsOption = PARAMS) -> None:
    """Remove promoted runs, checkpoints and cached results beyond those to be kept; never the champion's."""
    from befriend.config import load_params
    from befriend.files import stage_lock
    from befriend.ops import registry

    with stage_lock(layout.LOCK):
        settings = load_params(params).registry
        freed = registry.tidy(Path(), settings.keep, settings.commits)
    typer.echo(f"{freed / 1e6:,.1f} MB were freed")
