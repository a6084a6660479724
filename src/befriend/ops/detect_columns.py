"""Guesses which column of a log is which: by their names or, where they have none, by what they hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import polars as pl

from befriend.data.columns import ACTION, ACTOR, TARGET, TIME_OF_DAY, TIMESTAMP
from befriend.data.external_ids import read_ids
from befriend.errors import CallError
from befriend.ops.detect_times import guess_units, is_date, is_time_column, is_time_of_day, joined
from befriend.readers.timestamps import read_timestamps

USUAL_COLUMN_NAMES = {
    ACTOR: ("actor_id", "actor", "source", "src", "from", "sender", "user", "follower", "u"),
    TARGET: (
        "target_id",
        "target",
        "dst",
        "dest",
        "to",
        "receiver",
        "recipient",
        "friend",
        "followee",
        "v",
        "item",
        "i",
    ),
    ACTION: ("action", "event", "event_type", "type", "verb", "kind"),
    TIMESTAMP: ("timestamp", "ts", "time", "datetime", "date", "created_at", "unixts", "unix_ts", "event_time", "day"),
}
USUAL_PREFIXES = {
    ACTOR: ("source_", "src_", "from_", "sender_", "actor_"),
    TARGET: ("target_", "dst_", "dest_", "to_", "receiver_", "recipient_"),
}
ID_ENDINGS = ("", "_id", ".id", "id")  # of the usual names of actors and targets
COLUMN_OPTIONS = {
    ACTOR: "--actor",
    TARGET: "--target",
    ACTION: "--action",
    TIMESTAMP: "--timestamp",
    TIME_OF_DAY: "--time-of-day",
}
MAX_ACTIONS = 20  # distinct values of a column without a name that may hold actions
MAX_ID_COLUMNS = 4  # columns without names that may hold ids: more are not tried
MAX_LABEL_COLUMNS = 3  # columns without names that may hold actions: more are not tried
ACTION_BONUS = 0.05  # plausibility of a column of actions, where there may be one
USUAL_ORDER_BONUS = 0.2  # plausibility of the first two columns as actor and target
_NUMBER_PATTERN = r"^[-+]?\d+(\.\d+)?$"
_FRACTION_PATTERN = r"\.\d*[1-9]"


@dataclass(frozen=True)
class Columns:
    """A guess which columns hold the events, and in which unit the timestamps are."""

    names: dict[str, str]
    """field -> column"""
    unit: str
    bonus: float = 0.0
    """of its plausibility"""


def guess_columns(
    table: pl.DataFrame, given: dict[str, str], unit: str | None, has_column_names: bool, max_guesses: int
) -> list[Columns]:
    """The plausible guesses, at least one, the most plausible first; CallError if there is none.

    table: the first rows of the log. given, unit: fields whose column is not to be guessed, and the timestamp unit.
    has_column_names: without names, the columns of the table are called "1", "2", ...
    """
    names = _given_columns(table.columns, given)
    if has_column_names:
        names = _by_name(table, names)
        guesses = list(_with_time(table, names, unit, [names[TIMESTAMP]] if TIMESTAMP in names else []))
    else:
        guesses = list(_by_content(table, names, unit))
    if not guesses:
        missing = [field for field in (ACTOR, TARGET, TIMESTAMP) if field not in names]
        if not has_column_names and any(is_time_column(table[name]) for name in table.columns):
            missing.remove(TIMESTAMP)
        elif not has_column_names:
            missing = [TIMESTAMP]
        raise CallError(
            f"which column is {', '.join(missing)}? The log has: {', '.join(table.columns)}. "
            f"Name it with {' '.join(f'{COLUMN_OPTIONS[field]} COLUMN' for field in missing)}."
        )
    if len(guesses) == 1:
        return guesses
    return sorted(guesses, key=lambda guess: -_plausibility(table, guess))[:max_guesses]


def graph_plausibility(actors: pl.Series, targets: pl.Series, seconds: pl.Series) -> float:
    """How much events look like those of a social network in the order of its log, from 0 to 3.

    The sum of three shares: ids on both sides, by the cosine similarity of the two sets; events beyond the first of a
    user; and pairs of consecutive rows in time order, beyond the half of a random order.
    """
    num_events = len(actors)
    if not num_events:
        return 0.0
    left, right = (pl.Series(ids.unique()).drop_nulls() for ids in (actors, targets))
    num_both = int(left.is_in(right.implode()).sum())
    overlap = num_both / max(1.0, (len(left) * len(right)) ** 0.5)
    reuse = 1 - (len(left) + len(right) - num_both) / (2 * num_events)
    steps = np.diff(seconds.drop_nulls().to_numpy())
    in_order = max((steps >= 0).mean(), (steps <= 0).mean()) if len(steps) and steps.any() else 0.5
    return overlap + max(reuse, 0.0) + max(0.0, 2 * float(in_order) - 1)


def _given_columns(names: list[str], given: dict[str, str]) -> dict[str, str]:
    """Field -> the name of its column, which may be given by its number; CallError for one that is not there."""

    def is_number(name: str) -> bool:
        return name not in names and name.isdecimal() and 1 <= int(name) <= len(names)

    named = {field: names[int(name) - 1] if is_number(name) else name for field, name in given.items()}
    unknown = [f"{COLUMN_OPTIONS[field]} {name}" for field, name in named.items() if name not in names]
    if unknown:
        raise CallError(f"the log has no column {', '.join(unknown)}. It has: {', '.join(names)}.")
    return named


def has_usual_names(names: list[str]) -> int:
    """The number of fields that one of these columns has a usual name of."""
    lower = {name.lower() for name in names}
    return sum(bool(lower & set(_usual_names(field))) for field in USUAL_COLUMN_NAMES)


def _usual_names(field: str) -> list[str]:
    """The usual names of the column of a field, in lower case, the most usual first."""
    endings = ID_ENDINGS if field in (ACTOR, TARGET) else ("",)
    return [name + ending for name in USUAL_COLUMN_NAMES[field] for ending in endings]


def _by_name(table: pl.DataFrame, given: dict[str, str]) -> dict[str, str]:
    """Field -> column, for the fields that are given or have a column of a usual name."""
    columns = dict(given)
    by_lower_case = {name.lower(): name for name in reversed(table.columns)}
    for field in USUAL_COLUMN_NAMES:
        matches = [by_lower_case[name] for name in _usual_names(field) if name in by_lower_case]
        matches += [name for name in table.columns if name.lower().startswith(USUAL_PREFIXES.get(field, ()))]
        free = [name for name in matches if name not in columns.values()]
        if field == ACTION:
            free = [name for name in free if _is_filled(table[name])]
        if field not in columns and free:
            columns[field] = free[0]
    return columns


def _by_content(table: pl.DataFrame, given: dict[str, str], unit: str | None) -> Iterator[Columns]:
    """Yields the guesses for columns without names."""
    free = [name for name in table.columns if name not in given.values() and _is_filled(table[name])]
    time_columns = [given[TIMESTAMP]] if TIMESTAMP in given else [name for name in free if is_time_column(table[name])]
    for guess in _with_time(table, {ACTOR: "", TARGET: ""} | given, unit, time_columns):
        taken = set(guess.names.values())
        remaining = [name for name in free if name not in taken]
        labels = [] if ACTION in guess.names else [name for name in remaining if _is_label(table[name])]
        no_ids = [name for name in labels if not _shares_values(table, name, remaining)]
        for label in [*labels[:MAX_LABEL_COLUMNS], None]:
            columns = guess.names | ({ACTION: label} if label else {})
            others = [name for name in remaining if name != label and name not in no_ids]
            bonus = ACTION_BONUS if label else 0
            yield from _with_ids(table, others, Columns(columns, guess.unit, bonus))


def _with_ids(table: pl.DataFrame, remaining: list[str], guess: Columns) -> Iterator[Columns]:
    """Yields the guesses for the columns of actor and target, if they are not given, in the order of the columns."""
    missing = [field for field in (ACTOR, TARGET) if not guess.names[field]]
    if not missing:
        yield guess
        return
    whole = [name for name in remaining if not _has_fractions(table[name])]
    varying = [name for name in whole if table[name].n_unique() > 1]
    candidates = (varying if len(varying) >= len(missing) else whole)[:MAX_ID_COLUMNS]
    for k, chosen in enumerate(combinations(candidates, len(missing))):
        names = guess.names | dict(zip(missing, chosen, strict=True))
        yield Columns(names, guess.unit, guess.bonus + (0 if k else USUAL_ORDER_BONUS))


def _with_time(
    table: pl.DataFrame, columns: dict[str, str], unit: str | None, time_columns: list[str]
) -> Iterator[Columns]:
    """Yields the guesses for the timestamp: its column, that of the time of day if it has one, and the unit.

    CallError if the only column of times cannot be read. Nothing if actor or target have no column.
    """
    if not {ACTOR, TARGET} <= columns.keys():
        return
    for name in time_columns:
        taken = {column for field, column in columns.items() if field not in (TIMESTAMP, TIME_OF_DAY)}
        date, time_of_day = _date_and_time_of_day(table, name, columns.get(TIME_OF_DAY), taken)
        names = columns | {TIMESTAMP: date} | ({TIME_OF_DAY: time_of_day} if time_of_day else {})
        column = joined(table[date], table[time_of_day]) if time_of_day else table[date]
        try:
            units = [unit] if unit else guess_units(column)
        except CallError:
            if len(time_columns) == 1:
                raise
            continue
        yield from (Columns(names, choice) for choice in units)


def _date_and_time_of_day(table: pl.DataFrame, name: str, given: str | None, taken: set[str]) -> tuple[str, str | None]:
    """The column of the date and that of the time of day, for a column of timestamps; None if it holds both.

    given: the column of the time of day, if it is not to be guessed. taken: columns of other fields.
    """
    if given:
        return name, given
    others = [other for other in table.columns if other not in {name, *taken}]
    if is_time_of_day(table[name]):
        dates = [other for other in others if is_date(table[other])]
        return (dates[0], name) if len(dates) == 1 else (name, None)
    if is_date(table[name]):
        times = [other for other in others if is_time_of_day(table[other])]
        return name, times[0] if len(times) == 1 else None
    return name, None


def _plausibility(table: pl.DataFrame, guess: Columns) -> float:
    """The plausibility of a guess on the first rows of the log."""
    names = guess.names
    actors, targets = (read_ids(table[names[field]], pl.String())[0] for field in (ACTOR, TARGET))
    time = table[names[TIMESTAMP]]
    if TIME_OF_DAY in names:
        time = joined(time, table[names[TIME_OF_DAY]])
    return graph_plausibility(actors, targets, read_timestamps(time, guess.unit)[0]) + guess.bonus


def _is_filled(column: pl.Series) -> bool:
    """Whether a column has any value."""
    return bool((column.cast(pl.String, strict=False).str.strip_chars().fill_null("") != "").any())


def _is_label(column: pl.Series) -> bool:
    """Whether a column may hold actions: some words, no numbers, and none missing."""
    text = column.cast(pl.String, strict=False).str.strip_chars().fill_null("")
    if (text == "").any():
        return False
    return text.n_unique() <= MAX_ACTIONS and not text.str.contains(_NUMBER_PATTERN).any()


def _shares_values(table: pl.DataFrame, name: str, others: list[str]) -> bool:
    """Whether a column has a value that is in one of the other columns, too, as ids of actors and targets are."""
    values = table[name].cast(pl.String).unique().implode()
    return any(bool(table[other].cast(pl.String).is_in(values).any()) for other in others if other != name)


def _has_fractions(column: pl.Series) -> bool:
    """Whether a column holds numbers that are not whole, which ids never are."""
    text = column.cast(pl.String, strict=False).drop_nulls().str.strip_chars()
    return bool((text.str.contains(_NUMBER_PATTERN) & text.str.contains(_FRACTION_PATTERN)).any())
