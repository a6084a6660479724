"""`befriend tokens`: looks up STUs (social tokenized user ids), and assigns them to users who join later."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from befriend import layout
from befriend.cli.options import PARAMS, JsonOption, ParamsOption
from befriend.progress import note

LOADING = "loading the log and its tokens ..."
app = typer.Typer(
    help="Look up STUs (social tokenized user ids), and assign them to users who join later.", no_args_is_help=True
)


@app.command()
def show(
    user: Annotated[str, typer.Argument(help="A user's id in the log.")],
    as_json: JsonOption = False,
) -> None:
    """Show the STU of a user, and how many users share each of its prefixes."""
    layout.require_project()

    from befriend.ops.lookup_checks import check_token_lookup

    check_token_lookup(user)
    note(LOADING)

    from befriend.ops.token_lookup import show as ops

    ops(user, as_json)


@app.command()
def like(
    user: Annotated[str, typer.Argument(help="A user's id in the log.")],
    prefix: Annotated[
        int | None,
        typer.Option(min=1, help="Number of equal tokens; by default the largest that another user has in common."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List users whose STU begins with the same tokens as that of a user."""
    layout.require_project()

    from befriend.ops.lookup_checks import check_token_lookup

    check_token_lookup(user, prefix)
    note(LOADING)

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

    layout.require_project()
    data = load_params(params).data

    from befriend.ops.lookup_checks import check_token_assignment

    check_token_assignment(events, out)
    note(LOADING)

    from befriend.ops.token_lookup import assign as ops

    ops(events, out, data)
