"""Which events were answered: by a contact event from the target to the actor within a number of days."""

from __future__ import annotations

import numpy as np

from befriend.data.event_log import DAY, EventLog


def answered(log: EventLog, events: np.ndarray, days: float) -> np.ndarray:
    """bool[len(events)]: whether the target of each event contacted its actor later, within `days`.

    events: int64, indices into the log. Events of the last `days` of the log may still be answered: leave them out if
    you train on the result.
    """
    contact_events = np.flatnonzero(log.is_contact)
    pair = log.actor[contact_events].astype(np.int64) * log.num_users + log.target[contact_events]
    pairs = np.unique(pair)
    reverse_pair = log.target[events].astype(np.int64) * log.num_users + log.actor[events]
    index = np.searchsorted(pairs, reverse_pair).clip(max=len(pairs) - 1)
    has_contact = pairs[index] == reverse_pair
    # Contact events by pair, then time.
    keys = np.searchsorted(pairs, pair) * np.int64(log.num_events + 1) + contact_events
    keys.sort()
    next_key = np.searchsorted(keys, index * np.int64(log.num_events + 1) + events, side="right")
    next_key = next_key.clip(max=len(keys) - 1)
    is_same_pair = keys[next_key] // (log.num_events + 1) == index
    answer = keys[next_key] % (log.num_events + 1)
    is_in_time = log.timestamp[answer] - log.timestamp[events] <= days * DAY
    return has_contact & is_same_pair & (answer > events) & is_in_time
