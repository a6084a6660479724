"""`befriend recommend` and `befriend export`: print or write lists by the served run, and write its user vectors."""

from __future__ import annotations

import atexit
import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import typer
from rich.console import Console
from rich.table import Table

from befriend import files, layout
from befriend.api import Befriend, RecommendOptions, load
from befriend.data.columns import USER_ID
from befriend.data.erasure import read_erasure_digests
from befriend.data.event_log import USERS_FILE, EventLog
from befriend.data.renumber import renumber
from befriend.errors import CallError, DataError
from befriend.ops.registry import current_champion
from befriend.recommendation import list_writer
from befriend.recommendation.request_table import REGIME, as_id_column, read_requests

SCORE_DIGITS = 8


@dataclass(frozen=True)
class RequestSource:
    """Who gets lists, by ids in the log. Exactly one of the fields has to be given; CallError otherwise."""

    user: str | None = None
    """id of one user"""
    users: Path | None = None
    """file of ids of users, see `read_ids`"""
    all_users: bool = False
    """all users of the log"""
    requests: Path | None = None
    """file of requests, see `befriend.recommendation.request_table.read_requests`"""

    def __post_init__(self) -> None:
        if (self.user is not None) + (self.users is not None) + self.all_users + (self.requests is not None) != 1:
            raise CallError(
                "name one user (--user ID), a file of users (--users FILE), all users (--all), or a file of requests "
                "(--requests FILE)."
            )

    def table(self, log: EventLog, options: RecommendOptions) -> pl.DataFrame:
        """The requests, with the columns of `befriend.recommendation.request_table.COLUMNS`.

        Without regime and action, the regime is daily for many users, and live for one user.
        """
        if self.requests is not None:
            return read_requests(self.requests)
        if self.user is None and options.action is None and options.regime is None:
            options = options.replaced(regime="daily")
        users = log.user_ids if self.all_users else pl.Series([self.user])
        if self.users is not None:
            users = read_ids(self.users)
        return options.requests(users)


@dataclass(frozen=True)
class OutputOptions:
    """How lists are printed or written."""

    with_reasons: bool = False
    """whether to add the column why, with the reasons of each recommendation"""
    as_json: bool = False
    """print JSON instead of a table"""
    out: Path | None = None
    """the Parquet file to write; None: print"""


def recommend(
    run: Path | None, use_latest_log: bool, source: RequestSource, options: RecommendOptions, output: OutputOptions
) -> None:
    """Prints lists as a table or as JSON, or writes them to a Parquet file. run, use_latest_log: as in `served_run`."""
    _check_call(source, options, output)
    erased = read_erasure_digests(layout.PREPARED)
    project = served_run(run, use_latest_log)
    requests = source.table(project.log, options)
    maker = project.list_maker(options)
    if source.requests is None:
        regime = requests[REGIME][0] if requests.height else "daily"
        typer.echo(f"befriend: as in regime {regime} (--regime for another)", err=True)

    def finish(lists: pl.DataFrame) -> pl.DataFrame:
        """Rounds scores, adds reasons, and reports users without an event or text before the cutoff."""
        unknown = lists.filter(~pl.col("known"))["user"].unique(maintain_order=True)
        if len(unknown):
            names = ", ".join(map(str, unknown.head(5))) + (", ..." if len(unknown) > 5 else "")
            typer.echo(
                f"befriend: nothing is known of {names} at that time: this is a cold-start list, without any history.",
                err=True,
            )
        lists = lists.with_columns(pl.col("score").round(SCORE_DIGITS))
        if output.with_reasons:
            reasons = project.explain_lists(requests, lists, options)
            lists = lists.with_columns(why=pl.Series(reasons, dtype=pl.List(pl.String)))
        return lists if source.requests is not None else lists.drop("request")

    if (out := output.out) is not None:
        # Everything that the lists depend on. A later process resumes the run only if this text is the same there, so
        # options must not hold a set, whose order changes from process to process.
        inputs = f"{project.digest} {requests.rows()} {options} {output.with_reasons}"
        digest = hashlib.sha256(inputs.encode()).hexdigest()[:16]
        num_made_before = list_writer.write_lists(
            maker, requests, out, digest, finish, lambda: _check_no_new_erasure(project, erased, out)
        )
        note = f" ({num_made_before:,} of them were made before)" if num_made_before else ""
        typer.echo(f"{requests.height:,} lists{note} are in {out}.")
        return
    lists = finish(project.recommend_requests(requests, options))
    if not lists.height:
        typer.echo("befriend: no user may be listed, so there are no recommendations.", err=True)
    if output.as_json:
        typer.echo(lists.with_columns(pl.col("last_active").dt.to_string("iso:strict")).write_json())
    else:
        _print(lists, with_user=source.user is None)


def _check_call(source: RequestSource, options: RecommendOptions, output: OutputOptions) -> None:
    """CallError for options of the command that do not fit together."""
    request_options = options.at, options.filter_at, options.regime, options.action, options.new_only
    if source.requests is not None and any(request_options):
        raise CallError(
            "--requests gives time, regime, action and kind of each list: leave out --at, --filter-at, --regime, "
            "--action and --new-only."
        )
    if options.clusters and (options.approximate or options.model == "stu"):
        raise CallError("--clusters is a search of the two-tower model: leave out --approximate, and --model stu.")
    if source.all_users and output.out is None:
        raise CallError("lists for all users are written to a file: add --out FILE.")
    if output.out is not None and (not output.out.name or output.out.is_dir()):
        raise CallError(f"--out {output.out} is not a file: give a file name, such as lists.parquet.")


def _print(lists: pl.DataFrame, with_user: bool) -> None:
    """Prints lists as a table. with_user: whether to print the requesting user in each row."""
    with_reasons = "why" in lists.columns
    headers = ["", "recommended", "score", "contact", "last active", *(["why"] if with_reasons else [])]
    table = Table(*(["user"] if with_user else []), *headers, box=None, padding=(0, 1, int(with_reasons), 1))
    for row in lists.iter_rows(named=True):
        cells = [str(row["rank"]), str(row["recommended"]), f"{row['score']:.2f}", "yes" if row["contact"] else ""]
        cells.append(f"{row['last_active']:%Y-%m-%d %H:%M}" if row["last_active"] else "never")
        cells += ["\n".join(row["why"])] if with_reasons else []
        table.add_row(*([str(row["user"])] if with_user else []), *cells)
    Console().print(table)


def read_ids(path: Path) -> pl.Series:
    """The distinct external ids in a file, in the order of the file. CallError if it has none or cannot be read.

    A text file has one id per line; a Parquet file has them in the column user_id.
    """
    if not path.is_file():
        raise CallError(f"there is no file {path}.")
    try:
        if path.suffix == ".parquet":
            table = pl.read_parquet(path)
        else:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
            table = pl.DataFrame({USER_ID: [line.strip() for line in lines if line.strip()]}, {USER_ID: pl.String})
    except (pl.exceptions.PolarsError, UnicodeDecodeError, OSError) as error:
        raise CallError(f"{path} cannot be read: {error}. Write one id per line, in UTF-8, or use Parquet.") from None
    if USER_ID not in table.columns:
        raise CallError(f"{path} has no column {USER_ID}; its columns: {', '.join(table.columns)}.")
    ids = as_id_column(table[USER_ID].drop_nulls())
    if not len(ids):
        raise CallError(f"{path} holds no ids.")
    return ids.unique(maintain_order=True)


def served_run(run: Path | None, use_latest_log: bool = False) -> Befriend:
    """Loads the log and the models of the run that is served.

    run: folder of a run; None: the champion, the promoted run that is served, or without one, the run in this folder;
    use_latest_log: load the champion's models with the log that was prepared last, instead of the champion's own log
    (CallError if `run` is given or there is no champion).
    """
    promoted = current_champion(Path()) if run is None else None
    if use_latest_log and promoted is None:
        raise CallError("--newest is for the champion: promote a run first, and leave out --run.")
    if promoted is None:
        return load(run or Path())
    typer.echo(
        f"befriend: champion {promoted.number}, promoted {promoted.manifest['promoted']} (--run . for another)",
        err=True,
    )
    erased = read_erasure_digests(layout.PREPARED)
    if not use_latest_log:
        return Befriend(promoted.folder, erased)
    latest = tempfile.TemporaryDirectory()  # holds personal data: removed when the process ends
    atexit.register(latest.cleanup)
    ids = pl.read_parquet(promoted.folder / layout.PREPARED / USERS_FILE)[USER_ID]
    renumber(layout.PREPARED, ids, Path(latest.name) / "prepared")
    return Befriend(promoted.folder, erased, Path(latest.name) / "prepared")


def _check_no_new_erasure(project: Befriend, erased: frozenset[str], out: Path) -> None:
    """DataError if a user was erased since the digests in `erased` were read, here or in the served run."""
    erased_now = read_erasure_digests(layout.PREPARED) | read_erasure_digests(project.root / layout.PREPARED)
    if erased_now - erased - project.erased:
        raise DataError(
            f"a user was erased while {out} was made, so it was not written. Run the same command again: it leaves out "
            "this user."
        )


def export(run: Path | None, out: Path) -> None:
    """Writes the vectors and STUs (tokens of the semantic ID) of all users to a Parquet file, without erased users.

    run: as in `served_run`.
    """
    erased = read_erasure_digests(layout.PREPARED)
    project = served_run(run)
    vectors = project.vectors()
    with files.atomic(out) as path:
        vectors.write_parquet(path, compression="zstd")
        _check_no_new_erasure(project, erased, out)
    typer.echo(f"vectors and STUs of {vectors.height:,} users are in {out}.")
