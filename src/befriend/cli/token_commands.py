"""`befriend tokens`: looks up STUs (social tokenized user ids), and assigns them to users who join later."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from befriend.cli.options import PARAMS, ParamsOption

app = typer.Typer(
    help="Look up STUs (social tokenized user ids), and assign them to users who join later.", no_args_is_help=True
)


@app.command()
def show(
    user: Annotated[str, typer.Argument(help="A user's id in the log.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show the STU of a user, and how many users share each of its prefixes."""
    from befriend.ops.token_lookup import show as ops

    ops(user, as_json)


@app.command()
def like(
    user: Annotated[str, typer.Argument(help="A user's id in the log.")],
    prefix: Annotated[
        int | None,
        typer.Option(min=1, help="Number of equal tokens; by default the largest that another user has in common."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List users whose STU begins with the same tokens as that of a user."""
    from befriend.ops.token_lookup import like as ops

    ops(user, prefix, as_json)


@app.command()
def assign(
    events: Annotated[Path, typer.Argument(help="Later events, in the format of the log: a file or a folder.")],
    out: Annotated[Path, typer.Option(help="Parquet file for the STUs of all users, old and new.")],
    params: ParamsOption = PARAMS,
) -> None:
    """Assign STUs to users of later events; all other STUs stay the same."""
    from befriend.config import load_params
    from befriend.ops.token_lookup import assign as ops

    ops(events, out, load_params(params).data)
