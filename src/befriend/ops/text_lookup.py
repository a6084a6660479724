"""`befriend text similar` and `befriend text infer`: users with similar texts, and statements likely true of a user."""

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
from befriend.data.erasure import erasure_digest, is_erased, read_erasure_digests
from befriend.data.event_log import TEXTS_FILE, EventLog
from befriend.errors import CallError
from befriend.features.text_vectors import TextVectors
from befriend.ops.registry import current_champion
from befriend.stages.embed_text import INFERENCE
from befriend.text.text_evaluator import UniversalUserEmbeddingEvaluator

MAX_SHOWN_CHARACTERS = 70  # of a text


def similar(run: Path | None, user: str, k: int, as_json: bool) -> None:
    """Prints the k users whose texts are most similar to those of a user, in descending order of similarity."""
    folder, log, texts = _open(run)
    vectors, has_text = _latest(log, texts)
    query = _internal_id(folder, log, has_text, user)
    has_text[query] = False
    has_text[is_erased(log.user_ids, read_erasure_digests(folder / layout.PREPARED)).to_numpy()] = False
    cosine = np.where(has_text, (vectors @ vectors[query]).numpy(), -np.inf)
    best = [n for n in np.argsort(-cosine, kind="stable")[:k] if has_text[n]]
    last_texts = _last_texts(folder)
    rows = pl.DataFrame(
        {
            "user": log.user_ids.gather(best),
            "similarity": [round(float(cosine[n]), 4) for n in best],
            "last_text": [last_texts.get(int(n), "") for n in best],
        },
        schema_overrides={"similarity": pl.Float64, "last_text": pl.String},
    )
    _print(rows, as_json, f"Users with texts similar to those of {user}: {last_texts.get(query, '')}")


def infer(run: Path | None, user: str, statements: list[str], as_json: bool) -> None:
    """Prints the similarity of statements and a user's texts, and its rank among all users with texts."""
    folder, log, texts = _open(run)
    vectors, has_text = _latest(log, texts)
    query = _internal_id(folder, log, has_text, user)
    towers = UniversalUserEmbeddingEvaluator(folder / layout.TEXT_TOWERS, layout.TEXT_CACHE)
    cosine = vectors @ towers.get_statement_embeddings(statements).T  # (N, S)
    threshold = files.read_json(folder / layout.TEXT / INFERENCE)["threshold"]
    all_cosines = cosine[torch.from_numpy(has_text)]
    rows = pl.DataFrame(
        {
            "statement": statements,
            "similarity": [round(float(x), 4) for x in cosine[query]],
            "nearer_than": [round(float(x), 4) for x in (all_cosines < cosine[query]).float().mean(0)],
            "likely": [None if threshold is None else bool(x >= threshold) for x in cosine[query]],
        },
        schema_overrides={"likely": pl.Boolean},
    )
    _print(rows, as_json, f"Statements about {user}, whose last text is: {_last_texts(folder).get(query, '')}")


def _open(run: Path | None) -> tuple[Path, EventLog, TextVectors]:
    """(folder, log, text vectors) of a run; None: of the champion, or else of the working folder."""
    served = current_champion(Path())
    folder = run if run is not None else served.folder if served is not None else Path()
    log = EventLog.read(folder / layout.PREPARED)
    texts = TextVectors.read(folder / layout.TEXT, log)
    if not texts.width:
        raise CallError(
            "the log of this run has no texts. Name a table of texts under data.texts in params.yaml, or try the "
            "embedded sample: befriend text demo"
        )
    return folder, log, texts


def _latest(log: EventLog, texts: TextVectors) -> tuple[torch.Tensor, np.ndarray]:
    """(float32[N, E] vectors of all texts of each user, bool[N] whether the user has texts)."""
    users, end = torch.arange(log.num_users), texts.timestamp.max() + 1
    return texts.latest_vectors(users, end), texts.has_text(users, end).numpy()


def _internal_id(folder: Path, log: EventLog, has_text: np.ndarray, user: str) -> int:
    """Internal id of a user, given by external id. Raises CallError without such a user, or without texts."""
    matches = np.flatnonzero((log.user_ids.cast(pl.String) == user).to_numpy())
    if not len(matches) or erasure_digest(user) in read_erasure_digests(folder / layout.PREPARED):
        raise CallError(f"there is no user {user} in {folder / layout.PREPARED}.")
    if not has_text[matches[0]]:
        raise CallError(f"{user} has no texts.")
    return int(matches[0])


def _last_texts(folder: Path) -> dict[int, str]:
    """Internal id -> beginning of the user's last text. Empty for promoted runs, which contain no texts."""
    path = folder / layout.PREPARED / TEXTS_FILE
    if not path.is_file():
        return {}
    last = pl.read_parquet(path).sort(USER, TIMESTAMP, maintain_order=True).unique(USER, keep="last")
    return {
        user: text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[: MAX_SHOWN_CHARACTERS - 1]}…"
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
