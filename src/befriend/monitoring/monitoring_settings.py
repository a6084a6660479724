"""Settings of drift measures, promotion gate and run registry."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from befriend.data.regimes import Regime
from befriend.settings import Settings, Share


class DriftSettings(Settings):
    """How much new events may differ from the champion's: a warning is reported, severe drift prevents promotion."""

    former_names = {"least_events": "min_events"}

    psi_warning: Annotated[float, Field(gt=0)] = 0.1
    """warning above this population stability index, of actions and first tokens"""
    psi_severe: Annotated[float, Field(gt=0)] = 0.25
    """severe above this population stability index"""
    ks_warning: Share = 0.1
    """warning above this Kolmogorov-Smirnov statistic, of contacts per user and of times between events"""
    ks_severe: Share = 0.25
    """severe above this Kolmogorov-Smirnov statistic"""
    share_warning: Share = 0.1
    """warning above this difference of a share (answered pairs, acts of newcomers, repeated contacts)"""
    share_severe: Share = 0.2
    """severe above this difference of a share"""
    min_events: Annotated[int, Field(ge=1)] = 500
    """with fewer new events than this, the last tenths of both logs are compared instead"""

    def limits(self, kind: str) -> tuple[float, float]:
        """(warning, severe) limits of a kind of measure: psi, ks or share."""
        return getattr(self, f"{kind}_warning"), getattr(self, f"{kind}_severe")


class GateSettings(Settings):
    """What a challenger has to achieve before it replaces the champion."""

    regimes: Annotated[list[Regime], Field(min_length=1)] = ["streaming", "daily"]
    """regimes in which its lists are compared with the champion's; evaluate.regimes has to have at least one of them"""
    tolerance: Share = 0.02
    """share of the champion's NDCG@10 that may be lost: on list new, on list new for newcomers, and on list any"""
    floor: Annotated[float, Field(ge=0)] = 0.8
    """multiple of the best heuristic's NDCG@10 that the confidence interval of its own has to reach, on either list"""
    fall: Share = 0.5
    """largest relative fall below the NDCG@10 with which the champion was promoted"""
    drift: Literal["ok", "warning", "severe"] = "warning"
    """the worst drift with which a challenger is still promoted"""


class RegistrySettings(Settings):
    """How many promoted runs are stored, and for how many commits."""

    keep: Annotated[int, Field(ge=2)] = 5
    """number of promoted runs to keep; the champion and the one before it are never removed"""
    commits: Annotated[int, Field(ge=1)] = 10
    """number of last commits whose results stay in DVC's cache when it is tidied, in addition to the workspace's"""
