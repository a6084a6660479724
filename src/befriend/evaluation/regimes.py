"""The regimes in which a list is made: what is visible, and whether it is known what the user is about to do.

streaming   everything before the event, the action known     a service that is asked within an action
live        everything before the event, the action hidden    a page of suggestions that somebody opens
daily       everything before the event's UTC day             a nightly list
frozen      nothing after training                            a model that is never refreshed
"""

from __future__ import annotations

from typing import Literal, get_args

Regime = Literal["streaming", "live", "daily", "frozen"]
REGIMES: tuple[Regime, ...] = get_args(Regime)
SAME_MOMENT: tuple[Regime, ...] = ("streaming", "live")
"""regimes that see everything before the event"""
HIDDEN = -1  # the action of somebody of whom it is not known what they are about to do
