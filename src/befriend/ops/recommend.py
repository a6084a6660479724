"""`befriend recommend`: reads the log and the model, prints or writes lists."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import polars as pl
import typer
from rich.console import Console
from rich.table import Table

from befriend import files
from befriend.api import Befriend, ModelName, load
from befriend.data.columns import USER_ID
from befriend.errors import CallError
from befriend.retrieval.recommend import numbers
from befriend.retrieval.rules import Rules
from befriend.retrieval.sampling import Sampling


def recommend(
    user: str | None,
    users: Path | None,
    at: str | None,
    action: str | None,
    k: int,
    new_only: bool,
    sampling: Sampling | None,
    rules: Rules,
    only: Path | None,
    model: ModelName,
    approximate: bool,
    why: bool,
    as_json: bool,
    out: Path | None,
) -> None:
    """Lists for one user or for those of a file: a table, JSON, or a Parquet file."""
    wanted = pl.Series([user]) if users is None else _read_users(users)
    people, moment = load(), _moment(at)
    if only is not None:
        listed = numbers(people.log.user_ids, _read_users(only))
        rules = replace(rules, only=frozenset(listed[listed < people.log.num_users].tolist()))
    lists = people.recommend(wanted, moment, action, k, new_only, model, sampling, approximate, rules)
    if why:
        lists = _with_reasons(people, lists, moment, action, model)
    strangers = lists.filter(~pl.col("known"))["user"].unique(maintain_order=True)
    if len(strangers):
        who = ", ".join(map(str, strangers.head(5))) + (", ..." if len(strangers) > 5 else "")
        typer.echo(
            f"befriend: nothing is known of {who} at that moment: the cold-start list, made without any history.",
            err=True,
        )
    if out is not None:
        with files.atomic(out) as path:
            lists.write_parquet(path, compression="zstd")
        typer.echo(f"{lists['user'].n_unique():,} lists are in {out}.")
    elif as_json:
        typer.echo(lists.with_columns(pl.col("last_active").dt.to_string("iso:strict")).write_json())
    else:
        _print(lists, several=users is not None)


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
    if not path.is_file():
        raise CallError(f"there is no file {path}.")
    if path.suffix != ".parquet":
        return pl.Series([line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()])
    table = pl.read_parquet(path)
    if USER_ID not in table.columns:
        raise CallError(f"{path} has no column {USER_ID}; its columns: {', '.join(table.columns)}.")
    return table[USER_ID]


def _moment(at: str | None) -> datetime | None:
    try:
        return None if at is None else datetime.fromisoformat(at)
    except ValueError:
        raise CallError(f"--at {at}: write it as 2024-05-31 or 2024-05-31T18:00:00.") from None


def export(out: Path) -> None:
    """Vectors and STUs of everyone, as Parquet."""
    vectors = load().vectors()
    with files.atomic(out) as path:
        vectors.write_parquet(path, compression="zstd")
    typer.echo(f"vectors and STUs of {vectors.height:,} users are in {out}.")
