"""The regimes in which a list is made: which events are visible, and whether the user's next action is known.

regime      visible events                     next action   use case
streaming   all before the event               known         a service that is called within an action
live        all before the event               hidden        a page of suggestions that a user opens
daily       all before the event's UTC day     hidden        a nightly list
frozen      none after training                hidden        a model that is never refreshed
"""

from __future__ import annotations

from typing import Literal, get_args

Regime = Literal["streaming", "live", "daily", "frozen"]
REGIMES: tuple[Regime, ...] = get_args(Regime)
SAME_MOMENT: tuple[Regime, ...] = ("streaming", "live")
"""regimes in which all events before the event itself are visible"""
HIDDEN = -1  # action code where the user's next action is not known
