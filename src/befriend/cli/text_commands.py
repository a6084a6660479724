"""`befriend text`: uses the text towers on their own, without the rest of the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from befriend import layout

app = typer.Typer(
    no_args_is_help=True,
    help="Universal user embeddings: users by what they wrote, and which statements are likely true of them.",
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
    user: Annotated[str, typer.Argument(help="Id of a user who wrote something.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many.")] = 10,
    run: RUN = None,
    as_json: AsJson = False,
) -> None:
    """List the users whose texts are most similar to those of a user."""
    from befriend.ops.text_lookup import similar as find

    find(run, user, k, as_json)


@app.command()
def infer(
    user: Annotated[str, typer.Argument(help="Id of a user who wrote something.")],
    statements: Annotated[
        list[str], typer.Argument(help="Statements that may be true of the user, such as 'interested in hiking'.")
    ],
    run: RUN = None,
    as_json: AsJson = False,
) -> None:
    """Estimate how likely statements are true of a user, from what the user wrote; any wording will do."""
    from befriend.ops.text_lookup import infer as judge

    judge(run, user, statements, as_json)
