"""The three regimes of what is visible when a list is made; only the first knows the action."""

from __future__ import annotations

from typing import Literal, get_args

Regime = Literal["streaming", "daily", "frozen"]
REGIMES: tuple[Regime, ...] = get_args(Regime)
HIDDEN = -1  # the action of somebody of whom it is not known what they are about to do
