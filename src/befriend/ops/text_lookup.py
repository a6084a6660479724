"""`befriend text similar` and `befriend text infer`: users with similar texts, and statements likely true of a user."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from befriend import files, layout
from befriend.data.columns import TEXT, TIMESTAMP, USER
from befriend.data.erasure import is_erased, read_erasure_digests
from befriend.data.event_log import TEXTS_FILE, EventLog
from befriend.features.text_vectors import TextVectors
from befriend.ops.lookup_checks import no_texts, user_texts
from befriend.ops.served_run import ServedRun
from befriend.ops.user_ids import MAX_NEAREST
from befriend.progress import note
from befriend.stages.embed_text import INFERENCE
from befriend.text.text_evaluator import UniversalUserEmbeddingEvaluator

MAX_SHOWN_CHARACTERS = 70  # of a text
MAX_SHOWN_TEXTS = 3  # of the user in question


def similar(served: ServedRun, user: str, k: int, as_json: bool) -> None:
    """Prints the k users whose texts are most similar to those of a user, in descending order of similarity."""
    log, texts = _open(served)
    vectors, has_text = _latest(log, texts)
    query = _internal_id(log, has_text, user)
    has_text[query] = False
    has_text[is_erased(log.user_ids, read_erasure_digests(served.prepared)).to_numpy()] = False
    cosine = np.where(has_text, (vectors @ vectors[query]).numpy(), -np.inf)
    best = [n for n in np.argsort(-cosine, kind="stable")[:k] if has_text[n]]
    last_texts = _last_texts(served.prepared)
    rows = pl.DataFrame(
        {
            "user": log.user_ids.gather(best),
            "similarity": [round(float(cosine[n]), 4) for n in best],
            "last_text": [last_texts.get(int(n), "") for n in best],
        },
        schema_overrides={"similarity": pl.Float64, "last_text": pl.String},
    )
    if as_json:
        typer.echo(rows.write_json())
        return
    _print_texts(served.prepared, user)
    typer.echo(f"Users whose texts, all of a user's together, are most similar to those of {user} (cosine, at most 1):")
    _print(rows if last_texts else rows.drop("last_text"))
    if not last_texts:
        note("a promoted run keeps no texts; --run . shows those of the log that was prepared last.")


def infer(served: ServedRun, user: str, statements: list[str], as_json: bool) -> None:
    """Prints the similarity of statements and a user's texts, and its rank among all users with texts."""
    log, texts = _open(served)
    vectors, has_text = _latest(log, texts)
    query = _internal_id(log, has_text, user)
    towers = UniversalUserEmbeddingEvaluator(served.folder / layout.TEXT_TOWERS, layout.TEXT_CACHE)
    cosine = vectors @ towers.get_statement_embeddings(statements).T  # (N, S)
    threshold = files.read_json(served.folder / layout.TEXT / INFERENCE)["threshold"]
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
    if as_json:
        typer.echo(rows.write_json())
        return
    _print_texts(served.prepared, user)
    shares = rows["nearer_than"].map_elements(lambda share: f"{share:.0%} of users", pl.String)
    _print(rows.with_columns(nearer_than=shares))
    typer.echo(
        "\nsimilarity: cosine of the statement and all texts of the user, from -1 to 1; it is not a probability.\n"
        "nearer than: share of the users with texts whose texts are less similar to the statement."
    )
    if threshold is not None:
        typer.echo(
            f"likely: whether the similarity is at least {threshold:.2f}, the limit that separated true statements\n"
            "from others best in validation (F1)."
        )


def _open(served: ServedRun) -> tuple[EventLog, TextVectors]:
    """The log and the text vectors of a run."""
    log = EventLog.read(served.prepared)
    return log, TextVectors.read(served.folder / layout.TEXT, log)


def _latest(log: EventLog, texts: TextVectors) -> tuple[torch.Tensor, np.ndarray]:
    """(float32[N, E] vectors of all texts of each user, bool[N] whether the user has texts)."""
    users, end = torch.arange(log.num_users), texts.timestamp.max() + 1
    return texts.latest_vectors(users, end), texts.has_text(users, end).numpy()


def _internal_id(log: EventLog, has_text: np.ndarray, user: str) -> int:
    """Internal id of a user of the log, given by external id. Raises CallError for one without texts.

    has_text: bool[N].
    """
    internal = int(log.internal_ids(pl.Series([user]))[0])
    if not has_text[internal]:
        others = log.user_ids.filter(pl.Series(has_text)).head(MAX_NEAREST)
        raise no_texts(user, others.cast(pl.String).to_list())
    return internal


def _print_texts(prepared: Path, user: str) -> None:
    """Prints how many texts a user has written, and the last ones; nothing for a promoted run, which keeps no texts."""
    texts = user_texts(prepared, user)
    if texts:
        last = texts[-MAX_SHOWN_TEXTS:]
        typer.echo(f"{user} wrote {len(texts):,} texts. The last:" if len(texts) > len(last) else f"{user} wrote:")
        typer.echo("\n".join(f"  {_shorten(text)}" for text in last) + "\n")


def _last_texts(prepared: Path) -> dict[int, str]:
    """Internal id -> beginning of the user's last text. Empty for promoted runs, which contain no texts."""
    path = prepared / TEXTS_FILE
    if not path.is_file():
        return {}
    last = pl.read_parquet(path).sort(USER, TIMESTAMP, maintain_order=True).unique(USER, keep="last")
    return {user: _shorten(text) for user, text in last.select(USER, TEXT).iter_rows()}


def _shorten(text: str) -> str:
    """A text on one line, cut after MAX_SHOWN_CHARACTERS."""
    text = " ".join(text.split())
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[: MAX_SHOWN_CHARACTERS - 1]}…"


def _print(rows: pl.DataFrame) -> None:
    table = Table(*(name.replace("_", " ") for name in rows.columns), box=None)
    for row in rows.iter_rows():
        cells = ("" if value is None else {True: "yes", False: "no"}.get(value, value) for value in row)
        table.add_row(*(f"{cell:.2f}" if isinstance(cell, float) else escape(str(cell)) for cell in cells))
    Console().print(table)
