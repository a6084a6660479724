"""Which events were answered: the target contacted the actor within a number of days."""

from __future__ import annotations

import numpy as np

from befriend.data.event_log import DAY, EventLog


def answered(log: EventLog, events: np.ndarray, days: float) -> np.ndarray:
    """bool[len(events)]: whether the target of each event did a later contact event to its actor, within `days`.

    events: int64, indices into the log. An event of the last `days` of the log may still be answered: leave such
    events out if you train on the result.
    """
    contact = np.flatnonzero(log.is_contact)
    pair = log.actor[contact].astype(np.int64) * log.num_users + log.target[contact]
    pairs = np.unique(pair)
    reverse_pair = log.target[events].astype(np.int64) * log.num_users + log.actor[events]
    index = np.searchsorted(pairs, reverse_pair).clip(max=len(pairs) - 1)
    has_contact = pairs[index] == reverse_pair
    # Contact events by pair, then time.
    keys = np.searchsorted(pairs, pair) * np.int64(log.num_events + 1) + contact
    keys.sort()
    next_key = np.searchsorted(keys, index * np.int64(log.num_events + 1) + events, side="right")
    next_key = next_key.clip(max=len(keys) - 1)
    same_pair = keys[next_key] // (log.num_events + 1) == index
    event = keys[next_key] % (log.num_events + 1)
    in_time = log.timestamp[event] - log.timestamp[events] <= days * DAY
    return has_contact & same_pair & (event > events) & in_time
