"""`befriend recommend`: reads the log and the model, prints or writes lists."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import typer
from rich.console import Console
from rich.table import Table

from befriend import files, layout
from befriend.data.attributes import Attributes
from befriend.data.columns import USER_ID
from befriend.data.log import EventLog
from befriend.data.observed import Observed
from befriend.errors import CallError
from befriend.models.folder import load, load_stu
from befriend.retrieval import recommend as core
from befriend.retrieval.sampling import Sampling
from befriend.retrieval.serving import Retriever
from befriend.retrieval.stu import BEAM, StuRetriever
from befriend.retrieval.two_tower import TwoTowerRetriever
from befriend.tokens.folder import load as load_tokens


def recommend(
    user: str | None,
    users: Path | None,
    at: str | None,
    action: str | None,
    k: int,
    new_only: bool,
    sampling: Sampling | None,
    model: str,
    approximate: bool,
    as_json: bool,
    out: Path | None,
) -> None:
    """Lists for one user or for those of a file: a table, JSON, or a Parquet file."""
    wanted = pl.Series([user]) if users is None else _read_users(users)
    asked = core.Asked(_moment(at), action, k, new_only, sampling)
    lists = core.recommend(*_retriever(model, approximate), wanted, asked)
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


def _retriever(model: str, approximate: bool) -> tuple[Retriever[Any], tuple[str, ...]]:
    """A trained model on the prepared log, and the labels of actions that it knows."""
    log, attributes = EventLog.read(layout.PREPARED), Attributes.read(layout.PREPARED)
    if model == "two-tower":
        trained = load(layout.TWO_TOWER, log, attributes)
        observed = Observed.of(log, trained.tower.received_events, trained.actions)
        return TwoTowerRetriever(trained.model, observed, trained.tower, approximate), trained.actions
    tokens = load_tokens(layout.TOKENS, log)
    stu = load_stu(layout.STU, log, attributes, tokens)
    observed = Observed.of(log, stu.tower.received_events, stu.actions)
    stus = tokens.joined(log).table.stus
    return StuRetriever(stu.model, stus, observed, stu.tower, BEAM if approximate else None), stu.actions


def _print(lists: pl.DataFrame, several: bool) -> None:
    table = Table(*(["user"] if several else []), "", "recommended", "score", "contact", "last active", box=None)
    for row in lists.iter_rows(named=True):
        cells = [str(row["rank"]), str(row["recommended"]), f"{row['score']:.2f}", "yes" if row["contact"] else ""]
        cells.append(f"{row['last_active']:%Y-%m-%d %H:%M}")
        table.add_row(*([str(row["user"])] if several else []), *cells)
    Console().print(table)


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
