"""The global time split into train, validation and test, and the segment of an event, such as repeat or new.

A segment is the kind of an event by what happened before between its two users, see `segments`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from befriend import files
from befriend.data.event_log import SPLIT_FILE, EventLog
from befriend.errors import DataError

SEGMENTS = ("repeat", "reply", "new", "cold", "first ever")
REPEAT, REPLY, NEW, COLD, FIRST_EVER = range(len(SEGMENTS))


@dataclass(frozen=True)
class Split:
    """Train has timestamp < t_validation, validation has t_validation <= timestamp < t_test, test has the rest."""

    t_validation: int
    """UTC second where validation begins"""
    t_test: int
    """UTC second where test begins"""
    validation_start: int
    """index of the first validation event"""
    test_start: int
    """index of the first test event"""
    events: int
    """number of events of the log"""

    def part(self, name: str) -> tuple[int, int]:
        """The index of the first event of `train`, `validation` or `test`, and the index after its last event."""
        bounds = {
            "train": (0, self.validation_start),
            "validation": (self.validation_start, self.test_start),
            "test": (self.test_start, self.events),
        }
        return bounds[name]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def split_by_time(timestamps: np.ndarray, train_until: float, validation_until: float) -> Split:
    """Validation begins in the second of event `int(M * train_until)`, test in that of `int(M * validation_until)`.

    Events of the same second stay together. timestamps: int64[M], ascending, M >= 1. train_until, validation_until:
    shares of the M events, from 0 to 1, without 1.
    """
    num_events = len(timestamps)
    t_validation, t_test = (int(timestamps[int(num_events * share)]) for share in (train_until, validation_until))
    starts = np.searchsorted(timestamps, [t_validation, t_test])
    return Split(t_validation, t_test, int(starts[0]), int(starts[1]), num_events)


def segments(
    log: EventLog, events: np.ndarray, cutoffs: np.ndarray, eligible_since: np.ndarray | None = None
) -> np.ndarray:
    """int8[len(events)], the index into SEGMENTS of each event.

    repeat: the actor contacted the target before; reply: only the target contacted the actor before; new: neither. Only
    contact events before the event's own timestamp count, whatever the cutoff.

    Two other segments take precedence, for events whose target has no event before the cutoff. first ever: a text made
    the target eligible (allowed on lists) before the cutoff, and neither of the two contacted the other before; cold:
    all others.

    events: int64, indices into the log. cutoffs: int64, the cutoff of each event, a UTC second: models see only what
    happened before it. eligible_since: int64[N], UTC second after which each user is eligible; None: that of the user's
    first event, so that no event is first ever.
    """
    actor, target = log.actor[events].astype(np.int64), log.target[events].astype(np.int64)
    timestamp = log.timestamp[events]
    never = np.iinfo(np.int64).max
    is_repeat = contact_times(log.first_contacts, actor * log.num_users + target, never) < timestamp
    is_reply = contact_times(log.first_contacts, target * log.num_users + actor, never) < timestamp
    is_cold = log.first_seen[target] >= cutoffs
    is_eligible = (log.first_seen if eligible_since is None else eligible_since)[target] < cutoffs
    is_first_ever = is_cold & ~is_repeat & ~is_reply & is_eligible
    conditions, codes = [is_first_ever, is_cold, is_repeat, is_reply], [FIRST_EVER, COLD, REPEAT, REPLY]
    return np.select(conditions, codes, default=NEW).astype(np.int8)


def contact_times(contacts: tuple[np.ndarray, np.ndarray], query_pairs: np.ndarray, missing: int) -> np.ndarray:
    """int64: the UTC second of contact of each query pair; `missing` where there was no contact.

    contacts: EventLog.first_contacts or last_contacts. query_pairs: int64, actor * num_users + target.
    """
    pairs, times = contacts
    if not len(pairs):
        return np.full(len(query_pairs), missing)
    rank = np.minimum(np.searchsorted(pairs, query_pairs), len(pairs) - 1)
    return np.where(pairs[rank] == query_pairs, times[rank], missing)


def read_split(prepared: Path, log: EventLog) -> Split:
    """Reads the split next to a log, from stage `validate`; DataError if it is missing, damaged or of another log."""
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
    """int64: indices of at most `size` evenly spaced contact events of a part, which is train, validation or test.

    These are every ceil(n / size)-th of the n contact events of the part. Raises a DataError if there are none.
    """
    events = _contact_events(log, split, part)
    if not len(events):
        raise DataError(f"the {part} part has no contact event. Check data.roles and the split.")
    return _evenly_spaced(events, size)


def sample_first_contacts(log: EventLog, split: Split, part: str, size: int) -> np.ndarray:
    """int64: indices of at most `size` evenly spaced first contacts of a part, contact events between two users who had
    no earlier one."""
    events = _contact_events(log, split, part)
    always = np.full(log.num_users, np.iinfo(np.int64).min)  # eligible: a first contact of a new user is first ever
    is_first = np.isin(segments(log, events, log.timestamp[events], always), (NEW, FIRST_EVER))
    return _evenly_spaced(events[is_first], size)


def _contact_events(log: EventLog, split: Split, part: str) -> np.ndarray:
    """int64: indices of the contact events of a part."""
    events = np.arange(*split.part(part))
    return events[log.is_contact[events]]


def _evenly_spaced(events: np.ndarray, size: int) -> np.ndarray:
    """Every ceil(n / size)-th of n events; none if `size` is 0."""
    return events[:: max(1, -(-len(events) // size))] if size else events[:0]
