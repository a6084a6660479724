"""What a log holds, as `befriend use` read it: users, events, time, rejected rows, and what is unusual."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl

from befriend import layout
from befriend.data.columns import ACTION, ACTOR, REASON, ROW, TARGET, TIMESTAMP
from befriend.data.event_log import DAY
from befriend.progress import track
from befriend.readers.chunk import Chunk
from befriend.readers.data_settings import DataSettings
from befriend.readers.sources import read_chunks
from befriend.validation.expectations import MIN_LAST_SECOND
from befriend.validation.log_profile import LONG_SILENCE
from befriend.validation.row_rules import check_event_rows

NUM_SHOWN_ROWS = 5
MONTH, YEAR = 30 * DAY, 365 * DAY
NUM_FREQUENT = 3  # ids of each side in the summary
MIN_OVERLAP = 0.01  # share of the smaller side's ids that are on the other side, too, if both are users
NULL_LIKE_WORDS = (
    *("null", "nan", "none", "na", "n/a", "#n/a", "nil", "(null)", "[null]", "<null>", "<na>", "undefined", "unknown"),
    *("deleted", "-", "?", "-1", "total"),
)
MIN_EVENTS_FOR_TIMES = 50
MAX_SAME_SECOND = 0.8  # share of the events with the time of the event before
NULL_SHARE = 0.01  # of the events: such a word on more of them probably means that there is no id
SEVERAL_IDS_PATTERN = r"[^\s,;][,;]\s*[^\s,;]|\S\s*<\S+@\S+>"
ITEM_PATTERN = r"^i$|item|product|movie|song|track|video|article|page|repo|business|book"
_ID = "id"


@dataclass
class TablePreview:
    """The first rows of a log or side table, and counts of all its rows."""

    first_rows: pl.DataFrame = field(default_factory=pl.DataFrame)
    """column `reason` says why a row is rejected; null for accepted rows"""
    num_rejected_by_reason: dict[str, int] = field(default_factory=dict)
    num_rows: int = 0

    @property
    def num_rejected(self) -> int:
        return sum(self.num_rejected_by_reason.values())

    def add(self, checked_rows: pl.DataFrame) -> None:
        """Counts the next rows of the table. checked_rows: with column `reason`, null for accepted rows."""
        self.num_rows += checked_rows.height
        self.first_rows = self.first_rows if self.first_rows.height else checked_rows[:NUM_SHOWN_ROWS]
        rejected_rows = checked_rows.filter(pl.col(REASON).is_not_null())
        for reason, count in rejected_rows.group_by(REASON).len().iter_rows():
            self.num_rejected_by_reason[reason] = self.num_rejected_by_reason.get(reason, 0) + count


@dataclass
class LogPreview(TablePreview):
    """The same of a log, and what all its accepted rows say about users and time."""

    num_accepted_by_action: dict[str, int] = field(default_factory=dict)
    example_by_reason: dict[str, str] = field(default_factory=dict)
    """reason -> its first rejected row, as it is in the log"""
    num_comments: int = 0
    num_self_loops: int = 0
    ids: pl.DataFrame = field(default_factory=lambda: _count_ids(pl.DataFrame({ACTOR: [], TARGET: []})))
    """each id, and the number of events with it as actor and as target"""
    first_second: int = 2**62
    last_second: int = 0
    num_events_by_month: dict[int, int] = field(default_factory=dict)
    """month since 1970, of 30 days each -> number of events"""
    now: float = field(default_factory=time.time)
    num_later: int = 0
    """number of events after `now`"""
    num_same_second: int = 0
    """number of events with the time of the event before them"""
    num_joined_lines: int = 0
    """number of lines that are parts of rows above them"""

    @property
    def num_events(self) -> int:
        """The number of accepted rows that are no self-loops."""
        return sum(self.num_accepted_by_action.values()) - self.num_self_loops

    def add_chunk(self, chunk: Chunk, rows: pl.DataFrame) -> None:
        """Counts the next rows of the log. rows: those of the chunk, checked."""
        self.add(rows)
        self.num_comments += chunk.num_comments
        for reason in rows[REASON].drop_nulls().unique():
            if reason not in self.example_by_reason:
                first = rows.filter(pl.col(REASON) == reason)[ROW][0]
                self.example_by_reason[reason] = chunk.raw_text(rows[ROW] == first)[0]
        if isinstance(chunk.raw, pl.Series):
            self.num_joined_lines += int(chunk.raw.str.count_matches("\n", literal=True).sum())
        accepted = rows.filter(pl.col(REASON).is_null())
        for action, count in accepted.group_by(ACTION).len().iter_rows():
            self.num_accepted_by_action[action] = self.num_accepted_by_action.get(action, 0) + count
        events = accepted.filter(pl.col(ACTOR) != pl.col(TARGET))
        self.num_self_loops += accepted.height - events.height
        if events.height:
            second = events[TIMESTAMP].to_numpy()
            self.first_second = min(self.first_second, int(second.min()))
            self.last_second = max(self.last_second, int(second.max()))
            for month, count in zip(*np.unique(second // MONTH, return_counts=True), strict=True):
                self.num_events_by_month[int(month)] = self.num_events_by_month.get(int(month), 0) + int(count)
            self.num_same_second += int((np.diff(second) == 0).sum())
            self.num_later += int((second > self.now).sum())
            self.ids = pl.concat([self.ids, _count_ids(events)]).group_by(_ID).agg(pl.col(ACTOR, TARGET).sum())

    def summary(self) -> list[str]:
        """Lines that a person who knows the log can check."""
        on_both = self.ids.filter((pl.col(ACTOR) > 0) & (pl.col(TARGET) > 0)).height
        counts = [f"{self.num_rejected:,} of {self.num_rows:,} rows rejected"]
        if self.num_self_loops:
            counts.append(f"{self.num_self_loops:,} self-loops left out")
        if self.num_comments:
            counts.append(f"{self.num_comments:,} comment lines")
        return [
            f"{self.num_events:,} events between {self.ids.height:,} users, from {_utc(self.first_second)} to "
            f"{_utc(self.last_second)}; {', '.join(counts)}",
            f"most frequent actors: {self._most_frequent(ACTOR)}; targets: {self._most_frequent(TARGET)}; "
            f"{on_both:,} users are on both sides",
        ]

    def warnings(self, target_column: str | int) -> list[str]:
        """What is unusual for a log of users who act on each other. target_column: the column of the targets."""
        two_kinds = _item_warning(str(target_column)) or self._overlap_warning()
        found = [
            two_kinds,
            self._case_warning(),
            self._several_ids_warning(),
            *self._null_word_warnings(),
            self._equal_times_warning(),
            self._silence_warning(),
            self._early_warning(),
            self._joined_lines_warning(),
        ]
        if self.num_later:
            found.append(
                f"{self.num_later:,} events are later than now, the last at {_utc(self.last_second)}: if that is a "
                "mistake, set validate.latest in params.yaml"
            )
        return [warning for warning in found if warning]

    def _most_frequent(self, side: str) -> str:
        top = self.ids.sort(side, _ID, descending=[True, False]).head(NUM_FREQUENT)
        return ", ".join(f"{user} ({count:,})" for user, count in top.select(_ID, side).iter_rows())

    def _overlap_warning(self) -> str:
        """A warning if actors and targets are different ids, as those of users and items are; else empty."""
        actors, targets = (set(self.ids.filter(pl.col(side) > 0)[_ID]) for side in (ACTOR, TARGET))
        least = MIN_OVERLAP * min(len(actors), len(targets))
        if len(actors & targets) >= least:
            return ""
        if len({user.casefold() for user in actors} & {user.casefold() for user in targets}) >= least:
            return "actors and targets are alike but for capital letters, which make them two users: write them alike"
        return (
            "actors and targets have hardly an id in common. If they are ids of two kinds, such as users and items, "
            "befriend takes all of them for users; or another column has the targets"
        )

    def _case_warning(self) -> str:
        """A warning if some ids differ from others in capital letters only; else empty."""
        alike = self.ids.filter(pl.col(_ID).str.to_lowercase().is_duplicated())[_ID].sort()
        if len(alike) < max(2, NULL_SHARE * self.ids.height):
            return ""
        first = alike.filter(alike.str.to_lowercase() == alike[0].lower())
        return (
            f"{len(alike):,} ids, such as {first[0]} and {first[-1]}, differ from others in capital letters only: are "
            "they the same users?"
        )

    def _several_ids_warning(self) -> str:
        """A warning if ids look like several ids in one field; else empty."""
        total = pl.col(ACTOR) + pl.col(TARGET)
        several = self.ids.filter(pl.col(_ID).str.contains(SEVERAL_IDS_PATTERN)).select(_ID, total)
        count = int(several[ACTOR].sum())
        if count < NULL_SHARE * self.num_events or not count:
            return ""
        example = several.sort(ACTOR, _ID, descending=[True, False])[_ID][0]
        return (
            f"ids such as {example!r}, on {count:,} events, hold more than an id: write a row for each of several ids, "
            "addresses without names, and numbers without commas"
        )

    def _equal_times_warning(self) -> str:
        """A warning if times are so coarse that most events do not see those just before; else empty."""
        if self.num_events < MIN_EVENTS_FOR_TIMES or self.num_same_second < MAX_SAME_SECOND * self.num_events:
            return ""
        return (
            f"{self.num_same_second:,} of {self.num_events:,} events have the time of the event before them: an event "
            "sees only earlier times. Were times rounded, is the time of day in another column, or is this the time of "
            "the export?"
        )

    def _joined_lines_warning(self) -> str:
        """A warning if quotes joined several lines to one row; else empty."""
        if not self.num_joined_lines:
            return ""
        return (
            f"{self.num_joined_lines:,} lines are parts of rows above them, since a quote was open: if quotes are "
            "characters like others, add --no-quotes"
        )

    def _silence_warning(self) -> str:
        """A warning if some events are years away from the others; else empty."""
        months = sorted(self.num_events_by_month)
        silences = [later - earlier for earlier, later in pairwise(months)]
        if not silences or max(silences) * MONTH < LONG_SILENCE:
            return ""
        first_after = months[silences.index(max(silences)) + 1]
        num_before = sum(count for month, count in self.num_events_by_month.items() if month < first_after)
        num_after = self.num_events - num_before
        side, moment = ("first", self.first_second) if num_before <= num_after else ("last", self.last_second)
        count, years = min(num_before, num_after), max(silences) * MONTH // YEAR
        return (
            f"{count:,} events are {years} years away from the others, the {side} at {_utc(moment)}: "
            "are times in several units, or mistyped?"
        )

    def _early_warning(self) -> str:
        """A warning if the log ends so early that its times can hardly be meant; else empty."""
        if not self.num_events or self.last_second >= MIN_LAST_SECOND:
            return ""
        return (
            f"the last event is at {_utc(self.last_second)}: do times count from the beginning of the log, or in "
            "another unit (--unit)?"
        )

    def _null_word_warnings(self) -> list[str]:
        """A warning for each word on many events that looks as if there was no id."""
        total = pl.col(ACTOR) + pl.col(TARGET)
        most = self.ids.select(total.top_k(2)).to_series().to_list()
        is_outlier = (pl.col(_ID) == "0") & (total == most[0]) & (total >= 3 * most[-1]) if most else pl.lit(False)
        is_word = pl.col(_ID).str.to_lowercase().is_in(NULL_LIKE_WORDS) & (total >= NULL_SHARE * self.num_events)
        suspects = self.ids.filter(is_word | is_outlier).select(_ID, total).sort(_ID)
        return [
            f"the id {word} is on {count:,} events: if it means that there is no id, add it to data.null_words in "
            "params.yaml"
            for word, count in suspects.iter_rows()
        ]


def _item_warning(target_column: str) -> str:
    """A warning if the name of the column of targets says that they are no users; else empty."""
    if not re.search(ITEM_PATTERN, target_column.lower()):
        return ""
    return (
        f"the targets are in column {target_column}: if they are items, not users, ids of two kinds are mixed, and a "
        "user and an item with the same id become one user"
    )


def preview_log(settings: DataSettings) -> LogPreview:
    """Reads and checks the whole log in data/."""
    preview = LogPreview()
    for chunk in track(read_chunks(settings, layout.DATA), "reading the log"):
        preview.add_chunk(chunk, check_event_rows(chunk.rows, settings, None))
    return preview


def preview_sample(settings: DataSettings, sample: Path) -> tuple[LogPreview, pl.DataFrame]:
    """Reads and checks a sample of a log; also returns its events, in the order of the sample."""
    preview = LogPreview()
    events = [preview.first_rows]
    for chunk in read_chunks(settings, sample):
        rows = check_event_rows(chunk.rows, settings, None)
        preview.add_chunk(chunk, rows)
        events.append(rows.filter(pl.col(REASON).is_null()))
    return preview, pl.concat(events, how="diagonal")


def _count_ids(events: pl.DataFrame) -> pl.DataFrame:
    """Each id as text, and the number of events with it as actor and as target."""
    sides = [
        events.select(
            pl.col(side).cast(pl.String).alias(_ID),
            pl.lit(side == ACTOR).cast(pl.Int64).alias(ACTOR),
            pl.lit(side == TARGET).cast(pl.Int64).alias(TARGET),
        )
        for side in (ACTOR, TARGET)
    ]
    return pl.concat(sides).group_by(_ID).agg(pl.col(ACTOR, TARGET).sum())


def _utc(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d %H:%M")
