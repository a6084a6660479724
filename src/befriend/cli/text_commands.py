"""`befriend text`: uses the text towers without the rest of the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from befriend import layout

app = typer.Typer(
    no_args_is_help=True,
    help="Universal user embeddings: find users with similar texts, and statements that are likely true of a user.",
)
RUN = Annotated[
    Path | None,
    typer.Option(help="Folder of a run, `.` for the current one; by default the champion if there is one."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write the towers and the report to.")] = layout.TEXT_DEMO,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the training and of the split of the users.")] = 0,
) -> None:
    """Train on the embedded sample, compare with simple baselines, infer a few statements, and write a report."""
    from befriend.ops.text_demo import demo as run

    run(layout.SAMPLE / "log", out, layout.TEXT_CACHE, seed)


@app.command()
def similar(
    user: Annotated[str, typer.Argument(help="Id of a user with texts.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Number of users.")] = 10,
    run: RUN = None,
    as_json: AsJson = False,
) -> None:
    """List the users whose texts are most similar to those of a user."""
    from befriend.ops.text_lookup import similar as find

    find(run, user, k, as_json)


@app.command()
def infer(
    user: Annotated[str, typer.Argument(help="Id of a user with texts.")],
    statements: Annotated[
        list[str], typer.Argument(help="Statements that may be true of the user, such as 'interested in hiking'.")
    ],
    run: RUN = None,
    as_json: AsJson = False,
) -> None:
    """Estimate how likely statements are true of a user, from the user's texts. Statements may have any wording."""
    from befriend.ops.text_lookup import infer as judge

    judge(run, user, statements, as_json)
