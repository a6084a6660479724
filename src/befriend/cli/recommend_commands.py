"""Commands that recommend users, and export what lists are made from."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from befriend.cli.options import JsonOption, RunOption

app = typer.Typer(add_completion=False)


class Model(StrEnum):
    """Names of `befriend.recommendation.recommend_options.ModelName`."""

    two_tower = "two-tower"
    stu = "stu"
    both = "both"


class RegimeName(StrEnum):
    """Names of `befriend.data.regimes.Regime`."""

    streaming = "streaming"
    live = "live"
    daily = "daily"
    frozen = "frozen"


UserOption = Annotated[str | None, typer.Option(help="Whom to recommend people to, by their id in the log.")]
UsersOption = Annotated[
    Path | None, typer.Option(help="A file of ids instead, one a line, or Parquet with the column user_id.")
]
AllOption = Annotated[bool, typer.Option("--all", help="Everybody of the log instead; with --out.")]
RequestsOption = Annotated[
    Path | None,
    typer.Option(
        help="A file of requests instead, Parquet or JSON Lines: user_id, at, filter_at, regime, action, list."
    ),
]
AtOption = Annotated[str | None, typer.Option(help="As of this moment (ISO 8601, UTC); all of the log without.")]
FilterAtOption = Annotated[
    str | None, typer.Option(help="Leave out contacts and blocks up to this later moment, when the list is shown.")
]
RegimeOption = Annotated[
    RegimeName | None,
    typer.Option(help="How lists are used: live for one user, daily for many, streaming with an action."),
]
ActionOption = Annotated[str | None, typer.Option(help="What the user is about to do, if that is known.")]
LengthOption = Annotated[int, typer.Option("-k", min=1, max=1000, help="People a list.")]
NewOnlyOption = Annotated[bool, typer.Option("--new-only", help="Leave out existing contacts.")]
ModelOption = Annotated[Model, typer.Option(help="two-tower; stu: token by token; both: a ranker over all.")]
ApproximateOption = Annotated[
    bool, typer.Option("--approximate", help="Search faster, and miss a few: an index, or a beam.")
]
ClustersOption = Annotated[
    bool, typer.Option("--clusters", help="Look at the best clusters and the freshest people, not at everybody.")
]
ExplainOption = Annotated[bool, typer.Option("--explain", help="Say why, in sentences.")]
SampleOption = Annotated[bool, typer.Option("--sample", help="Draw people instead of ranking them.")]
TemperatureOption = Annotated[
    float, typer.Option(min=0.01, help="--sample: near 0 nearly the ranked list, above 1 more of a surprise.")
]
TopKOption = Annotated[int | None, typer.Option(min=1, help="--sample: draw only from so many best.")]
NucleusOption = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="--sample: from the fewest best with this probability together.")
]
SeedOption = Annotated[int, typer.Option(min=0, help="--sample: the same seed draws the same lists.")]
MinAgeOption = Annotated[float, typer.Option(min=0, help="Only people who have been there so long.")]
SameOption = Annotated[list[str] | None, typer.Option(help="Only people with the user's value of this attribute.")]
DifferentOption = Annotated[list[str] | None, typer.Option(help="Only people with another value of it.")]
OnlyOption = Annotated[Path | None, typer.Option(help="Only people of this file: ids, as for --users.")]
ExcludeOption = Annotated[Path | None, typer.Option(help="Nobody of this file: ids, as for --users.")]
DiversityOption = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="0 to 1: how much it counts that people on a list differ.")
]
CapOption = Annotated[int | None, typer.Option(min=1, help="On how many of the lists one person may be.")]
OutOption = Annotated[
    Path | None, typer.Option(help="Write all lists to this Parquet file; once stopped, the same command goes on.")
]
NewestOption = Annotated[
    bool, typer.Option("--newest", help="The champion looks at the log as it was prepared last, not at its own.")
]


@app.command(rich_help_panel="Recommending")
def recommend(
    user: UserOption = None,
    users: UsersOption = None,
    everybody: AllOption = False,
    requests: RequestsOption = None,
    at: AtOption = None,
    filter_at: FilterAtOption = None,
    regime: RegimeOption = None,
    action: ActionOption = None,
    k: LengthOption = 10,
    new_only: NewOnlyOption = False,
    model: ModelOption = Model.both,
    approximate: ApproximateOption = False,
    clusters: ClustersOption = False,
    why: ExplainOption = False,
    sample: SampleOption = False,
    temperature: TemperatureOption = 1.0,
    top_k: TopKOption = None,
    nucleus: NucleusOption = 1.0,
    seed: SeedOption = 0,
    min_age_days: MinAgeOption = 0.0,
    same: SameOption = None,
    different: DifferentOption = None,
    only: OnlyOption = None,
    exclude: ExcludeOption = None,
    diversity: DiversityOption = 0.0,
    cap: CapOption = None,
    as_json: JsonOption = False,
    out: OutOption = None,
    run: RunOption = None,
    newest: NewestOption = False,
) -> None:
    """Recommend people, as of any moment: with the champion, or with the run that lies here where there is none."""
    from befriend.api import RecommendOptions, Rules, Sampling
    from befriend.ops import serve_lists as ops
    from befriend.recommendation.request_table import moment_of

    source = ops.RequestSource(user, users, everybody, requests)
    only_ids = None if only is None else tuple(ops.read_ids(only))
    excluded_ids = () if exclude is None else tuple(ops.read_ids(exclude))
    rules = Rules(min_age_days, tuple(same or ()), tuple(different or ()), only_ids, excluded_ids, diversity, cap)
    options = RecommendOptions(
        model=model.value,
        k=k,
        sampling=Sampling(temperature, top_k, nucleus, seed) if sample else None,
        rules=rules,
        approximate=approximate,
        clusters=clusters,
        at=None if at is None else moment_of("--at", at),
        filter_at=None if filter_at is None else moment_of("--filter-at", filter_at),
        regime=None if regime is None else regime.value,
        action=action,
        new_only=new_only,
    )
    ops.recommend(run, newest, source, options, ops.OutputOptions(why, as_json, out))


@app.command(rich_help_panel="Recommending")
def export(
    out: Annotated[Path, typer.Argument(help="The Parquet file to write.")],
    run: RunOption = None,
) -> None:
    """Write everybody's vector and STU to a Parquet file."""
    from befriend.ops.serve_lists import export as ops

    ops(run, out)
