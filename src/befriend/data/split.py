"""The global time split, and what an event is to its past: repeat, reply, new, cold or first ever."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from befriend import files
from befriend.data.log import SPLIT_FILE, EventLog
from befriend.errors import DataError

SEGMENTS = ("repeat", "reply", "new", "cold", "first ever")


@dataclass(frozen=True)
class Split:
    """Train is timestamp < t_validation, validation is below t_test, test the rest; starts are event positions."""

    t_validation: int
    t_test: int
    validation_start: int
    test_start: int
    events: int

    def part(self, name: str) -> tuple[int, int]:
        """First event of `train`, `validation` or `test`, and the one past its last."""
        bounds = {
            "train": (0, self.validation_start),
            "validation": (self.validation_start, self.test_start),
            "test": (self.test_start, self.events),
        }
        return bounds[name]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def split_by_time(timestamps: np.ndarray, train_until: float, validation_until: float) -> Split:
    """Cuts at the timestamps of the events at the two shares of the log; all events of one second stay together.

    timestamps: int64[M], ascending, M >= 1.
    """
    m = len(timestamps)
    t_validation, t_test = (int(timestamps[int(m * share)]) for share in (train_until, validation_until))
    starts = np.searchsorted(timestamps, [t_validation, t_test])
    return Split(t_validation, t_test, int(starts[0]), int(starts[1]), m)


def segments(log: EventLog, events: np.ndarray, horizons: np.ndarray, findable: np.ndarray | None = None) -> np.ndarray:
    """int8[len(events)], index into SEGMENTS of each event, by the true past before its own timestamp.

    An event whose target has no event before the horizon is `first ever` where it is a first contact and the target was
    findable then, by a text; otherwise `cold`: nobody can rank the target. Only events of role contact make somebody a
    contact. findable: int64[N], the second after which each user may stand on a list; None: after their first event.
    """
    u, v, t = log.actor[events].astype(np.int64), log.target[events].astype(np.int64), log.timestamp[events]
    never = np.iinfo(np.int64).max
    repeat = time_of(log.first_contacts, u * log.num_users + v, never) < t
    reply = time_of(log.first_contacts, v * log.num_users + u, never) < t
    cold = log.first_seen[v] >= horizons
    first_ever = cold & ~repeat & ~reply & ((log.first_seen if findable is None else findable)[v] < horizons)
    return np.select([first_ever, cold, repeat, reply], [4, 3, 0, 1], default=2).astype(np.int8)


def time_of(pairs: tuple[np.ndarray, np.ndarray], wanted: np.ndarray, missing: int) -> np.ndarray:
    """int64: the time of each wanted pair (actor * users + target); `missing` where it never was a contact.

    pairs: EventLog.first_contacts or last_contacts.
    """
    keys, times = pairs
    if not len(keys):
        return np.full(len(wanted), missing)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, times[place], missing)


def read_split(prepared: Path, log: EventLog) -> Split:
    """The split that stage `validate` wrote beside a log."""
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
            f"{path} was made with another log than events.parquet beside it. Run `dvc repro --force validate`."
        )
    return split
