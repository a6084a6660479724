"""Commands about event logs: simulate one, or point the pipeline at one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)

SourceArgument = Annotated[str | None, typer.Argument(help="A file, a folder, or a URL that DVC can import.")]
SampleOption = Annotated[bool, typer.Option("--sample", help="Go back to the embedded sample.")]
TinyOption = Annotated[
    bool, typer.Option("--tiny", help="A simulated log of 500 users, and settings for a look in a minute.")
]
ActorOption = Annotated[str | None, typer.Option(help="Column of who acts: its name, or its place from 1.")]
ActionOption = Annotated[str | None, typer.Option(help="Column of the action.")]
TargetOption = Annotated[str | None, typer.Option(help="Column of who is acted on.")]
TimestampOption = Annotated[str | None, typer.Option(help="Column of the time.")]
UnitOption = Annotated[str | None, typer.Option(help="Unit of the time: s, ms, us, ns or iso.")]
SeparatorOption = Annotated[
    str | None, typer.Option(help="Between the fields of a CSV, log and attributes; \\t for a tab.")
]
HeaderOption = Annotated[
    bool | None, typer.Option("--header/--no-header", help="Whether a text file names its columns.")
]
DefaultActionOption = Annotated[str | None, typer.Option(help="The action, in a log that has none.")]
SignalOption = Annotated[list[str] | None, typer.Option(help="An action that is history only, as a view; repeatable.")]
ExcludeOption = Annotated[list[str] | None, typer.Option(help="An action that hides the two, as a block; repeatable.")]
AttributesOption = Annotated[
    str | None, typer.Option(metavar="FILE", help="A table of users, Parquet or CSV, inside the log's folder.")
]
UserIdOption = Annotated[str, typer.Option(help="Its column of user ids.")]
CategoricalOption = Annotated[list[str] | None, typer.Option(help="Its column of labels, as a country; repeatable.")]
NumericOption = Annotated[list[str] | None, typer.Option(help="Its column of numbers, as an age; repeatable.")]
OptOutOption = Annotated[str | None, typer.Option(help="Its column of who must not be recommended: 1, true, yes.")]
TextsOption = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="A table of texts, Parquet or JSON Lines, inside the log's folder."),
]
TextColumnOption = Annotated[
    list[str] | None,
    typer.Option(metavar="FIELD=COLUMN", help="Its column of user_id, timestamp, platform, text, title or tags."),
]
StatementsOption = Annotated[
    str | None, typer.Option(metavar="FILE", help="A table of statements about users, there too.")
]
StatementColumnOption = Annotated[
    list[str] | None, typer.Option(metavar="FIELD=COLUMN", help="Its column of user_id, statement or context.")
]


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
    """Simulate a social network over time; write its event log and the ground truth."""
    from befriend.errors import CallError
    from befriend.settings import parse, split_override
    from befriend.simulate import network as simulator
    from befriend.simulate.network_settings import PROFILES, SimulateSettings

    if size not in PROFILES:
        raise CallError(f"there is no size {size}. Sizes: {', '.join(PROFILES)}; --users and --events give any other.")
    changes = dict(split_override(item) for item in overrides or [])
    changes |= {name: value for name, value in {"users": users, "events": events}.items() if value is not None}
    profile = PROFILES[size].model_dump()
    settings = parse(SimulateSettings, profile | changes, "simulate")
    simulator.write(settings, out)
    typer.echo(f"{settings.events:,} events of {settings.users:,} users are in {out}.")
    if settings.texts:
        files = "--texts texts.parquet --text-column platform=platform --statements statements.parquet"
        typer.echo(
            f"Next: move truth.parquet, which is not part of the log, elsewhere; then befriend use {out} {files}"
        )
    else:
        typer.echo(f"Next: befriend use {out / 'events.parquet'}")


@app.command(rich_help_panel="Event logs")
def use(
    source: SourceArgument = None,
    sample: SampleOption = False,
    tiny: TinyOption = False,
    actor: ActorOption = None,
    action: ActionOption = None,
    target: TargetOption = None,
    timestamp: TimestampOption = None,
    unit: UnitOption = None,
    separator: SeparatorOption = None,
    header: HeaderOption = None,
    default_action: DefaultActionOption = None,
    signal: SignalOption = None,
    exclude: ExcludeOption = None,
    attributes: AttributesOption = None,
    user_id: UserIdOption = "user_id",
    categorical: CategoricalOption = None,
    numeric: NumericOption = None,
    opt_out: OptOutOption = None,
    texts: TextsOption = None,
    text_column: TextColumnOption = None,
    statements: StatementsOption = None,
    statement_column: StatementColumnOption = None,
) -> None:
    """Point the pipeline at your own event log, and show how it is understood."""
    from befriend.errors import CallError
    from befriend.ops import use_log as ops

    if sample + tiny + (source is not None) != 1:
        raise CallError("name a log (befriend use SOURCE), or one that is here: --sample or --tiny.")
    if tiny:
        ops.use_tiny()
        return
    columns = {"actor_id": actor, "action": action, "target_id": target, "timestamp": timestamp}
    ops.use(
        None if sample else source,
        columns={field: column for field, column in columns.items() if column is not None},
        unit=unit,
        separator=separator,
        header=header,
        default_action=default_action,
        roles=dict.fromkeys(signal or [], "signal") | dict.fromkeys(exclude or [], "exclude"),
        side_tables={
            "attributes": {
                "file": attributes,
                **({"separator": separator.replace("\\t", "\t")} if attributes and separator else {}),
                "user_id": user_id,
                "categorical": categorical or [],
                "numeric": numeric or [],
                "opt_out": opt_out,
            },
            "texts": {"file": texts, **_parse_columns("--text-column", text_column)},
            "statements": {"file": statements, **_parse_columns("--statement-column", statement_column)},
        },
    )


def _parse_columns(option: str, pairs: list[str] | None) -> dict[str, str]:
    """Field -> column, from the FIELD=COLUMN values of a repeatable option."""
    from befriend.errors import CallError

    split_pairs = [pair.partition("=") for pair in pairs or []]
    for field, sign, column in split_pairs:
        if not (field and sign and column):
            raise CallError(f"{option} {field}{sign}{column}: write it as FIELD=COLUMN, for example text=body.")
    return {field: column for field, _, column in split_pairs}
