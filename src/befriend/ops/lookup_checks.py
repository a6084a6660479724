"""Checks of `befriend text` and `befriend tokens`: whether a lookup can be answered, before PyTorch is imported."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from befriend import files, layout
from befriend.data.columns import TEXT, TIMESTAMP, USER
from befriend.data.erasure import is_erased, read_erasure_digests
from befriend.data.event_log import EVENTS_FILE, TEXTS_FILE, USERS_FILE
from befriend.data.external_ids import as_log_ids
from befriend.errors import CallError
from befriend.ops.served_run import ServedRun, log_name, require_outputs
from befriend.ops.user_ids import MAX_NEAREST, read_user_ids, require_user

LOG = (layout.PREPARED / EVENTS_FILE, layout.PREPARED / USERS_FILE)
ABOUT_TEXTS = layout.TEXT / "text_vectors.json"
STU_TABLE = layout.TOKENS / "table.parquet"


def check_text_lookup(served: ServedRun, user: str) -> None:
    """Raises CallError if the log of a run does not have a user or texts of this user; DataError if it has no run."""
    require_outputs(served.folder, *LOG, ABOUT_TEXTS)
    if not files.read_json(served.folder / ABOUT_TEXTS)["width"]:
        raise CallError(
            "the log of this run has no texts. Name a table of texts under data.texts in params.yaml and run "
            "`make run`, or try the embedded sample: befriend text demo"
        )
    known, erased = read_user_ids(served.prepared), read_erasure_digests(served.prepared)
    require_user(user, known, erased, served.log_name)
    texts_file = served.prepared / TEXTS_FILE
    if not texts_file.is_file():  # promoted runs keep no texts
        return
    authors = known.gather(pl.read_parquet(texts_file, columns=[USER])[USER].unique())
    if user not in authors.cast(pl.String):
        others = authors.filter(~is_erased(authors, erased)).sort().head(MAX_NEAREST)
        raise no_texts(user, others.cast(pl.String).to_list())


def no_texts(user: str, others: list[str]) -> CallError:
    """The error for a user without texts. others: some users with texts."""
    return CallError(f"user {user} has no texts. Users who have: {', '.join(others)}.")


def user_texts(prepared: Path, user: str) -> list[str]:
    """The texts of a user in time order; none in a promoted run, which keeps no texts. user: external id."""
    path = prepared / TEXTS_FILE
    if not path.is_file():
        return []
    ids = read_user_ids(prepared)
    internal = ids.index_of(as_log_ids(pl.Series([user]), ids.dtype)[0])
    return pl.scan_parquet(path).filter(pl.col(USER) == internal).sort(TIMESTAMP).collect()[TEXT].to_list()


def check_token_lookup(user: str, prefix: int | None = None) -> None:
    """Raises CallError if the prepared log does not have a user, or if STUs have fewer tokens than the prefix.

    DataError if there are no tokens yet.
    """
    require_outputs(Path(), *LOG, ABOUT_TEXTS, STU_TABLE)
    known, erased = read_user_ids(layout.PREPARED), read_erasure_digests(layout.PREPARED)
    require_user(user, known, erased, log_name(layout.PREPARED))
    num_tokens = len(pl.read_parquet_schema(STU_TABLE)) - 1  # the other column is the id
    if prefix is not None and prefix > num_tokens:
        raise CallError(f"--prefix {prefix}: STUs have {num_tokens} tokens here, so give at most that many.")


def check_token_assignment(events: Path, out: Path) -> None:
    """Raises CallError for a source or an output that cannot be used; DataError if there are no tokens yet."""
    if not events.exists():
        raise CallError(f"there is no file or folder {events}. Name one with events that are later than the log.")
    if out.is_dir():
        raise CallError(f"--out {out} is a folder: give a file name, such as stus.parquet.")
    require_outputs(Path(), *LOG, ABOUT_TEXTS, STU_TABLE)
