"""`befriend recommend` and `befriend export`: load the served run, print or write its lists, and write its vectors."""

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
from befriend.data.erasure import read_erased
from befriend.data.event_log import USERS_FILE, EventLog
from befriend.data.renumber import renumber
from befriend.errors import CallError, DataError
from befriend.ops.registry import champion
from befriend.recommendation import list_writer
from befriend.recommendation.request_table import REGIME, ids_of, read_requests

SCORE_DIGITS = 8


@dataclass(frozen=True)
class RequestSource:
    """Who gets lists: one user, the users of a file, all users of the log, or the users of a file of requests.

    Exactly one of them is given; CallError otherwise.
    """

    user: str | None = None
    users: Path | None = None
    everybody: bool = False
    requests: Path | None = None

    def __post_init__(self) -> None:
        if (self.user is not None) + (self.users is not None) + self.everybody + (self.requests is not None) != 1:
            raise CallError(
                "name one person (--user ID), a file of them (--users FILE), everybody (--all), or a file of requests "
                "(--requests FILE)."
            )

    def table(self, log: EventLog, options: RecommendOptions) -> pl.DataFrame:
        """The requests, with the columns of `befriend.recommendation.request_table.COLUMNS`.

        Where neither regime nor action is given, the regime is daily for many users, and live for one.
        """
        if self.requests is not None:
            return read_requests(self.requests)
        if self.user is None and options.action is None and options.regime is None:
            options = options.replaced(regime="daily")
        users = log.user_ids if self.everybody else pl.Series([self.user])
        if self.users is not None:
            users = read_ids(self.users)
        return options.requests(users)


@dataclass(frozen=True)
class OutputOptions:
    """How lists are printed or written."""

    why: bool = False
    """with reasons"""
    as_json: bool = False
    """print JSON instead of a table"""
    out: Path | None = None
    """the Parquet file to write; None: print"""


def recommend(
    run: Path | None, newest: bool, source: RequestSource, options: RecommendOptions, output: OutputOptions
) -> None:
    """Prints lists as a table or as JSON, or writes them to a Parquet file. run, newest: as of `served_run`."""
    _check_call(source, options, output)
    erased = read_erased(layout.PREPARED)
    people = served_run(run, newest)
    requests = source.table(people.log, options)
    maker = people.lists(options)
    if source.requests is None:
        regime = requests[REGIME][0] if requests.height else "daily"
        typer.echo(f"befriend: as in regime {regime} (--regime for another)", err=True)

    def finish(lists: pl.DataFrame) -> pl.DataFrame:
        """Rounds scores, adds reasons, and reports users of whom nothing is known."""
        unknown = lists.filter(~pl.col("known"))["user"].unique(maintain_order=True)
        if len(unknown):
            names = ", ".join(map(str, unknown.head(5))) + (", ..." if len(unknown) > 5 else "")
            typer.echo(
                f"befriend: nothing is known of {names} at that time: the cold-start list, made without any history.",
                err=True,
            )
        lists = lists.with_columns(pl.col("score").round(SCORE_DIGITS))
        if output.why:
            reasons = people.reasons(requests, lists, options)
            lists = lists.with_columns(why=pl.Series(reasons, dtype=pl.List(pl.String)))
        return lists if source.requests is not None else lists.drop("request")

    if (out := output.out) is not None:
        # All that the lists depend on. A stopped run goes on only where this is the same in the next process, so
        # options must not hold a set, whose order changes from process to process.
        inputs = f"{people.digest} {requests.rows()} {options} {output.why}"
        digest = hashlib.sha256(inputs.encode()).hexdigest()[:16]
        earlier = list_writer.write_lists(
            maker, requests, out, digest, finish, lambda: _check_no_new_erasure(people, erased, out)
        )
        note = f" ({earlier:,} of them were made before)" if earlier else ""
        typer.echo(f"{requests.height:,} lists{note} are in {out}.")
        return
    lists = finish(people.answer(requests, options))
    if not lists.height:
        typer.echo("befriend: nobody is left who may be listed.", err=True)
    if output.as_json:
        typer.echo(lists.with_columns(pl.col("last_active").dt.to_string("iso:strict")).write_json())
    else:
        _print(lists, with_user=source.user is None)


def _check_call(source: RequestSource, options: RecommendOptions, output: OutputOptions) -> None:
    """CallError for options of the command that do not go together."""
    of_requests = options.at, options.filter_at, options.regime, options.action, options.new_only
    if source.requests is not None and any(of_requests):
        raise CallError(
            "--requests says for each list what --at, --filter-at, --regime, --action and --new-only say for all: "
            "leave these out."
        )
    if options.clusters and (options.approximate or options.model == "stu"):
        raise CallError("--clusters is a search of the two-tower model: leave out --approximate, and --model stu.")
    if source.everybody and output.out is None:
        raise CallError("lists for everybody go into a file: add --out FILE.")
    if output.out is not None and (not output.out.name or output.out.is_dir()):
        raise CallError(f"--out {output.out} is no file: name one, as lists.parquet.")


def _print(lists: pl.DataFrame, with_user: bool) -> None:
    """Prints lists as a table. with_user: also whose list it is."""
    why = "why" in lists.columns
    heads = ["", "recommended", "score", "contact", "last active", *(["why"] if why else [])]
    table = Table(*(["user"] if with_user else []), *heads, box=None, padding=(0, 1, int(why), 1))
    for row in lists.iter_rows(named=True):
        cells = [str(row["rank"]), str(row["recommended"]), f"{row['score']:.2f}", "yes" if row["contact"] else ""]
        cells.append(f"{row['last_active']:%Y-%m-%d %H:%M}" if row["last_active"] else "never")
        cells += ["\n".join(row["why"])] if why else []
        table.add_row(*([str(row["user"])] if with_user else []), *cells)
    Console().print(table)


def read_ids(path: Path) -> pl.Series:
    """The external ids in a file, each once, in the order of the file. CallError where it has none.

    A text file has one id a line; a Parquet file has them in column user_id.
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
        raise CallError(f"{path} cannot be read: {error}. Ids stand one a line, in UTF-8, or in Parquet.") from None
    if USER_ID not in table.columns:
        raise CallError(f"{path} has no column {USER_ID}; its columns: {', '.join(table.columns)}.")
    ids = ids_of(table[USER_ID].drop_nulls())
    if not len(ids):
        raise CallError(f"{path} names nobody.")
    return ids.unique(maintain_order=True)


def served_run(run: Path | None, newest: bool = False) -> Befriend:
    """The run in a folder. run None: the champion, or the run in this folder where none is promoted yet.

    newest: the champion sees the events that were prepared last, instead of those that it was trained with.
    """
    promoted = champion(Path()) if run is None else None
    if newest and promoted is None:
        raise CallError("--newest is for the champion: promote a run first, and leave out --run.")
    if promoted is None:
        return load(run or Path())
    typer.echo(
        f"befriend: champion {promoted.number}, promoted {promoted.manifest['promoted']} (--run . for another)",
        err=True,
    )
    erased = read_erased(layout.PREPARED)
    if not newest:
        return Befriend(promoted.folder, erased)
    view = tempfile.TemporaryDirectory()  # holds personal data: removed when the process ends
    atexit.register(view.cleanup)
    ids = pl.read_parquet(promoted.folder / layout.PREPARED / USERS_FILE)[USER_ID]
    renumber(layout.PREPARED, ids, Path(view.name) / "prepared")
    return Befriend(promoted.folder, erased, Path(view.name) / "prepared")


def _check_no_new_erasure(people: Befriend, erased: frozenset[str], out: Path) -> None:
    """DataError where a user was erased, here or in the served run, since the digests in `erased` were read."""
    erased_by_now = read_erased(layout.PREPARED) | read_erased(people.root / layout.PREPARED)
    if erased_by_now - erased - people.erased:
        raise DataError(
            f"somebody asked to be forgotten while {out} was made, so it was not written. Run the same command again: "
            "it leaves them out."
        )


def export(run: Path | None, out: Path) -> None:
    """Writes vectors and STUs of all users to a Parquet file."""
    erased = read_erased(layout.PREPARED)
    people = served_run(run)
    vectors = people.vectors()
    with files.atomic(out) as path:
        vectors.write_parquet(path, compression="zstd")
        _check_no_new_erasure(people, erased, out)
    typer.echo(f"vectors and STUs of {vectors.height:,} users are in {out}.")
