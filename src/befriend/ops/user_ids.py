"""External ids that a user of the command line types: whether the log has them, and which ids were perhaps meant.

Only polars is needed, so that a mistyped id is answered before PyTorch and the models are loaded.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from befriend.data.columns import USER_ID
from befriend.data.erasure import erasure_digest, is_erased
from befriend.data.event_log import USERS_FILE
from befriend.data.external_ids import as_log_ids
from befriend.errors import CallError, DataError, one_of
from befriend.recommendation.request_table import as_id_column

MAX_NEAREST = 3
MAX_NAMED = 5  # unknown ids in a message
MAX_ID_LENGTH = 100  # of a mistyped id, for which slips are tried
MAX_DISTANCE = 0.1  # of a number to one that is near, as a share of it
MAX_COMPARED = 20_000  # ids that are compared with a mistyped one letter by letter


def read_user_ids(prepared: Path) -> pl.Series:
    """The external ids of the log in a folder, by internal id. DataError if there is none, or if it is damaged."""
    return read_prepared(prepared / USERS_FILE, pl.col(USER_ID))


def read_prepared(path: Path, column: pl.Expr) -> pl.Series:
    """A column of a prepared table, without a check of its contract. DataError if the table is missing or damaged."""
    if not path.is_file():
        raise DataError(f"there is no {path}. Run `make run` first.")
    try:
        return pl.scan_parquet(path, glob=False).select(column).collect().to_series()
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path} is damaged: {error}. Run `dvc repro --force validate`.") from None


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
        raise CallError(f"{path} needs a column {USER_ID}; its columns: {', '.join(table.columns)}.")
    ids = as_id_column(table[USER_ID].drop_nulls())
    if not len(ids):
        raise CallError(f"{path} holds no ids. Write one id per line.")
    return ids.unique(maintain_order=True)


def unknown_ids(ids: pl.Series, known: pl.Series, erased: frozenset[str]) -> pl.Series:
    """Those of some external ids that the log does not have or that belong to erased users; distinct, in order.

    known: the external ids of the log; erased: digests of erased users.
    """
    ids = ids.drop_nulls().unique(maintain_order=True)
    typed = as_log_ids(ids, known.dtype)
    return ids.filter(~typed.is_in(known.implode()).fill_null(False) | is_erased(typed, erased))


def require_user(user: str, known: pl.Series, erased: frozenset[str], log_name: str, hint: str = "") -> None:
    """Raises CallError, with the nearest ids, for a user whom the log does not have.

    log_name: what the message calls the log; hint: a sentence on what to do otherwise.
    """
    if len(unknown_ids(pl.Series([user]), known, erased)):
        problem = f"there is no user {user} in {log_name}."
        raise CallError(" ".join(filter(None, [problem, suggestion(user, known, erased), hint])))


def require_id_type(ids: pl.Series, known: pl.Series) -> pl.Series:
    """The ids as the type of the ids of the log; CallError for one that can be no id of it: a word among numbers."""
    typed = as_log_ids(ids, known.dtype)
    wrong = ids.filter(typed.is_null() & ids.is_not_null())
    if len(wrong):
        raise CallError(f"{wrong[0]} can be no id of this log. {suggestion(str(wrong[0]), known)}")
    return typed


def suggestion(user: str, known: pl.Series, erased: frozenset[str] = frozenset()) -> str:
    """A sentence with the ids that were perhaps meant, or with examples of ids; empty for an empty log."""
    if not len(known):
        return ""
    if known.dtype.is_integer() and as_log_ids(pl.Series([user]), known.dtype).null_count():
        with contextlib.suppress(ValueError):  # a number that is written in another way, such as 007
            if not len(unknown_ids(pl.Series([str(int(user))]), known, erased)):
                return f"Did you mean {int(user)}?"
        return f"Ids are whole numbers, such as {one_of(_not_erased(known, erased))}."
    nearest = nearest_ids(user, known, erased)
    if nearest:
        return f"Did you mean {one_of(nearest)}?"
    return f"Ids look like {one_of(_not_erased(known, erased))}."


def nearest_ids(user: str, known: pl.Series, erased: frozenset[str] = frozenset()) -> list[str]:
    """At most MAX_NEAREST ids that are like a mistyped one, most similar first; erased users are never named.

    user: a number as text, if the ids of the log are numbers.

    Those that one slip turns into it: a character missing, added, wrong, or exchanged with its neighbor. If there is
    none: those that differ by more, among the first MAX_COMPARED ids, or the nearest numbers.
    """
    texts = known.cast(pl.String)
    letters = sorted({*user, *"".join(texts.head(MAX_COMPARED))})
    slips = _slips(user, letters) if len(user) <= MAX_ID_LENGTH else []
    found = known.filter(texts.is_in(slips) | (texts.str.to_lowercase() == user.lower()))
    if known.dtype.is_integer():
        distance = (known.cast(pl.Float64) - float(user)).abs()
        candidates = found if len(found) else known.filter(distance <= MAX_DISTANCE * abs(float(user)))
        distance = (candidates.cast(pl.Float64) - float(user)).abs()
        return _not_erased(candidates.gather(distance.arg_sort()), erased)
    if len(found):
        return _not_erased(sorted(found, key=lambda other: (-_similarity(user, other), other)), erased)
    return _not_erased(difflib.get_close_matches(user, texts.head(MAX_COMPARED), MAX_NEAREST), erased)


def _slips(text: str, letters: Sequence[str]) -> list[str]:
    """The texts that differ from a text by one slip."""
    cuts = [(text[:k], text[k:]) for k in range(len(text) + 1)]
    missing = (head + tail[1:] for head, tail in cuts if tail)
    exchanged = (head + tail[1] + tail[0] + tail[2:] for head, tail in cuts if len(tail) > 1)
    wrong = (head + letter + tail[1:] for head, tail in cuts if tail for letter in letters)
    added = (head + letter + tail for head, tail in cuts for letter in letters)
    return sorted({*missing, *exchanged, *wrong, *added} - {text})


def _similarity(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a, b).ratio()


def _not_erased(ids: Any, erased: frozenset[str]) -> list[str]:
    """The first MAX_NEAREST of some ids whose users are not erased, as text."""
    return list(itertools.islice((str(user) for user in ids if erasure_digest(user) not in erased), MAX_NEAREST))
