"""`befriend recommend`: reads the log and the model, prints or writes lists."""

from __future__ import annotations

import atexit
import hashlib
import tempfile
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import polars as pl
import typer
from rich.console import Console
from rich.table import Table

from befriend import files, layout
from befriend.api import Befriend, ModelName, RecommendOptions, load
from befriend.data.columns import USER_ID
from befriend.data.forgotten import read_marks
from befriend.data.log import USERS_FILE, EventLog
from befriend.data.renumber import renumber
from befriend.errors import CallError, DataError
from befriend.evaluation.regimes import Regime
from befriend.ops.registry import champion
from befriend.retrieval import batch
from befriend.retrieval.request_table import REGIME, ids_of, moment_of, read_requests, requests_table


@dataclass(frozen=True)
class Wanted:
    """Whose lists, as of when: one user, those of a file, everybody, or the requests of a file."""

    user: str | None = None
    users: Path | None = None
    everybody: bool = False
    requests: Path | None = None
    at: str | None = None
    filter_at: str | None = None
    regime: Regime | None = None
    """None: daily for many, live for one, streaming with an action"""
    action: str | None = None
    new_only: bool = False

    def table(self, log: EventLog) -> pl.DataFrame:
        """As of `befriend.retrieval.request_table.COLUMNS`."""
        if self.requests is not None:
            return read_requests(self.requests)
        nightly = self.user is None and self.action is None
        regime = self.regime or ("daily" if nightly else None)
        at, filter_at = _moment("--at", self.at), _moment("--filter-at", self.filter_at)
        users = log.user_ids if self.everybody else pl.Series([self.user])
        if self.users is not None:
            users = _read_users(self.users)
        return requests_table(users, at, filter_at, regime, self.action, self.new_only)


@dataclass(frozen=True)
class Output:
    """What becomes of the lists."""

    why: bool = False
    as_json: bool = False
    out: Path | None = None


def recommend(
    run: Path | None,
    newest: bool,
    wanted: Wanted,
    options: RecommendOptions,
    only: Path | None,
    exclude: Path | None,
    approximate: bool,
    clusters: bool,
    output: Output,
) -> None:
    """Prints lists as a table or JSON, or writes them to a Parquet file. only, exclude: files of people."""
    if output.out is not None and (not output.out.name or output.out.is_dir()):
        raise CallError(f"--out {output.out} is no file: name one, as lists.parquet.")
    marks = read_marks(layout.PREPARED)
    people = serving(run, newest)
    requests = wanted.table(people.log)
    rules = options.rules
    # In the order of the file: the options tell which run was stopped, and a set is in another order in every process.
    if only is not None:
        rules = replace(rules, only=tuple(_read_users(only)))
    if exclude is not None:
        rules = replace(rules, exclude=tuple(_read_users(exclude)))
    options = replace(options, rules=rules)
    maker = people.lists(options, approximate, clusters)
    if wanted.requests is None:
        served = requests[REGIME][0] if requests.height else "daily"
        typer.echo(f"befriend: as in regime {served} (--regime for another)", err=True)

    def finish(lists: pl.DataFrame) -> pl.DataFrame:
        strangers = lists.filter(~pl.col("known"))["user"].unique(maintain_order=True)
        if len(strangers):
            who = ", ".join(map(str, strangers.head(5))) + (", ..." if len(strangers) > 5 else "")
            typer.echo(
                f"befriend: nothing is known of {who} at that moment: the cold-start list, made without any history.",
                err=True,
            )
        lists = lists.with_columns(pl.col("score").round(SCORE_DIGITS))
        lists = _with_reasons(people, requests, lists, options.model) if output.why else lists
        return lists if wanted.requests is not None else lists.drop("request")

    if (out := output.out) is not None:
        asked = f"{people.digest} {requests.rows()} {options} {approximate} {clusters} {output.why}"
        digest = hashlib.sha256(asked.encode()).hexdigest()[:16]
        served = batch.write(maker, requests, out, digest, finish, lambda: _nobody_forgotten(people, marks, out))
        kept = f" ({served:,} of them were made before)" if served else ""
        typer.echo(f"{requests.height:,} lists{kept} are in {out}.")
        return
    lists = finish(people.answer(requests, options, approximate, clusters))
    if not lists.height:
        typer.echo("befriend: nobody is left who may be listed.", err=True)
    if output.as_json:
        typer.echo(lists.with_columns(pl.col("last_active").dt.to_string("iso:strict")).write_json())
    else:
        _print(lists, several=wanted.user is None)


SCORE_DIGITS = 8


def _print(lists: pl.DataFrame, several: bool) -> None:
    why = "why" in lists.columns
    heads = ["", "recommended", "score", "contact", "last active", *(["why"] if why else [])]
    table = Table(*(["user"] if several else []), *heads, box=None, padding=(0, 1, int(why), 1))
    for row in lists.iter_rows(named=True):
        cells = [str(row["rank"]), str(row["recommended"]), f"{row['score']:.2f}", "yes" if row["contact"] else ""]
        cells.append(f"{row['last_active']:%Y-%m-%d %H:%M}" if row["last_active"] else "never")
        cells += ["\n".join(row["why"])] if why else []
        table.add_row(*([str(row["user"])] if several else []), *cells)
    Console().print(table)


def _with_reasons(people: Befriend, requests: pl.DataFrame, lists: pl.DataFrame, model: ModelName) -> pl.DataFrame:
    """With the column why, list[str]."""
    return lists.with_columns(why=pl.Series(people.reasons(requests, lists, model), dtype=pl.List(pl.String)))


def _read_users(path: Path) -> pl.Series:
    """The ids of a file, each once."""
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


def _moment(option: str, text: str | None) -> datetime | None:
    return None if text is None else moment_of(option, text)


def serving(run: Path | None, newest: bool = False) -> Befriend:
    """The run in a folder; without one the champion, or the run that lies here where nothing was promoted yet.

    newest: the champion looks at the events that were prepared last, in place of those of its own day.
    """
    now = champion(Path()) if run is None else None
    if newest and now is None:
        raise CallError("--newest is for the champion: promote a run first, and leave out --run.")
    if now is not None:
        typer.echo(
            f"befriend: champion {now.number}, promoted {now.manifest['promoted']} (--run . for another)", err=True
        )
        marks = read_marks(layout.PREPARED)
        if not newest:
            return Befriend(now.folder, marks)
        view = tempfile.TemporaryDirectory()  # it holds everybody whom the champion knows: nothing to be kept
        atexit.register(view.cleanup)
        ids = pl.read_parquet(now.folder / layout.PREPARED / USERS_FILE)[USER_ID]
        renumber(layout.PREPARED, ids, Path(view.name) / "prepared")
        return Befriend(now.folder, marks, Path(view.name) / "prepared")
    return load(run or Path())


def _nobody_forgotten(people: Befriend, marks: frozenset[str], out: Path) -> None:
    """DataError where somebody was marked, here or in the run that is served, since these marks were read."""
    now = read_marks(layout.PREPARED) | read_marks(people.root / layout.PREPARED)
    if now - marks - people.marks:
        raise DataError(
            f"somebody asked to be forgotten while {out} was made, so it was not written. Run the same command again: "
            "it leaves them out."
        )


def export(run: Path | None, out: Path) -> None:
    """Vectors and STUs of everyone, as Parquet."""
    marks = read_marks(layout.PREPARED)
    people = serving(run)
    vectors = people.vectors()
    with files.atomic(out) as path:
        vectors.write_parquet(path, compression="zstd")
        _nobody_forgotten(people, marks, out)
    typer.echo(f"vectors and STUs of {vectors.height:,} users are in {out}.")
