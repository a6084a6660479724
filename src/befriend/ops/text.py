"""`befriend text similar` and `befriend text infer`: the text towers of a run, asked about somebody."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import torch
import typer
from rich.console import Console
from rich.table import Table

from befriend import files, layout
from befriend.data.columns import TEXT, TIMESTAMP, USER
from befriend.data.forgotten import mark, marked, read_marks
from befriend.data.log import TEXTS_FILE, EventLog
from befriend.data.texts import TextVectors
from befriend.errors import CallError
from befriend.ops.registry import champion
from befriend.stages.embed_text import INFERENCE
from befriend.text.evaluator import UniversalUserEmbeddingEvaluator

SHOWN = 70  # letters of a text


def similar(run: Path | None, user: str, k: int, as_json: bool) -> None:
    """The k users whose texts are most like somebody's, nearest first."""
    folder, log, texts = _open(run)
    everyone, known = _everyone(log, texts)
    me = _number(folder, log, known, user)
    known[me] = False
    known[marked(log.user_ids, read_marks(folder / layout.PREPARED)).to_numpy()] = False
    cosine = np.where(known, (everyone @ everyone[me]).numpy(), -np.inf)
    best = [n for n in np.argsort(-cosine, kind="stable")[:k] if known[n]]
    newest = _newest(folder)
    rows = pl.DataFrame(
        {
            "user": log.user_ids.gather(best),
            "similarity": [round(float(cosine[n]), 4) for n in best],
            "last_text": [newest.get(int(n), "") for n in best],
        },
        schema_overrides={"similarity": pl.Float64, "last_text": pl.String},
    )
    _print(rows, as_json, f"Users who write like {user}: {newest.get(me, '')}")


def infer(run: Path | None, user: str, statements: list[str], as_json: bool) -> None:
    """How near each statement is to somebody's texts, and how that compares with everybody else's."""
    folder, log, texts = _open(run)
    everyone, known = _everyone(log, texts)
    me = _number(folder, log, known, user)
    towers = UniversalUserEmbeddingEvaluator(folder / layout.TEXT_TOWERS, layout.TEXT_CACHE)
    cosine = everyone @ towers.get_statement_embeddings(statements).T  # (N, S)
    threshold = files.read_json(folder / layout.TEXT / INFERENCE)["threshold"]
    others = cosine[torch.from_numpy(known)]
    rows = pl.DataFrame(
        {
            "statement": statements,
            "similarity": [round(float(x), 4) for x in cosine[me]],
            "nearer_than": [round(float(x), 4) for x in (others < cosine[me]).float().mean(0)],
            "likely": [None if threshold is None else bool(x >= threshold) for x in cosine[me]],
        },
        schema_overrides={"likely": pl.Boolean},
    )
    _print(rows, as_json, f"Of {user}, who wrote: {_newest(folder).get(me, '')}")


def _open(run: Path | None) -> tuple[Path, EventLog, TextVectors]:
    """The folder of a run, its log, and what its users wrote."""
    served = champion(Path())
    folder = run if run is not None else served.folder if served is not None else Path()
    log = EventLog.read(folder / layout.PREPARED)
    texts = TextVectors.read(folder / layout.TEXT, log)
    if not texts.width:
        raise CallError(
            "the log of this run has no texts. Name a table of them under data.texts in params.yaml, or look at the "
            "embedded sample: befriend text demo"
        )
    return folder, log, texts


def _everyone(log: EventLog, texts: TextVectors) -> tuple[torch.Tensor, np.ndarray]:
    """float32[N, E], by all that everybody wrote, and bool[N], who wrote anything."""
    who, end = torch.arange(log.num_users), texts.second.max() + 1
    return texts.latest(who, end), texts.known(who, end).numpy()


def _number(folder: Path, log: EventLog, known: np.ndarray, user: str) -> int:
    found = np.flatnonzero((log.user_ids.cast(pl.String) == user).to_numpy())
    if not len(found) or mark(user) in read_marks(folder / layout.PREPARED):
        raise CallError(f"there is no user {user} in {folder / layout.PREPARED}.")
    if not known[found[0]]:
        raise CallError(f"{user} wrote nothing.")
    return int(found[0])


def _newest(folder: Path) -> dict[int, str]:
    """The beginning of each user's last text; of promoted runs no texts are kept."""
    path = folder / layout.PREPARED / TEXTS_FILE
    if not path.is_file():
        return {}
    last = pl.read_parquet(path).sort(USER, TIMESTAMP, maintain_order=True).unique(USER, keep="last")
    return {
        user: text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
        for user, text in last.select(USER, pl.col(TEXT).str.replace_all(r"\s+", " ")).iter_rows()
    }


def _print(rows: pl.DataFrame, as_json: bool, title: str) -> None:
    if as_json:
        typer.echo(rows.write_json())
        return
    table = Table(*(name.replace("_", " ") for name in rows.columns), box=None, title=title, title_justify="left")
    for row in rows.iter_rows():
        cells = ("" if value is None else {True: "yes", False: "no"}.get(value, value) for value in row)
        table.add_row(*(f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in cells))
    Console().print(table)
