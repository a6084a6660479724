"""The three regimes of what is visible when a list is made."""

from __future__ import annotations

from typing import Literal, get_args

Regime = Literal["streaming", "daily", "frozen"]
REGIMES: tuple[Regime, ...] = get_args(Regime)
