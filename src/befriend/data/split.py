"""The global time split, and the segment of an event given its past: repeat, reply, new, cold or first ever."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from befriend import files
from befriend.data.event_log import SPLIT_FILE, EventLog
from befriend.errors import DataError

SEGMENTS = ("repeat", "reply", "new", "cold", "first ever")
NEW, COLD, FIRST_EVER = (SEGMENTS.index(name) for name in ("new", "cold", "first ever"))


@dataclass(frozen=True)
class Split:
    """Train has timestamp < t_validation, validation t_validation <= timestamp < t_test, test the rest."""

    t_validation: int
    t_test: int
    validation_start: int
    """index of the first validation event"""
    test_start: int
    """index of the first test event"""
    events: int
    """number of events of the log"""

    def part(self, name: str) -> tuple[int, int]:
        """Index of the first event of `train`, `validation` or `test`, and one past its last."""
        bounds = {
            "train": (0, self.validation_start),
            "validation": (self.validation_start, self.test_start),
            "test": (self.test_start, self.events),
        }
        return bounds[name]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def split_by_time(timestamps: np.ndarray, train_until: float, validation_until: float) -> Split:
    """Splits at the timestamps of the events that lie at two shares of the log; events of one second stay together.

    timestamps: int64[M], ascending, M >= 1. train_until, validation_until: shares of the M events.
    """
    m = len(timestamps)
    t_validation, t_test = (int(timestamps[int(m * share)]) for share in (train_until, validation_until))
    starts = np.searchsorted(timestamps, [t_validation, t_test])
    return Split(t_validation, t_test, int(starts[0]), int(starts[1]), m)


def segments(
    log: EventLog, events: np.ndarray, cutoffs: np.ndarray, eligible_since: np.ndarray | None = None
) -> np.ndarray:
    """int8[len(events)], index into SEGMENTS of each event.

    If the target has no event before the cutoff: `first ever` if the event is a first contact in either direction and
    the target was eligible then, by a text; otherwise `cold`, since no model can rank that target. All other events are
    `repeat` (the actor contacted the target before), `reply` (the target contacted the actor before) or `new`. These
    look at contact events before the event's own timestamp, whatever the cutoff.

    events: event indices. cutoffs: UTC second of each event's cutoff. eligible_since: int64[N], UTC second after which
    each user is eligible; None: the user's first event.
    """
    u, v, t = log.actor[events].astype(np.int64), log.target[events].astype(np.int64), log.timestamp[events]
    never = np.iinfo(np.int64).max
    repeat = time_of(log.first_contacts, u * log.num_users + v, never) < t
    reply = time_of(log.first_contacts, v * log.num_users + u, never) < t
    cold = log.first_seen[v] >= cutoffs
    first_ever = cold & ~repeat & ~reply & ((log.first_seen if eligible_since is None else eligible_since)[v] < cutoffs)
    return np.select([first_ever, cold, repeat, reply], [4, 3, 0, 1], default=2).astype(np.int8)


def time_of(pairs: tuple[np.ndarray, np.ndarray], query_pairs: np.ndarray, missing: int) -> np.ndarray:
    """int64: the contact time of each query pair (actor * num_users + target); `missing` where there was no contact.

    pairs: EventLog.first_contacts or last_contacts.
    """
    known_pairs, times = pairs
    if not len(known_pairs):
        return np.full(len(query_pairs), missing)
    rank = np.minimum(np.searchsorted(known_pairs, query_pairs), len(known_pairs) - 1)
    return np.where(known_pairs[rank] == query_pairs, times[rank], missing)


def read_split(prepared: Path, log: EventLog) -> Split:
    """Reads the split that stage `validate` wrote next to a log; DataError if it is damaged or of another log."""
    path = prepared / SPLIT_FILE
    if not path.is_file():
        raise DataError(f"there is no {path}. Run `dvc repro validate` first.")
    try:
        raw = files.read_json(path)
        split = Split(**{name: raw[name] for name in Split.__dataclass_fields__})
    except (ValueError, KeyError) as error:
        raise DataError(f"{path} is damaged ({error!r}). Run `dvc repro --force validate`.") from None
    if (raw.get("users"), raw.get("lineage"), raw["events"]) != (log.num_users, log.lineage(), log.num_events):
        raise DataError(
            f"{path} was made with another log than the events.parquet next to it. Run `dvc repro --force validate`."
        )
    return split


def sample_events(log: EventLog, split: Split, part: str, size: int) -> np.ndarray:
    """int64: indices of at most `size` evenly spaced contact events of a part: every ceil(count / size)-th.

    part: train, validation or test.
    """
    events = np.arange(*split.part(part))
    events = events[log.is_contact[events]]
    if not len(events):
        raise DataError(f"the {part} part has no contact event. Check data.roles and the split.")
    return events[:: max(1, -(-len(events) // size))]
