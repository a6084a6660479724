"""The regimes in which a list is made: which events are visible, and whether the user's next action is known.

An evaluated list predicts the target of one event of the requesting user. The events before the *cutoff* of the list, a
UTC second that `cutoffs` computes, are visible: scores depend on no other event.

regime      visible events                     next action   use case
streaming   all before the predicted event     known         a service that is called when the user begins an action
live        all before the predicted event     hidden        a page of suggestions that a user opens
daily       all before the event's UTC day     hidden        a nightly list
frozen      all before the evaluated part      hidden        a model whose log is never updated
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import numpy as np

Regime = Literal["streaming", "live", "daily", "frozen"]
REGIMES: tuple[Regime, ...] = get_args(Regime)
"""from the freshest to the oldest cutoff"""
LIST_KINDS = ("any", "new")
"""kinds of lists, by whether existing contacts are excluded"""
EVENT_TIME_REGIMES: tuple[Regime, ...] = ("streaming", "live")
"""regimes whose cutoff is the event's own second; the cutoff of the others is the start of a day or of a part"""
UNKNOWN_ACTION = -1
"""action index in a query whose regime hides the user's next action"""


def cutoffs(timestamps: np.ndarray, regime: Regime, part_start: int | None = None) -> np.ndarray:
    """int64[n]: the cutoffs of the lists that predict n events in a regime, UTC seconds.

    streaming, live: the event's own second. daily: the start of its UTC day, but not before `part_start`. frozen:
    `part_start`.

    timestamps: int64[n], UTC seconds of the events. part_start: UTC second of the first event of the evaluated part of
    the log; None: daily cutoffs have no lower bound, and frozen raises a ValueError.

    A part starts on 1 January 1970 at 18:00. Its events are at 18:00 and 23:00, and at 01:00 of the next day:

    >>> import numpy as np
    >>> hour = 3600
    >>> timestamps = np.array([18, 23, 25]) * hour
    >>> for regime in REGIMES:
    ...     print(regime, (cutoffs(timestamps, regime, part_start=18 * hour) // hour).tolist())
    streaming [18, 23, 25]
    live [18, 23, 25]
    daily [18, 18, 24]
    frozen [18, 18, 18]
    >>> (cutoffs(timestamps, "daily") // hour).tolist()
    [0, 0, 24]
    """
    import numpy as np  # here, since settings need only the names of regimes, and are read before anything is loaded

    from befriend.data.event_log import DAY

    if regime in EVENT_TIME_REGIMES:
        return timestamps
    if regime == "daily":
        day_start = timestamps // DAY * DAY
        return day_start if part_start is None else np.maximum(part_start, day_start)
    if part_start is None:
        raise ValueError("the cutoff of the regime frozen is the start of a part: give part_start")
    return np.full(len(timestamps), part_start)
