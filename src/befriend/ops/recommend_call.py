"""The call of `befriend recommend`: who gets lists, as of when, and how they are shown.

A call is checked here, and its requests are made, before PyTorch and the models are loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from befriend import layout
from befriend.data.regimes import Regime
from befriend.errors import CallError
from befriend.ops.served_run import RANKING_MODELS, find_served_run, require_outputs
from befriend.progress import note
from befriend.recommendation.request_time import to_utc_second

if TYPE_CHECKING:
    from befriend.recommendation.recommend_options import ModelName


@dataclass(frozen=True)
class RequestSource:
    """Who gets lists, by ids in the log. Exactly one of the first four fields has to be given; CallError otherwise."""

    user: str | None = None
    """id of one user"""
    users: Path | None = None
    """file of ids of users, see `befriend.ops.user_ids.read_ids`"""
    all_users: bool = False
    """all users of the log"""
    requests: Path | None = None
    """file of requests, see `befriend.recommendation.request_table.read_requests`"""
    cold_start: bool = False
    """whether users whom the log does not have get lists too; otherwise they are errors"""

    def __post_init__(self) -> None:
        if (self.user is not None) + (self.users is not None) + self.all_users + (self.requests is not None) != 1:
            raise CallError(
                "name one user (--user ID), a file of users (--users FILE), all users (--all), or a file of requests "
                "(--requests FILE)."
            )
        if self.all_users and self.cold_start:
            raise CallError("--all gives lists to users of the log, and --cold-start to others: leave out one of them.")


@dataclass(frozen=True)
class RequestFields:
    """What the requests of a call have in common, as in `befriend.recommendation.recommend_options.RecommendOptions`.

    Raises CallError for values that do not fit together.
    """

    at: datetime | None = None
    filter_at: datetime | None = None
    regime: Regime | None = None
    action: str | None = None
    new_only: bool = False

    def __post_init__(self) -> None:
        if self.at and self.filter_at and to_utc_second(self.filter_at) < to_utc_second(self.at):
            raise CallError("--filter-at, when the list is shown, lies before --at: give the same time or a later one.")
        if self.action is None and self.regime == "streaming":
            raise CallError("regime streaming is for a known action: add --action, or choose another --regime.")
        if self.action is not None and self.regime not in (None, "streaming"):
            raise CallError(f"regime {self.regime} is for an unknown action: leave out --action or --regime.")
        if self.regime == "frozen" and self.at is None:
            raise CallError(
                "regime frozen is for lists by a log that is not updated after some time: add this time, as in "
                "--at 2024-05-31."
            )


@dataclass(frozen=True)
class OutputOptions:
    """How lists are printed or written."""

    with_reasons: bool = False
    """whether to add the column why, with the reasons of each recommendation"""
    as_json: bool = False
    """print JSON instead of a table"""
    out: Path | None = None
    """the Parquet file to write; None: print"""


@dataclass(frozen=True)
class ConstraintOptions:
    """The constraints of `befriend.recommendation.list_constraints.ListConstraints`, with files of ids."""

    min_age_days: float = 0.0
    same: tuple[str, ...] = ()
    different: tuple[str, ...] = ()
    only: Path | None = None
    exclude: Path | None = None
    diversity: float = 0.0
    cap: int | None = None


@dataclass(frozen=True)
class RecommendCall:
    """All arguments of the command. Raises CallError for those that do not fit together."""

    source: RequestSource
    fields: RequestFields
    constraints: ConstraintOptions
    output: OutputOptions
    model: ModelName = "both"
    k: int = 10
    approximate: bool = False
    clusters: bool = False
    sampling: dict[str, Any] | None = None
    """the fields of `befriend.recommendation.sampling.Sampling`; None: no sampling"""
    run: Path | None = None
    """as in `befriend.ops.served_run.find_served_run`"""
    use_latest_log: bool = False
    """as in `befriend.ops.served_run.find_served_run`"""

    def __post_init__(self) -> None:
        if self.source.requests is not None and self.fields != RequestFields():
            raise CallError(
                "--requests gives time, regime, action and kind of each list: leave out --at, --filter-at, --regime, "
                "--action and --new-only."
            )
        if self.clusters and (self.approximate or self.model == "stu"):
            raise CallError("--clusters is a search of the two-tower model: leave out --approximate, and --model stu.")
        if self.source.all_users and self.output.out is None:
            raise CallError("lists for all users are written to a file: add --out FILE.")
        out = self.output.out
        if out is not None and (not out.name or out.is_dir()):
            raise CallError(f"--out {out} is not a file: give a file name, such as lists.parquet.")
        if out is not None and self.output.as_json:
            raise CallError("--json prints lists, and --out writes them to a Parquet file: leave out one of them.")


def recommend(call: RecommendCall) -> None:
    """Prints lists as a table or as JSON, or writes them to a Parquet file."""
    served = find_served_run(call.run, call.use_latest_log)
    clusters = [layout.CLUSTERS] if call.clusters else []
    require_outputs(served.folder, *RANKING_MODELS, *clusters)

    from befriend.ops.request_rows import check_call  # here, and below: a wrong call is answered before imports

    checked = check_call(call, served)
    if served.champion is not None:
        promoted = served.champion.manifest["promoted"]
        note(f"champion {served.champion.number}, promoted {promoted} (--run . for another)")
    if call.source.requests is None:
        regime = checked.requests["regime"][0] if checked.requests.height else "daily"
        at = call.fields.at
        second, end = (checked.log_end, ", the end of the log") if at is None else (to_utc_second(at), "")
        time = datetime.fromtimestamp(second, UTC)
        note(f"{regime} lists as of {time:%Y-%m-%d %H:%M:%S} UTC{end} (--regime and --at for others)")
    note("loading models and histories ...")

    from befriend.ops import serve_lists

    serve_lists.recommend(call, served, checked)
