"""`befriend text`: uses the text towers without the rest of the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from befriend import layout
from befriend.cli.options import JsonOption, RunOption
from befriend.errors import CallError
from befriend.progress import note

if TYPE_CHECKING:
    from befriend.ops.served_run import ServedRun

app = typer.Typer(
    no_args_is_help=True,
    help="Universal user embeddings: find users with similar texts, and statements that are likely true of a user.",
)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write the towers and the report to.")] = layout.TEXT_DEMO,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the training and of the split of the users.")] = 0,
) -> None:
    """Train on the embedded sample, compare with simple baselines, infer a few statements, and write a report."""
    source = layout.SAMPLE / "log"
    if not source.is_dir():
        raise CallError(
            f"there is no {source} in {Path.cwd()}. Change to the folder of the project (cd FOLDER), which has the "
            "embedded sample."
        )
    if out.is_file():
        raise CallError(f"--out {out} is a file: give a folder.")
    note("loading the encoder ...")

    from befriend.ops.text_demo import demo as run

    run(source, out, layout.TEXT_CACHE, seed)


@app.command()
def similar(
    user: Annotated[str, typer.Argument(help="Id of a user with texts.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Number of users.")] = 10,
    run: RunOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the users whose texts are most similar to those of a user."""
    served = _find_run(run, user)

    from befriend.ops.text_lookup import similar as find  # after the checks, since it takes seconds

    find(served, user, k, as_json)


@app.command()
def infer(
    user: Annotated[str, typer.Argument(help="Id of a user with texts.")],
    statements: Annotated[
        list[str], typer.Argument(help="Statements that may be true of the user, such as 'interested in hiking'.")
    ],
    run: RunOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge which statements are likely true of a user, by the user's texts. Statements may have any wording."""
    served = _find_run(run, user)

    from befriend.ops.text_lookup import infer as judge  # after the checks, since it takes seconds

    judge(served, user, statements, as_json)


def _find_run(run: Path | None, user: str) -> ServedRun:
    """The run that serves, if its log has texts of a user; says then that it is loaded."""
    from befriend.ops.served_run import find_served_run

    served = find_served_run(run)

    from befriend.ops.lookup_checks import check_text_lookup

    check_text_lookup(served, user)
    note("loading text vectors ...")
    return served
