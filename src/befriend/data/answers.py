"""Which events were answered: the other side acted back within so many days."""

from __future__ import annotations

import numpy as np

from befriend.data.activity import DAY
from befriend.data.log import EventLog


def answered(log: EventLog, events: np.ndarray, days: float) -> np.ndarray:
    """bool[len(events)]: whether the target did a contact event to the actor later, within `days`.

    An event of the last `days` of the log may still be answered: whoever learns from it has to leave those out.
    """
    contact = np.flatnonzero(log.is_contact)
    pair = log.actor[contact].astype(np.int64) * log.num_users + log.target[contact]
    pairs = np.unique(pair)
    back = log.target[events].astype(np.int64) * log.num_users + log.actor[events]
    place = np.searchsorted(pairs, back).clip(max=len(pairs) - 1)
    met = pairs[place] == back
    # Events of each pair in order: pair, then event.
    keys = np.searchsorted(pairs, pair) * np.int64(log.num_events + 1) + contact
    keys.sort()
    following = np.searchsorted(keys, place * np.int64(log.num_events + 1) + events, side="right")
    following = following.clip(max=len(keys) - 1)
    same = keys[following] // (log.num_events + 1) == place
    event = keys[following] % (log.num_events + 1)
    in_time = log.timestamp[event] - log.timestamp[events] <= days * DAY
    return met & same & (event > events) & in_time
