"""The commands `befriend recommend` and `befriend export`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from befriend import layout
from befriend.cli.options import JsonOption, RunOption
from befriend.errors import CallError
from befriend.progress import note

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


UserOption = Annotated[str | None, typer.Option(help="The user who gets the list, by the id in the log.")]
UsersOption = Annotated[
    Path | None, typer.Option(help="A file of ids instead, one per line, or Parquet with the column user_id.")
]
AllOption = Annotated[bool, typer.Option("--all", help="All users of the log instead; with --out.")]
RequestsOption = Annotated[
    Path | None,
    typer.Option(
        help="A file of requests instead, Parquet or JSON Lines: user_id, at, filter_at, regime, action, list."
    ),
]
AtOption = Annotated[str | None, typer.Option(help="Only what happened before this time counts (ISO 8601, UTC).")]
FilterAtOption = Annotated[
    str | None, typer.Option(help="Leave out contacts and blocks up to this later time, when the list is shown.")
]
RegimeOption = Annotated[
    RegimeName | None,
    typer.Option(help="How lists are used: live for one user, daily for many, streaming with an action."),
]
ActionOption = Annotated[str | None, typer.Option(help="The action that the user is about to do, if known.")]
LengthOption = Annotated[int, typer.Option("-k", min=1, max=1000, help="Users per list.")]
NewOnlyOption = Annotated[bool, typer.Option("--new-only", help="Leave out existing contacts.")]
ModelOption = Annotated[
    Model,
    typer.Option(help="two-tower; stu (semantic IDs); both: a ranker over their candidates."),
]
ApproximateOption = Annotated[
    bool, typer.Option("--approximate", help="Search faster and miss a few users: with an index, or with beam search.")
]
ClustersOption = Annotated[
    bool, typer.Option("--clusters", help="Search only the best clusters and the most recently active users.")
]
ExplainOption = Annotated[bool, typer.Option("--explain", help="Add sentences that explain each recommendation.")]
SampleOption = Annotated[bool, typer.Option("--sample", help="Draw users at random by their scores.")]
TemperatureOption = Annotated[
    float, typer.Option(min=0.01, help="--sample: near 0 nearly the ranked list, above 1 closer to uniform draws.")
]
TopKOption = Annotated[int | None, typer.Option(min=1, help="--sample: draw only from this many best users.")]
NucleusOption = Annotated[
    float,
    typer.Option(min=0.0, max=1.0, help="--sample: draw from the fewest best users with this probability."),
]
SeedOption = Annotated[int, typer.Option(min=0, help="--sample: the same seed draws the same lists.")]
MinAgeOption = Annotated[float, typer.Option(min=0, help="Only users seen first at least this many days ago.")]
SameOption = Annotated[
    list[str] | None, typer.Option(help="Only users with the requesting user's value of this attribute.")
]
DifferentOption = Annotated[
    list[str] | None, typer.Option(help="Only users with another value of this attribute than the requesting user.")
]
OnlyOption = Annotated[Path | None, typer.Option(help="Only users in this file of ids, as for --users.")]
ExcludeOption = Annotated[Path | None, typer.Option(help="No users in this file of ids, as for --users.")]
DiversityOption = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="0 to 1: weight of dissimilarity between the users on a list.")
]
CapOption = Annotated[int | None, typer.Option(min=1, help="On how many lists one user may be.")]
OutOption = Annotated[
    Path | None, typer.Option(help="Write all lists to this Parquet file; run the command again to resume it.")
]
ColdStartOption = Annotated[
    bool, typer.Option("--cold-start", help="Also make lists of users whom the log does not know; else an error.")
]
NewestOption = Annotated[
    bool, typer.Option("--newest", help="Use the champion with the log that was prepared last, not with its own log.")
]


@app.command(rich_help_panel="Recommending")
def recommend(
    user: UserOption = None,
    users: UsersOption = None,
    all_users: AllOption = False,
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
    with_reasons: ExplainOption = False,
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
    use_latest_log: NewestOption = False,
    cold_start: ColdStartOption = False,
) -> None:
    """Recommend users, as of any time, with the champion, or without one, with the run in this folder."""
    from befriend.ops import recommend_call as ops
    from befriend.recommendation.request_time import parse_time

    draws = {"temperature": temperature, "top_k": top_k, "nucleus": nucleus, "seed": seed}
    if not sample and draws != {"temperature": 1.0, "top_k": None, "nucleus": 1.0, "seed": 0}:
        raise CallError("--temperature, --top-k, --nucleus and --seed are for lists drawn at random: add --sample.")
    call = ops.RecommendCall(
        ops.RequestSource(user, users, all_users, requests, cold_start),
        ops.RequestFields(
            at=None if at is None else parse_time("--at", at),
            filter_at=None if filter_at is None else parse_time("--filter-at", filter_at),
            regime=None if regime is None else regime.value,
            action=action,
            new_only=new_only,
        ),
        ops.ConstraintOptions(min_age_days, tuple(same or ()), tuple(different or ()), only, exclude, diversity, cap),
        ops.OutputOptions(with_reasons, as_json, out),
        model=model.value,
        k=k,
        approximate=approximate,
        clusters=clusters,
        sampling=draws if sample else None,
        run=run,
        use_latest_log=use_latest_log,
    )
    ops.recommend(call)


@app.command(rich_help_panel="Recommending")
def export(
    out: Annotated[Path, typer.Argument(help="The Parquet file to write.")],
    run: RunOption = None,
) -> None:
    """Write the vectors and STUs (semantic IDs) of all users to a Parquet file."""
    from befriend.ops.served_run import RANKING_MODELS, find_served_run, require_outputs

    if out.is_dir():
        raise CallError(f"{out} is a folder: give a file name, such as vectors.parquet.")
    served = find_served_run(run)
    require_outputs(served.folder, layout.PREPARED, *RANKING_MODELS)
    note("loading models ...")

    from befriend.ops import serve_lists  # after the checks, since it takes seconds

    serve_lists.export(served, out)
