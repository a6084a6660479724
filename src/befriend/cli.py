"""The command line: one command a stage, and what a person does around them. Heavy imports stay inside commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from befriend import kernels, layout
from befriend.cli_operating import app as operating
from befriend.cli_text import app as text
from befriend.errors import STOPPED, explain
from befriend.progress import standing

app = typer.Typer(
    name="befriend",
    help="People recommendation, from event log to ranked people. `dvc repro` runs all stages in order.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


app.add_typer(operating)
app.add_typer(text, name="text", rich_help_panel="People")


RunOption = Annotated[
    Path | None,
    typer.Option(help="Folder of a run, `.` for the one that lies here; without, the champion if there is one."),
]


class Model(StrEnum):
    """Who recommends."""

    two_tower = "two-tower"
    stu = "stu"
    both = "both"


class RegimeName(StrEnum):
    """How a list is used."""

    streaming = "streaming"
    live = "live"
    daily = "daily"
    frozen = "frozen"


SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Override a setting of this stage in params.yaml, for this run only; repeatable.",
    ),
]
ParamsOption = Annotated[Path, typer.Option("--params", help="The settings file.")]
PARAMS = Path("params.yaml")


def main() -> None:
    """Runs a command; an error of a user's making is one message and an exit code, never a traceback."""
    kernels.hold()  # before anything that computes is loaded
    try:
        app()
    except Exception as error:
        known = explain(error)
        if known is None:
            raise
        typer.echo(f"befriend: {known}", err=True)
        sys.exit(known.exit_code)
    except SystemExit as end:
        if end.code == STOPPED:  # typer makes that of a KeyboardInterrupt
            at = f" at {standing()}" if standing() else ""
            typer.echo(
                f"befriend: stopped{at}. Run the same command again: a training, texts that are read and lists that go "
                "into a file go on where they were; everything else begins anew.",
                err=True,
            )
        raise


def _run_stage(stage: str, work: Callable[[], Any]) -> None:
    from befriend.files import stage_lock
    from befriend.stages.record import recorded

    if int(os.environ.get("RANK", "0")):  # one of several processes: the first holds the lock, and has the word
        work()
        return
    with stage_lock(layout.LOCK):
        result = recorded(stage, layout.RUNS, work)
    typer.echo(f"{stage}: {result.summary()}")
    for warning in getattr(result, "warnings", []):
        typer.echo(f"{stage}: warning: {warning}", err=True)


@app.command(rich_help_panel="Stages")
def validate(
    source: Annotated[Path, typer.Option(help="The event log: a file or a folder.")] = layout.DATA,
    overrides: SetOption = None,
    params: ParamsOption = PARAMS,
) -> None:
    """Check the event log, number its users, split it by time, and report on it."""
    from befriend.config import load_params
    from befriend.ops import caches
    from befriend.stages import validate as stage

    settings = load_params(params, overrides, "validate")

    def work() -> stage.ValidateResult:
        result = stage.run(settings.data, settings.validate_, source, layout.PREPARED, layout.REPORTS)
        caches.settle(Path())
        return result

    _run_stage("validate", work)


@app.command(rich_help_panel="Stages")
def embed_text(overrides: SetOption = None, params: ParamsOption = PARAMS) -> None:
    """Make a vector for every user at every moment of what they wrote; an empty table where nobody did."""
    from befriend.config import load_params
    from befriend.stages import embed_text as stage

    settings = load_params(params, overrides, "embed_text").embed_text
    folders = layout.PREPARED, layout.MODELS, layout.REPORTS, layout.CHECKPOINTS, layout.TEXT_CACHE
    _run_stage("embed_text", lambda: stage.run(settings, *folders))


@app.command(rich_help_panel="Stages")
def tokenize(overrides: SetOption = None, params: ParamsOption = PARAMS) -> None:
    """Give every user of the training part an STU: a few tokens, nobody else's."""
    from befriend.config import load_params
    from befriend.stages import tokenize as stage

    settings = load_params(params, overrides, "tokenize").tokenize
    _run_stage(
        "tokenize", lambda: stage.run(settings, layout.PREPARED, layout.MODELS, layout.REPORTS, layout.CHECKPOINTS)
    )


@app.command(rich_help_panel="Stages")
def train_two_tower(overrides: SetOption = None, params: ParamsOption = PARAMS) -> None:
    """Train the two-tower retrieval model; goes on where a killed run stopped."""
    from befriend.config import load_params
    from befriend.stages import train_two_tower as stage

    settings = load_params(params, overrides, "train_two_tower").train_two_tower
    _run_stage(
        "train_two_tower",
        lambda: stage.run(settings, layout.PREPARED, layout.MODELS, layout.REPORTS, layout.CHECKPOINTS),
    )


@app.command(rich_help_panel="Stages")
def train_stu(overrides: SetOption = None, params: ParamsOption = PARAMS) -> None:
    """Train the model that predicts people token by token; goes on where a killed run stopped."""
    from befriend.config import load_params
    from befriend.stages import train_stu as stage

    settings = load_params(params, overrides, "train_stu").train_stu
    _run_stage(
        "train_stu",
        lambda: stage.run(settings, layout.PREPARED, layout.MODELS, layout.REPORTS, layout.CHECKPOINTS),
    )


@app.command(rich_help_panel="Stages")
def train_ranker(overrides: SetOption = None, params: ParamsOption = PARAMS) -> None:
    """Learn from validation events how to order the candidates of all models and rules."""
    from befriend.config import load_params
    from befriend.stages import train_ranker as stage

    settings = load_params(params, overrides, "train_ranker").train_ranker
    _run_stage("train_ranker", lambda: stage.run(settings, layout.PREPARED, layout.MODELS))


@app.command(rich_help_panel="Stages")
def evaluate(overrides: SetOption = None, params: ParamsOption = PARAMS) -> None:
    """Rank people for held-out events with every model and baseline, and measure the lists."""
    from befriend.config import load_params
    from befriend.stages import evaluate as stage

    settings = load_params(params, overrides, "evaluate")
    _run_stage("evaluate", lambda: stage.run(settings.evaluate, layout.PREPARED, layout.MODELS, layout.REPORTS))


@app.command(rich_help_panel="Stages")
def cluster(overrides: SetOption = None, params: ParamsOption = PARAMS) -> None:
    """Learn clusters of users on top of the two-tower model, and say what they are like and what they save."""
    from befriend.config import load_params
    from befriend.stages import cluster as stage

    settings = load_params(params, overrides, "cluster").cluster
    _run_stage(
        "cluster", lambda: stage.run(settings, layout.PREPARED, layout.MODELS, layout.REPORTS, layout.CHECKPOINTS)
    )


@app.command(rich_help_panel="Stages")
def report(overrides: SetOption = None, params: ParamsOption = PARAMS) -> None:
    """Tell the whole run on one page, with its pictures and a model card."""
    from befriend.config import load_params
    from befriend.stages import report as stage

    settings = load_params(params, overrides, "report")
    _run_stage("report", lambda: stage.run(settings, Path()))


@app.command(rich_help_panel="Recommending")
def recommend(
    user: Annotated[str | None, typer.Option(help="Whom to recommend people to, by their id in the log.")] = None,
    users: Annotated[
        Path | None, typer.Option(help="A file of ids instead, one a line, or Parquet with the column user_id.")
    ] = None,
    everybody: Annotated[bool, typer.Option("--all", help="Everybody of the log instead; with --out.")] = False,
    requests: Annotated[
        Path | None,
        typer.Option(
            help="A file of requests instead, Parquet or JSON Lines: user_id, at, filter_at, regime, action, list."
        ),
    ] = None,
    at: Annotated[str | None, typer.Option(help="As of this moment (ISO 8601, UTC); all of the log without.")] = None,
    filter_at: Annotated[
        str | None, typer.Option(help="Leave out contacts and blocks up to this later moment, when the list is shown.")
    ] = None,
    regime: Annotated[
        RegimeName | None,
        typer.Option(help="How lists are used: live for one user, daily for many, streaming with an action."),
    ] = None,
    action: Annotated[str | None, typer.Option(help="What the user is about to do, if that is known.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="People a list.")] = 10,
    new_only: Annotated[bool, typer.Option("--new-only", help="Leave out existing contacts.")] = False,
    model: Annotated[Model, typer.Option(help="two-tower; stu: token by token; both: a ranker over all.")] = Model.both,
    approximate: Annotated[
        bool, typer.Option("--approximate", help="Search faster, and miss a few: an index, or a beam.")
    ] = False,
    clusters: Annotated[
        bool, typer.Option("--clusters", help="Look at the best clusters and the freshest people, not at everybody.")
    ] = False,
    why: Annotated[bool, typer.Option("--explain", help="Say why, in sentences.")] = False,
    sample: Annotated[bool, typer.Option("--sample", help="Draw people instead of ranking them.")] = False,
    temperature: Annotated[
        float, typer.Option(min=0.01, help="--sample: near 0 nearly the ranked list, above 1 more of a surprise.")
    ] = 1.0,
    top_k: Annotated[int | None, typer.Option(min=1, help="--sample: draw only from so many best.")] = None,
    nucleus: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="--sample: from the fewest best with this probability together."),
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="--sample: the same seed draws the same lists.")] = 0,
    min_age_days: Annotated[float, typer.Option(min=0, help="Only people who have been there so long.")] = 0.0,
    same: Annotated[list[str] | None, typer.Option(help="Only people with the user's value of this attribute.")] = None,
    different: Annotated[list[str] | None, typer.Option(help="Only people with another value of it.")] = None,
    only: Annotated[Path | None, typer.Option(help="Only people of this file: ids, as for --users.")] = None,
    exclude: Annotated[Path | None, typer.Option(help="Nobody of this file: ids, as for --users.")] = None,
    diversity: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="0 to 1: how much it counts that people on a list differ.")
    ] = 0.0,
    cap: Annotated[int | None, typer.Option(min=1, help="On how many of the lists one person may be.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write all lists to this Parquet file; once stopped, the same command goes on.")
    ] = None,
    run: RunOption = None,
    newest: Annotated[
        bool,
        typer.Option("--newest", help="The champion looks at the log as it was prepared last, not at its own."),
    ] = False,
) -> None:
    """Recommend people, as of any moment: with the champion, or with the run that lies here where there is none."""
    from befriend.errors import CallError
    from befriend.ops import recommend as ops
    from befriend.retrieval.rules import Rules
    from befriend.retrieval.sampling import Sampling

    if (user is not None) + (users is not None) + everybody + (requests is not None) != 1:
        raise CallError(
            "name one person (--user ID), a file of them (--users FILE), everybody (--all), or a file of requests "
            "(--requests FILE)."
        )
    if requests is not None and (at or filter_at or regime or action or new_only):
        raise CallError(
            "--requests says for each list what --at, --filter-at, --regime, --action and --new-only say for all: "
            "leave these out."
        )
    if clusters and (approximate or model == Model.stu):
        raise CallError("--clusters is a search of the two-tower model: leave out --approximate, and --model stu.")
    if everybody and out is None:
        raise CallError("lists for everybody go into a file: add --out FILE.")
    sampling = Sampling(temperature, top_k, nucleus, seed) if sample else None
    name: Any = model.value
    rules = Rules(min_age_days, tuple(same or ()), tuple(different or ()), diversity=diversity, cap=cap)
    served: Any = None if regime is None else regime.value
    wanted = ops.Wanted(user, users, everybody, requests, at, filter_at, served, action, new_only)
    options, output = ops.RecommendOptions(name, k, sampling, rules), ops.Output(why, as_json, out)
    ops.recommend(run, newest, wanted, options, only, exclude, approximate, clusters, output)


@app.command(rich_help_panel="Recommending")
def export(
    out: Annotated[Path, typer.Argument(help="The Parquet file to write.")],
    run: RunOption = None,
) -> None:
    """Write everybody's vector and STU to a Parquet file."""
    from befriend.ops.recommend import export as ops

    ops(run, out)


tokens = typer.Typer(help="Look up STUs, and give them to users who joined later.", no_args_is_help=True)
app.add_typer(tokens, name="tokens", rich_help_panel="Tokens")


@tokens.command()
def show(
    user: Annotated[str, typer.Argument(help="A user's id in the log.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """The STU of a user, and how many share each of its prefixes."""
    from befriend.ops.tokens import show as ops

    ops(user, as_json)


@tokens.command()
def like(
    user: Annotated[str, typer.Argument(help="A user's id in the log.")],
    prefix: Annotated[
        int | None, typer.Option(min=1, help="How many tokens are to be the same; as many as anybody shares without.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Users whose STU begins like somebody's."""
    from befriend.ops.tokens import like as ops

    ops(user, prefix, as_json)


@tokens.command()
def assign(
    events: Annotated[Path, typer.Argument(help="Later events, laid out as the log: a file or a folder.")],
    out: Annotated[Path, typer.Option(help="Parquet file for the STUs of all users, old and new.")],
    params: ParamsOption = PARAMS,
) -> None:
    """Give STUs to users who joined since; nobody else's changes."""
    from befriend.config import load_params
    from befriend.ops.tokens import assign as ops

    ops(events, out, load_params(params).data)


@app.command(rich_help_panel="Event logs")
def simulate(
    out: Annotated[Path, typer.Option(help="Folder for events.parquet, truth.parquet and, if any, texts.")],
    size: Annotated[str, typer.Option(help="tiny, sample, regular or 4x.")] = "regular",
    users: Annotated[int | None, typer.Option(help="Number of users, instead of the size's.")] = None,
    events: Annotated[int | None, typer.Option(help="Number of events, instead of the size's.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Any setting of the simulator (see `befriend settings simulate`)."
        ),
    ] = None,
) -> None:
    """Simulate a social network over time, and write its event log and the planted truth."""
    from befriend.data import simulate as simulator
    from befriend.data.traits import PROFILES, SimulateSettings
    from befriend.errors import CallError
    from befriend.settings import parse, split_override

    if size not in PROFILES:
        raise CallError(f"there is no size {size}. Sizes: {', '.join(PROFILES)}; --users and --events give any other.")
    chosen = dict(split_override(item) for item in overrides or [])
    chosen |= {name: value for name, value in {"users": users, "events": events}.items() if value is not None}
    profile = PROFILES[size].model_dump()
    settings = parse(SimulateSettings, profile | chosen, "simulate")
    simulator.write(settings, out)
    typer.echo(f"{settings.events:,} events of {settings.users:,} users are in {out}.")
    if settings.texts:
        files = "--texts texts.parquet --text-column platform=platform --statements statements.parquet"
        typer.echo(f"Next: move truth.parquet, which is no part of the log, elsewhere; then befriend use {out} {files}")
    else:
        typer.echo(f"Next: befriend use {out / 'events.parquet'}")


@app.command(rich_help_panel="Event logs")
def use(
    source: Annotated[str | None, typer.Argument(help="A file, a folder, or a URL that DVC can import.")] = None,
    sample: Annotated[bool, typer.Option("--sample", help="Go back to the embedded sample.")] = False,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="A simulated log of 500 users, and settings for a look in a minute.")
    ] = False,
    actor: Annotated[str | None, typer.Option(help="Column of who acts: its name, or its place from 1.")] = None,
    action: Annotated[str | None, typer.Option(help="Column of the action.")] = None,
    target: Annotated[str | None, typer.Option(help="Column of who is acted on.")] = None,
    timestamp: Annotated[str | None, typer.Option(help="Column of the time.")] = None,
    unit: Annotated[str | None, typer.Option(help="Unit of the time: s, ms, us, ns or iso.")] = None,
    separator: Annotated[
        str | None, typer.Option(help="Between the fields of a CSV, log and attributes; \\t for a tab.")
    ] = None,
    header: Annotated[
        bool | None, typer.Option("--header/--no-header", help="Whether a text file names its columns.")
    ] = None,
    default_action: Annotated[str | None, typer.Option(help="The action, in a log that has none.")] = None,
    signal: Annotated[
        list[str] | None, typer.Option(help="An action that is history only, as a view; repeatable.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="An action that hides the two, as a block; repeatable.")
    ] = None,
    attributes: Annotated[
        str | None, typer.Option(metavar="FILE", help="A table of users, Parquet or CSV, inside the log's folder.")
    ] = None,
    user_id: Annotated[str, typer.Option(help="Its column of user ids.")] = "user_id",
    categorical: Annotated[
        list[str] | None, typer.Option(help="Its column of labels, as a country; repeatable.")
    ] = None,
    numeric: Annotated[list[str] | None, typer.Option(help="Its column of numbers, as an age; repeatable.")] = None,
    opt_out: Annotated[
        str | None, typer.Option(help="Its column of who must not be recommended: 1, true, yes.")
    ] = None,
    texts: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A table of texts, Parquet or JSON Lines, inside the log's folder."),
    ] = None,
    text_column: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD=COLUMN", help="Its column of user_id, timestamp, platform, text, title or tags."),
    ] = None,
    statements: Annotated[
        str | None, typer.Option(metavar="FILE", help="A table of statements about users, there too.")
    ] = None,
    statement_column: Annotated[
        list[str] | None, typer.Option(metavar="FIELD=COLUMN", help="Its column of user_id, statement or context.")
    ] = None,
) -> None:
    """Point the pipeline at your own event log, and show how it is understood."""
    from befriend.errors import CallError
    from befriend.ops import use as ops

    if sample + tiny + (source is not None) != 1:
        raise CallError("name a log (befriend use SOURCE), or one that is here: --sample or --tiny.")
    if tiny:
        ops.use_tiny()
        return
    told = {"actor_id": actor, "action": action, "target_id": target, "timestamp": timestamp}
    ops.use(
        None if sample else source,
        columns={field: column for field, column in told.items() if column is not None},
        unit=unit,
        separator=separator,
        header=header,
        default_action=default_action,
        roles=dict.fromkeys(signal or [], "signal") | dict.fromkeys(exclude or [], "exclude"),
        beside={
            "attributes": {
                "file": attributes,
                **({"separator": separator.replace("\\t", "\t")} if attributes and separator else {}),
                "user_id": user_id,
                "categorical": categorical or [],
                "numeric": numeric or [],
                "opt_out": opt_out,
            },
            "texts": {"file": texts, **_named("--text-column", text_column)},
            "statements": {"file": statements, **_named("--statement-column", statement_column)},
        },
    )


def _named(option: str, pairs: list[str] | None) -> dict[str, str]:
    """FIELD=COLUMN, of each pair."""
    from befriend.errors import CallError

    split = [pair.partition("=") for pair in pairs or []]
    for field, sign, column in split:
        if not (field and sign and column):
            raise CallError(f"{option} {field}{sign}{column}: write it as FIELD=COLUMN, for example text=body.")
    return {field: column for field, _, column in split}


@app.command(rich_help_panel="Reading a run")
def summary() -> None:
    """Print the figures of the last run, and where its reports are."""
    from befriend.ops.summary import show

    show(Path())


@app.command(rich_help_panel="Reading a run")
def compare(
    a: Annotated[str, typer.Argument(help="A git revision, or the folder of a run.")],
    b: Annotated[str, typer.Argument(help="The other one; `.` is the run that is here.")] = ".",
    model: Annotated[str, typer.Option(help="Whose lists are compared.")] = "both",
    other: Annotated[str | None, typer.Option(help="Of B, where it is another model's.")] = None,
    events: Annotated[int, typer.Option(min=0, help="How many of the events that differ most are shown.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Compare two runs on the same events: differences with paired intervals, and the events that differ most."""
    from befriend.ops.compare import show

    show(a, b, model, other, events, as_json)


@app.command(rich_help_panel="Reading a run")
def settings(
    section: Annotated[str | None, typer.Argument(help="data, a stage, or simulate; all without.")] = None,
) -> None:
    """List every setting with its default and what it does."""
    from befriend.ops.settings import show

    show(section)


if __name__ == "__main__":
    main()
