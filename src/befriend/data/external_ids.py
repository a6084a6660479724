"""External ids, those of users in the raw log and on the command line: every id has one spelling.

Exports write one id in several ways: pandas turns a column with missing values into floats (13.0), spreadsheets add
blanks and quotes, two systems compose an é differently. An id that is spelled in two ways would be two users.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import polars as pl

INTEGER_PATTERN = r"^-?(0|[1-9][0-9]*)$"  # an integer in its canonical form: neither 007 nor +7
_INVISIBLE = "\ufeff\u200b\u200c\u200d\u2060"  # byte order mark, zero-width blanks and joiners
_QUOTED_PATTERNS = (r'^"(.*)"$', r"^'(.*)'$")
_WHOLE_FLOAT_PATTERN = r"^(-?[0-9]+)\.0+$"
_ROUNDED_PATTERN = (
    r"^-?[0-9]([.,][0-9]+[eE]\+?|[eE]\+)[0-9]+$"  # as spreadsheets write long numbers, whose last digits are lost
)
_MAX_EXACT_FLOAT: dict[Any, int] = {pl.Float16: 2**11, pl.Float32: 2**24, pl.Float64: 2**53}
"""whole numbers beyond it are not all distinct"""


def read_ids(column: pl.Series, dtype: pl.DataType, null_words: Collection[str] = ()) -> tuple[pl.Series, pl.Series]:
    """External ids in their one spelling, and bool for each: whether there is none.

    A text loses blanks, quotes and invisible characters around it, and a fraction of zeros (13.0 is 13); composed and
    decomposed characters become the same (Unicode NFC). Leading zeros stay: 007 is not 7.

    column: numbers or text. dtype: the type of the ids of the log, pl.Int64 or pl.String. null_words: texts that mean
    "no id", in exact case, besides the empty text.

    An id that is not empty but cannot be of the type becomes null: a word among integers, 007 among integers, an
    integer of more than 64 bits, a fraction, a number that was rounded (1.23E+17, or a float from 2^53 on).
    """
    if column.dtype.is_integer():
        ids = column.cast(dtype, strict=False)
        return ids, column.is_null() | _is_null_number(column, null_words)
    if column.dtype.is_float():
        number = column.fill_nan(None)
        is_exact = (number == number.floor()) & (number.abs() <= _MAX_EXACT_FLOAT[column.dtype.base_type()])
        whole = pl.select(pl.when(is_exact).then(number)).to_series().cast(pl.Int64, strict=False)
        return whole.cast(dtype).alias(column.name), number.is_null() | _is_null_number(whole, null_words)
    text = column if column.dtype == pl.String else column.cast(pl.String, strict=False)
    if not dtype.is_integer():
        spelled = _one_spelling(text)
        is_empty = spelled.is_null() | (spelled == "") | spelled.is_in([*null_words])
        is_id = ~(is_empty | spelled.str.contains(_ROUNDED_PATTERN))
        return pl.select(pl.when(is_id).then(spelled).alias(column.name)).to_series(), is_empty
    ids = _integers(text)
    is_empty = text.is_null() | _is_null_number(ids, null_words)
    if ids.null_count() == 0:
        return ids, is_empty
    others = ids.is_null().arg_true()  # most logs have few ids, or none, in an unusual spelling
    spelled = _one_spelling(text.gather(others))
    return (
        ids.scatter(others, _integers(spelled)),
        is_empty.scatter(others, spelled.is_null() | (spelled == "") | spelled.is_in([*null_words])),
    )


def as_log_ids(ids: pl.Series, dtype: pl.DataType) -> pl.Series:
    """External ids from a request as the type that the ids of a log have; null for an id that is none of that type.

    They are read as in `read_ids`, but no word means "no id".
    """
    if ids.dtype == pl.Boolean:
        return pl.repeat(None, len(ids), dtype=dtype, eager=True).alias(ids.name)
    return read_ids(ids, dtype)[0]


def _is_null_number(numbers: pl.Series, null_words: Collection[str]) -> pl.Series:
    """bool: which integers are null words, such as -1."""
    null_numbers = [int(word) for word in null_words if re.fullmatch(INTEGER_PATTERN, word)]
    if not null_numbers:
        return pl.repeat(False, len(numbers), dtype=pl.Boolean, eager=True)
    return numbers.is_in(null_numbers).fill_null(False)


def _integers(text: pl.Series) -> pl.Series:
    """Int64; null where the text is no integer in canonical form."""
    return text.to_frame("x").select(
        pl.when(pl.col("x").str.contains(INTEGER_PATTERN)).then("x").cast(pl.Int64, strict=False).alias(text.name)
    )[text.name]


def _one_spelling(text: pl.Series) -> pl.Series:
    """Texts without what exports add to them."""
    text = text.str.strip_chars()
    if text.str.len_bytes().sum() != text.str.len_chars().sum():  # not only ASCII
        text = text.str.strip_chars(_INVISIBLE).str.strip_chars().str.normalize("NFC")
    for pattern in _QUOTED_PATTERNS:
        if text.str.starts_with(pattern[1]).any():
            text = text.str.replace(pattern, "${1}").str.strip_chars()
    return text.str.replace(_WHOLE_FLOAT_PATTERN, "${1}")
