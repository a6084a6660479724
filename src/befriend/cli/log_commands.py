"""Commands for event logs: simulate a log, or make the pipeline read yours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from befriend import layout
from befriend.errors import CallError, SourceError

app = typer.Typer(add_completion=False)

UNITS = ("s", "ms", "us", "ns", "iso")
"""values of setting data.timestamp_unit"""
SourceArgument = Annotated[
    str | None, typer.Argument(help="Your event log: a file, a folder, or a URL that DVC can import.")
]
SampleOption = Annotated[bool, typer.Option("--sample", help="Use the sample that comes with the project.")]
TinyOption = Annotated[
    bool,
    typer.Option("--tiny", help="Use a simulated log of 500 users, with settings for a quick run of about a minute."),
]
SizeOption = Annotated[
    str | None,
    typer.Option(help="Size of the models: small, medium, large, or auto, by the number of events. [default: auto]"),
]
ActorOption = Annotated[str | None, typer.Option(help="Column of the user who acts: its name, or its position from 1.")]
ActionOption = Annotated[str | None, typer.Option(help="Column of the action.")]
TargetOption = Annotated[str | None, typer.Option(help="Column of the user who is acted on.")]
TimestampOption = Annotated[str | None, typer.Option(help="Column of the timestamp.")]
TimeOfDayOption = Annotated[
    str | None, typer.Option(help="Column of the time of day, if the column of the timestamp has the date only.")
]
UnitOption = Annotated[
    str | None,
    typer.Option(help='Unit of the timestamp: s, ms, us, ns, iso for ISO 8601, or a format of strptime: "%d/%m/%Y".'),
]
SeparatorOption = Annotated[
    str | None,
    typer.Option(
        help="Separator of the fields of a text, in the log and the attributes: \\t for a tab, a blank for white space."
    ),
]
HeaderOption = Annotated[
    bool | None, typer.Option("--header/--no-header", help="Whether the first line of a text file names the columns.")
]
QuotesOption = Annotated[
    bool | None,
    typer.Option("--quotes/--no-quotes", help="Whether quotes may be around the fields of a CSV file."),
]
DefaultActionOption = Annotated[str | None, typer.Option(help="Name of the action, if the log has no action column.")]
ActionFromFileNameOption = Annotated[
    bool,
    typer.Option("--action-from-file-name", help="Each file has one action, its name: like.csv, follow.csv."),
]
SignalOption = Annotated[
    list[str] | None,
    typer.Option(help="An action that is never predicted and only serves as history, such as view; repeatable."),
]
ExcludeOption = Annotated[
    list[str] | None,
    typer.Option(help="An action that keeps both users off each other's lists, such as block; repeatable."),
]
AttributesOption = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="A table of user attributes, Parquet or CSV, in the folder of the log."),
]
UserIdOption = Annotated[str, typer.Option(help="Column of user ids in the table of attributes.")]
CategoricalOption = Annotated[
    list[str] | None, typer.Option(help="A categorical attribute, such as country; repeatable.")
]
NumericOption = Annotated[list[str] | None, typer.Option(help="A numeric attribute, such as age; repeatable.")]
OptOutOption = Annotated[
    str | None, typer.Option(help="Column that marks users who must not be recommended, by 1, true or yes.")
]
TextsOption = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="A table of texts by users, Parquet or JSON Lines, in the folder of the log."),
]
TextColumnOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FIELD=COLUMN",
        help="Column of the texts for user_id, timestamp, platform, text, title or tags; repeatable.",
    ),
]
StatementsOption = Annotated[
    str | None, typer.Option(metavar="FILE", help="A table of statements about users, in the folder of the log.")
]
StatementColumnOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FIELD=COLUMN", help="Column of the statements for user_id, statement or context; repeatable."
    ),
]


@app.command(rich_help_panel="Event logs")
def simulate(
    out: Annotated[
        Path, typer.Option(help="Folder for events.parquet, truth.parquet and, if there are any, the texts.")
    ],
    size: Annotated[str, typer.Option(help="tiny, sample, regular or 4x.")] = "regular",
    users: Annotated[int | None, typer.Option(help="Number of users, instead of that of --size.")] = None,
    events: Annotated[int | None, typer.Option(help="Number of events, instead of that of --size.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Another setting of the simulator, see `befriend settings simulate`; repeatable.",
        ),
    ] = None,
) -> None:
    """Simulate the events of a social network, and write the log and its ground truth."""
    from befriend.settings import parse, split_override
    from befriend.simulate.network_settings import PROFILES, SimulateSettings

    if size not in PROFILES:
        raise CallError(f"there is no size {size}. Sizes: {', '.join(PROFILES)}; --users and --events give any other.")
    changes = dict(split_override(item) for item in overrides or [])
    changes |= {name: value for name, value in {"users": users, "events": events}.items() if value is not None}
    profile = PROFILES[size].model_dump()
    settings = parse(SimulateSettings, profile | changes, "simulate")
    if out.is_file():
        raise CallError(f"--out {out} is a file: give a folder.")

    from befriend.simulate import network as simulator  # after the checks, since it takes time

    simulator.write(settings, out)
    typer.echo(f"{settings.events:,} events of {settings.users:,} users are in {out}.")
    if settings.texts:
        files = "--texts texts.parquet --text-column platform=platform --statements statements.parquet"
        typer.echo(
            f"Next: move truth.parquet elsewhere, since it is not part of the log; then befriend use {out} {files}"
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
    time_of_day: TimeOfDayOption = None,
    unit: UnitOption = None,
    separator: SeparatorOption = None,
    header: HeaderOption = None,
    quotes: QuotesOption = None,
    default_action: DefaultActionOption = None,
    action_from_file_name: ActionFromFileNameOption = False,
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
    size: SizeOption = None,
) -> None:
    """Make the pipeline read your event log, and show how it is understood."""
    if sample + tiny + (source is not None) != 1:
        raise CallError("give exactly one log: befriend use SOURCE, befriend use --sample, or befriend use --tiny.")
    _check_format(unit, separator)
    text_columns = _parse_columns("--text-column", text_column)
    statement_columns = _parse_columns("--statement-column", statement_column)
    _check_source(source)

    from befriend.ops import use_log as ops  # after the checks, since it takes time
    from befriend.ops.detect import Hints
    from befriend.ops.sizes import check_size

    if tiny:
        ops.use_tiny()
        return
    columns = {"actor_id": actor, "action": action, "target_id": target}
    columns |= {"timestamp": timestamp, "time_of_day": time_of_day}
    ops.use(
        None if sample else source,
        Hints({field: c for field, c in columns.items() if c is not None}, unit, separator, header, quotes),
        actions=_actions(default_action, action_from_file_name),
        roles=_roles(signal or [], exclude or []),
        side_tables={
            "attributes": _attributes(attributes, separator, user_id, categorical, numeric, opt_out),
            "texts": {"file": texts, **text_columns},
            "statements": {"file": statements, **statement_columns},
        },
        size=check_size(size),
    )


def _attributes(
    file: str | None,
    separator: str | None,
    user_id: str,
    categorical: list[str] | None,
    numeric: list[str] | None,
    opt_out: str | None,
) -> dict[str, Any]:
    """The settings of data.attributes."""
    return {
        "file": file,
        **({"separator": separator.replace("\\t", "\t")} if file and separator else {}),
        "user_id": user_id,
        "categorical": categorical or [],
        "numeric": numeric or [],
        "opt_out": opt_out,
    }


def _actions(default_action: str | None, from_file_name: bool) -> dict[str, Any]:
    """The settings of data that give actions to a log without a column of them. CallError for both at once."""
    if default_action is not None and from_file_name:
        raise CallError("--default-action names one action, --action-from-file-name one per file: leave out one.")
    if from_file_name:
        return {"action_from_file_name": True}
    return {} if default_action is None else {"default_action": default_action}


def _check_source(source: str | None) -> None:
    """Raises CallError outside a project, and SourceError for a path that does not exist."""
    layout.require_project()
    if source is not None and "://" not in source and not Path(source).exists():
        raise SourceError(f"the event log {source} does not exist. Give a file, a folder, or a URL.")


def _check_format(unit: str | None, separator: str | None) -> None:
    """Raises CallError for a unit of timestamps or a separator of fields that no log has."""
    if "%Z" in str(unit):
        raise CallError(f"--unit {unit}: names of zones (%Z) are ambiguous. Write offsets such as +01:00, and %z.")
    if unit not in (None, *UNITS) and "%" not in str(unit):
        raise CallError(
            f"--unit {unit}: the unit of timestamps is one of {', '.join(UNITS)}, or a format of strptime such as "
            '"%d/%m/%Y %H:%M".'
        )
    if separator == "":
        raise CallError("--separator is empty: give the characters between two fields, \\t for a tab.")


def _parse_columns(option: str, pairs: list[str] | None) -> dict[str, str]:
    """Field -> column, from the values of a repeatable option. CallError if one is not written as FIELD=COLUMN."""
    split_pairs = [pair.partition("=") for pair in pairs or []]
    for field, sign, column in split_pairs:
        if not (field and sign and column):
            raise CallError(f"{option} {field}{sign}{column}: write it as FIELD=COLUMN, for example text=body.")
    return {field: column for field, _, column in split_pairs}


def _roles(signal: list[str], exclude: list[str]) -> dict[str, str]:
    """Action -> role. CallError if an action has two."""
    both = sorted({*signal} & {*exclude})
    if both:
        raise CallError(f"{', '.join(both)}: an action is a signal or excludes, not both. Leave out one option.")
    return dict.fromkeys(signal, "signal") | dict.fromkeys(exclude, "exclude")
