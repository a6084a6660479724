"""Settings of stage evaluate."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from befriend.data.regimes import REGIMES, Regime
from befriend.settings import Settings


class EvaluateSettings(Settings):
    """The evaluation protocol: which events are predicted, what is visible, and the confidence intervals."""

    part: Literal["test", "validation"] = "test"
    """choose settings on validation; look at test only once"""
    events: Annotated[int, Field(ge=1)] = 3000
    """maximum number of evaluated events, evenly spaced over the part"""
    first_contacts: Annotated[int, Field(ge=0)] = 3000
    """maximum number of first contacts, evenly spaced over the part, that are evaluated besides on list new (segment
    `all new`): where first contacts are rare, few of the events are any"""
    regimes: Annotated[list[Regime], Field(min_length=1)] = list(REGIMES)
    """what is visible when a list is made: streaming (everything before the event, and its action), live (everything
    before the event, without its action), daily (everything before its UTC day), frozen (everything before the part)"""
    served: Annotated[int, Field(ge=0)] = 60
    """requests, drawn at random, that are also sent through the API and as a file: they have to give the same lists"""
    bootstrap: Annotated[int, Field(ge=100)] = 1000
    """user resamplings for each confidence interval"""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """level of the confidence intervals"""
    seed: int = 0
    """seed of the bootstrap"""
