"""`befriend text`: the text towers on their own, without the pipeline around them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from befriend import layout

app = typer.Typer(
    no_args_is_help=True, help="Universal user embeddings: what people wrote, and what is likely of them."
)
RUN = Annotated[
    Path | None,
    typer.Option(help="Folder of a run, `.` for the one that lies here; without, the champion if there is one."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write the towers and the report to.")] = layout.TEXT_DEMO,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the training and of the split of the users.")] = 0,
) -> None:
    """Train on the embedded sample, evaluate beside simple baselines, infer a few things, write a report."""
    from befriend.text.demo import demo as run

    run(layout.SAMPLE / "log", out, layout.TEXT_CACHE, seed)


@app.command()
def similar(
    user: Annotated[str, typer.Argument(help="Somebody who wrote something.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many.")] = 10,
    run: RUN = None,
    as_json: AsJson = False,
) -> None:
    """The users whose texts are most like somebody's."""
    from befriend.ops.text import similar as find

    find(run, user, k, as_json)


@app.command()
def infer(
    user: Annotated[str, typer.Argument(help="Somebody who wrote something.")],
    statements: Annotated[list[str], typer.Argument(help="What may be true of them, such as 'interested in hiking'.")],
    run: RUN = None,
    as_json: AsJson = False,
) -> None:
    """How likely statements are of somebody, by what they wrote; any words will do."""
    from befriend.ops.text import infer as judge

    judge(run, user, statements, as_json)
