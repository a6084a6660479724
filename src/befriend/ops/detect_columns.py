"""Guesses which column of a log is which: by their names, if they have some, and by what they hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations, islice, product

import numpy as np
import polars as pl

from befriend.data.columns import ACTION, ACTOR, TARGET, TIME_OF_DAY, TIMESTAMP
from befriend.data.external_ids import read_ids
from befriend.errors import CallError
from befriend.ops.detect_times import guess_units, is_date, is_time_column, is_time_of_day, joined
from befriend.readers.timestamps import read_timestamps

USUAL_COLUMN_NAMES = {
    ACTOR: ("actor", "source", "src", "from", "sender", "caller", "user", "follower", "u"),
    TARGET: ("target", "dst", "dest", "to", "receiver", "recipient", "callee", "friend", "followee", "v", "item", "i"),
    ACTION: ("action", "event", "event_type", "type", "verb", "kind"),
    TIMESTAMP: ("timestamp", "ts", "time", "datetime", "created_at", "date", "unixts", "unix_ts", "event_time"),
}
USUAL_PREFIXES = {
    ACTOR: ("source_", "src_", "from_", "sender_", "actor_", "caller_"),
    TARGET: ("target_", "dst_", "dest_", "to_", "receiver_", "recipient_", "callee_"),
}
ID_ENDINGS = ("_id", ".id", "id", "", "nodeid", "node")  # of the usual names of actors and targets
COLUMN_OPTIONS = {
    ACTOR: "--actor",
    TARGET: "--target",
    ACTION: "--action",
    TIMESTAMP: "--timestamp",
    TIME_OF_DAY: "--time-of-day",
}
TIME_NAME_PATTERN = r"(?i)time|date|stamp|day|_at$|_on$"  # of columns that may hold times, if none has a usual name
DURATION_PATTERN = r"(?i)dur|length|elapsed|end"  # of columns whose hours and minutes are no time of day
KEY_PATTERN = r"(?i)id$|key$|uuid"  # of columns that tell users of the same name apart
MAX_ACTIONS = 20  # distinct values of a column without a name that may hold actions
MAX_CANDIDATES = 6  # columns that are tried for one field
MAX_COMBINATIONS = 200  # of columns that are compared
ACTION_BONUS = 0.05  # plausibility of a column of actions, where there may be one
USUAL_ORDER_BONUS = 0.1  # plausibility of the first two columns as actor and target
LATER_NAME_MALUS = 0.02  # plausibility lost by each more usual name that another column has
EARLY_MALUS = 0.3  # plausibility lost by times soon after 1970, which may be anything
PAIR_BONUS = 0.15  # plausibility of two columns whose names differ in the prefix only; and of names of keys
MIN_PARTNER = 0.3  # overlap of two columns that may hold the ids of both sides
NUM_REPEATED = 10  # rows whose id occurred before, from which on it shows what an id determines
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
    candidates = _by_name(table, names) if has_column_names else _by_content(table, names)
    missing = [field for field in (ACTOR, TARGET, TIMESTAMP) if not candidates[field]]
    guesses = (
        [] if missing else list(islice(_combinations(table, candidates, unit, has_column_names), MAX_COMBINATIONS))
    )
    if not guesses:
        missing = missing or [ACTOR, TARGET]
        raise CallError(
            f"which column is {', '.join(missing)}? The log has: {', '.join(table.columns)}. "
            f"Name it with {' '.join(f'{COLUMN_OPTIONS[field]} COLUMN' for field in missing)}."
        )
    if len(guesses) == 1:
        return guesses
    return sorted(guesses, key=lambda guess: -_plausibility(table, guess))[:max_guesses]


def graph_plausibility(actors: pl.Series, targets: pl.Series, seconds: pl.Series) -> float:
    """How much events look like those of a social network in the order of its log, from -1 to 4.

    The sum of four shares, less that of self-loops: ids on both sides, by the cosine similarity of the two sets; events
    beyond the first two of a user; pairs of consecutive rows in time order, beyond the half of a random order; and
    distinct times.
    """
    num_events = len(actors)
    if not num_events:
        return 0.0
    num_ids = len(pl.concat([actors, targets], rechunk=False).unique())
    recurring = min(1.0, 2 * (1 - num_ids / (2 * num_events)))
    steps = np.diff(seconds.drop_nulls().to_numpy())
    in_order = max((steps >= 0).mean(), (steps <= 0).mean()) if len(steps) and steps.any() else 0.5
    distinct = seconds.n_unique() / num_events
    self_loops = float((actors == targets).mean() or 0)  # type: ignore[arg-type]
    return _overlap(actors, targets) + recurring + max(0.0, 2 * float(in_order) - 1) + distinct - self_loops


def _overlap(left: pl.Series, right: pl.Series) -> float:
    """The cosine similarity of the sets of values of two columns."""
    left, right = left.drop_nulls().unique(), right.drop_nulls().unique()
    return float(left.is_in(right.implode()).sum()) / max(1.0, (len(left) * len(right)) ** 0.5)


def _given_columns(names: list[str], given: dict[str, str]) -> dict[str, str]:
    """Field -> the name of its column, which may be given by its number; CallError for one that is not there."""

    def is_number(name: str) -> bool:
        return name not in names and name.isdecimal() and 1 <= int(name) <= len(names)

    named = {field: names[int(name) - 1] if is_number(name) else name for field, name in given.items()}
    unknown = [f"{COLUMN_OPTIONS[field]} {name}" for field, name in named.items() if name not in names]
    if unknown:
        raise CallError(f"the log has no column {', '.join(unknown)}. It has: {', '.join(names)}.")
    return named


def num_usual_names(names: Iterable[str]) -> int:
    """The number of fields that one of these columns has a usual name of."""
    lower = {_plain(name) for name in names}
    return sum(bool(lower & set(_usual_names(field))) for field in USUAL_COLUMN_NAMES)


def _usual_names(field: str) -> list[str]:
    """The usual names of the column of a field, in lower case, the most usual first."""
    endings = ID_ENDINGS if field in (ACTOR, TARGET) else ("",)
    return [name + ending for ending in endings for name in USUAL_COLUMN_NAMES[field]]


def _plain(name: str) -> str:
    """A name in lower case, without the mark of a comment before it."""
    return name.lower().lstrip("#% ")


Candidates = dict[str, list[str]]
"""field -> the columns that may hold it, the most probable first"""


def _by_name(table: pl.DataFrame, given: dict[str, str]) -> Candidates:
    """The candidates among columns that have names."""
    by_plain_name = {_plain(name): name for name in reversed(table.columns)}
    candidates: Candidates = {}
    for field in USUAL_COLUMN_NAMES:
        matches = [by_plain_name[name] for name in _usual_names(field) if name in by_plain_name]
        matches += [name for name in table.columns if _plain(name).startswith(USUAL_PREFIXES.get(field, ()))]
        free = [name for name in dict.fromkeys(matches) if name not in given.values() and _is_filled(table[name])]
        candidates[field] = [given[field]] if field in given else free
    if not candidates[TIMESTAMP]:
        named = [name for name in table.columns if re.search(TIME_NAME_PATTERN, name)]
        candidates[TIMESTAMP] = [name for name in named if is_time_column(table[name])]
    ids = [*candidates[ACTOR], *candidates[TARGET]]
    attributes = _determined_columns(table, ids, [given[field] for field in (ACTOR, TARGET) if field in given])
    for field in (ACTOR, TARGET):
        if field not in given:
            candidates[field] = [name for name in candidates[field] if name not in attributes][:MAX_CANDIDATES]
    return candidates | {TIME_OF_DAY: [given[TIME_OF_DAY]] if TIME_OF_DAY in given else []}


def _by_content(table: pl.DataFrame, given: dict[str, str]) -> Candidates:
    """The candidates among columns without names."""
    free = [name for name in table.columns if name not in given.values() and _is_filled(table[name])]
    times = [given[TIMESTAMP]] if TIMESTAMP in given else [name for name in free if is_time_column(table[name])]
    ids = [name for name in free if not (_has_fractions(table[name]) or _is_row_number(table[name]))]
    varying = [name for name in ids if table[name].n_unique() > 1]
    if len({*varying} - {*times[:1]}) >= 2:
        ids = varying
    attributes = _determined_columns(table, ids, [])
    ids = [name for name in ids if name not in attributes]
    labels = [name for name in free if _is_label(table[name])]
    candidates = {field: [given[field]] if field in given else ids for field in (ACTOR, TARGET)}
    return candidates | {
        ACTION: [given[ACTION]] if ACTION in given else labels,
        TIMESTAMP: times,
        TIME_OF_DAY: [given[TIME_OF_DAY]] if TIME_OF_DAY in given else [],
    }


def _combinations(
    table: pl.DataFrame, candidates: Candidates, unit: str | None, has_column_names: bool
) -> Iterator[Columns]:
    """Yields the guesses: combinations of candidates."""
    rank = {name: k for k, name in enumerate(candidates[TIMESTAMP])}
    for names, time_unit in _times(table, candidates, unit):
        taken = set(names.values())
        later = min(rank.get(name, len(rank)) for name in names.values()) if has_column_names else 0
        early = 0 if TIME_OF_DAY in names or is_time_column(table[names[TIMESTAMP]]) else EARLY_MALUS
        pairs = _named_pairs(candidates, taken) if has_column_names else _pairs(table, candidates, taken)
        for actor, target, action, bonus in pairs:
            action_names = {ACTION: action} if action else {}
            guess = {ACTOR: actor, TARGET: target} | names | action_names
            yield Columns(guess, time_unit, bonus - LATER_NAME_MALUS * later - early)


def _named_pairs(candidates: Candidates, taken: set[str]) -> Iterator[tuple[str, str, str | None, float]]:
    """Yields actor, target, action and bonus, for columns with names. taken: columns of times."""
    for (k, actor), (j, target) in product(enumerate(candidates[ACTOR]), enumerate(candidates[TARGET])):
        if actor == target or {actor, target} & taken:
            continue
        endings = [_ending(actor, ACTOR), _ending(target, TARGET)]
        is_key = bool(re.search(KEY_PATTERN, actor) and re.search(KEY_PATTERN, target))
        bonus = PAIR_BONUS * (endings[0] == endings[1]) + PAIR_BONUS * is_key - LATER_NAME_MALUS * (k + j)
        actions = [name for name in candidates[ACTION] if name not in {actor, target, *taken}]
        yield actor, target, actions[0] if actions else None, bonus


def _pairs(
    table: pl.DataFrame, candidates: Candidates, taken: set[str]
) -> Iterator[tuple[str, str, str | None, float]]:
    """Yields actor, target, action and bonus, for columns without names. taken: columns of times."""
    actors, targets, labels = ([n for n in candidates[f] if n not in taken] for f in (ACTOR, TARGET, ACTION))
    ids = [*dict.fromkeys([*actors, *targets])]
    no_ids = [name for name in labels if name in ids and not _shares_values(table, name, ids)]
    for label in [*labels[:MAX_CANDIDATES], None]:
        remaining = [name for name in ids if name != label and name not in no_ids][:MAX_CANDIDATES]
        if candidates[ACTOR] == candidates[TARGET]:
            pairs = list(combinations(remaining, 2))
        else:
            pairs = [(a, b) for a, b in product(actors, targets) if a != b and label not in (a, b)]
        for k, (actor, target) in enumerate(pairs):
            yield actor, target, label, (0 if k else USUAL_ORDER_BONUS) + (ACTION_BONUS if label else 0)


def _times(table: pl.DataFrame, candidates: Candidates, unit: str | None) -> Iterator[tuple[dict[str, str], str]]:
    """Yields the columns of timestamp and time of day, and the unit. CallError if the only column cannot be read."""
    options = [
        option
        for name in candidates[TIMESTAMP][:MAX_CANDIDATES]
        for option in _with_time_of_day(table, name, candidates)
    ]
    errors = []
    for date, time_of_day in dict.fromkeys(options):
        names = {TIMESTAMP: date} | ({TIME_OF_DAY: time_of_day} if time_of_day else {})
        column = joined(table[date], table[time_of_day]) if time_of_day else table[date]
        try:
            units = [unit] if unit else guess_units(column)
        except CallError as error:
            errors.append(error)
            continue
        yield from ((names, choice) for choice in units)
    if errors and len(errors) == len(dict.fromkeys(options)):
        raise errors[0]


def _with_time_of_day(table: pl.DataFrame, name: str, candidates: Candidates) -> Iterator[tuple[str, str | None]]:
    """Yields the columns of the date and of the time of day that a column of timestamps may have or be."""
    if candidates[TIME_OF_DAY]:
        yield name, candidates[TIME_OF_DAY][0]
        return
    others = [other for other in table.columns if other != name]
    if is_time_of_day(table[name]):
        dates = [other for other in others if is_date(table[other])]
        yield from ((date, name) for date in dates)
        if not dates:
            yield name, None
        return
    yield name, None
    if is_date(table[name]):
        no_duration = [other for other in others if not re.search(DURATION_PATTERN, other)]
        yield from ((name, other) for other in no_duration if is_time_of_day(table[other]))


def _plausibility(table: pl.DataFrame, guess: Columns) -> float:
    """The plausibility of a guess on the first rows of the log."""
    names = guess.names
    actors, targets = (_ids(table, names[field]) for field in (ACTOR, TARGET))
    time = table[names[TIMESTAMP]]
    if TIME_OF_DAY in names:
        time = joined(time, table[names[TIME_OF_DAY]])
    return graph_plausibility(actors, targets, read_timestamps(time, guess.unit)[0]) + guess.bonus


def _ids(table: pl.DataFrame, name: str) -> pl.Series:
    return read_ids(table[name], pl.String())[0]


def _ending(name: str, field: str) -> str:
    """What follows the usual prefix of a name: `country` of from_country."""
    plain = _plain(name)
    prefixes = [prefix for prefix in USUAL_PREFIXES[field] if plain.startswith(prefix)]
    return plain.removeprefix(prefixes[0]) if prefixes else ""


def _determined_columns(table: pl.DataFrame, names: list[str], given: list[str]) -> set[str]:
    """Those of the columns that are attributes of the users in another column, such as their country or name.

    Ids of one side recur in another column, that of the other side. They determine an attribute: each has one value.
    given: columns that are ids for sure.
    """
    ids = {name: _ids(table, name) for name in table.columns if table[name].dtype != pl.Boolean}
    num_distinct = {name: column.n_unique() for name, column in ids.items()}
    determined = set()
    for name, other in product(dict.fromkeys(names), ids):
        is_finer = num_distinct[other] > 1.1 * num_distinct.get(name, 0)
        recurs = table.height - num_distinct[other] >= NUM_REPEATED
        if name not in ids or name == other or not (is_finer and recurs):
            continue
        num_pairs = pl.DataFrame({"id": ids[other], "value": ids[name]}).n_unique()
        if num_pairs > 1.02 * num_distinct[other]:
            continue
        partners = [third for third in ids if third not in (name, other)]
        if other in given or any(_overlap(ids[other], ids[third]) >= MIN_PARTNER for third in partners):
            determined.add(name)
    return determined


def _is_filled(column: pl.Series) -> bool:
    """Whether a column has any value."""
    return bool((column.cast(pl.String, strict=False).str.strip_chars().fill_null("") != "").any())


def _is_row_number(column: pl.Series) -> bool:
    """Whether a column only counts the rows."""
    number = column.cast(pl.String, strict=False).str.strip_chars().cast(pl.Int64, strict=False)
    return len(number) > 2 and number.null_count() == 0 and bool(((number.diff().drop_nulls()) == 1).mean() > 0.9)  # type: ignore[operator]


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
