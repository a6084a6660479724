"""`befriend recommend`: reads the log and the model, prints or writes lists."""

from __future__ import annotations

import atexit
import hashlib
import tempfile
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import polars as pl
import typer
from rich.console import Console
from rich.table import Table

from befriend import files, layout
from befriend.api import Befriend, ModelName, load
from befriend.data.columns import USER_ID
from befriend.data.forgotten import read_marks
from befriend.data.log import USERS_FILE
from befriend.data.renumber import renumber
from befriend.errors import CallError, DataError
from befriend.ops.registry import champion
from befriend.retrieval import batch
from befriend.retrieval.recommend import Asked, blocks, numbers
from befriend.retrieval.rules import Rules
from befriend.retrieval.sampling import Sampling


def recommend(
    run: Path | None,
    newest: bool,
    user: str | None,
    users: Path | None,
    everybody: bool,
    at: str | None,
    action: str | None,
    k: int,
    new_only: bool,
    sampling: Sampling | None,
    rules: Rules,
    only: Path | None,
    model: ModelName,
    approximate: bool,
    clusters: bool,
    why: bool,
    as_json: bool,
    out: Path | None,
) -> None:
    """Lists for one user, for those of a file or for everybody: a table, JSON, or a Parquet file."""
    marks = read_marks(layout.PREPARED)
    people, moment = serving(run, newest), _moment(at)
    wanted = people.log.user_ids if everybody else pl.Series([user]) if users is None else _read_users(users)
    if only is not None:
        listed = numbers(people.log.user_ids, _read_users(only))
        rules = replace(rules, only=frozenset(listed[listed < people.log.num_users].tolist()))
    asked = Asked(moment, action, k, new_only, sampling, rules)
    recommender = people.recommender(asked, model, approximate, clusters)

    def finish(lists: pl.DataFrame) -> pl.DataFrame:
        strangers = lists.filter(~pl.col("known"))["user"].unique(maintain_order=True)
        if len(strangers):
            who = ", ".join(map(str, strangers.head(5))) + (", ..." if len(strangers) > 5 else "")
            typer.echo(
                f"befriend: nothing is known of {who} at that moment: the cold-start list, made without any history.",
                err=True,
            )
        return _with_reasons(people, lists, moment, action, model) if why else lists

    if out is not None:
        told = f"{people.digest} {asked} {model} {approximate} {clusters} {why} {wanted.to_list()}"
        digest = hashlib.sha256(told.encode()).hexdigest()[:16]
        served = batch.write(recommender, wanted, out, digest, finish, lambda: _nobody_forgotten(people, marks, out))
        kept = f" ({served:,} of them were made before)" if served else ""
        typer.echo(
            f"{pl.scan_parquet(out).select(pl.col('user').n_unique()).collect().item():,} lists{kept} are in {out}."
        )
        return
    lists = finish(pl.concat(recommender.lists(some) for some in blocks(wanted)))
    if as_json:
        typer.echo(lists.with_columns(pl.col("last_active").dt.to_string("iso:strict")).write_json())
    else:
        _print(lists, several=user is None)


def _print(lists: pl.DataFrame, several: bool) -> None:
    why = "why" in lists.columns
    heads = ["", "recommended", "score", "contact", "last active", *(["why"] if why else [])]
    table = Table(*(["user"] if several else []), *heads, box=None, padding=(0, 1, int(why), 1))
    for row in lists.iter_rows(named=True):
        cells = [str(row["rank"]), str(row["recommended"]), f"{row['score']:.2f}", "yes" if row["contact"] else ""]
        cells.append(f"{row['last_active']:%Y-%m-%d %H:%M}")
        cells += ["\n".join(row["why"])] if why else []
        table.add_row(*([str(row["user"])] if several else []), *cells)
    Console().print(table)


def _with_reasons(
    people: Befriend, lists: pl.DataFrame, at: datetime | None, action: str | None, model: ModelName
) -> pl.DataFrame:
    """With the column why, list[str]; empty for those of whom nothing is known."""
    reasons = []
    for (user, known), rows in lists.group_by("user", "known", maintain_order=True):
        found = rows["recommended"].to_list()
        reasons += people.explain(user, found, at, action, model) if known else [[] for _ in found]
    return lists.with_columns(why=pl.Series(reasons, dtype=pl.List(pl.String)))


def _read_users(path: Path) -> pl.Series:
    """The ids of a file, each once."""
    if not path.is_file():
        raise CallError(f"there is no file {path}.")
    if path.suffix != ".parquet":
        lines = path.read_text(encoding="utf-8").splitlines()
        ids = pl.Series([line.strip() for line in lines if line.strip()], dtype=pl.String)
    else:
        table = pl.read_parquet(path)
        if USER_ID not in table.columns:
            raise CallError(f"{path} has no column {USER_ID}; its columns: {', '.join(table.columns)}.")
        ids = table[USER_ID].drop_nulls()
    if not len(ids):
        raise CallError(f"{path} names nobody.")
    return ids.unique(maintain_order=True)


def _moment(at: str | None) -> datetime | None:
    try:
        return None if at is None else datetime.fromisoformat(at)
    except ValueError:
        raise CallError(f"--at {at}: write it as 2024-05-31 or 2024-05-31T18:00:00.") from None


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
