"""The settings of stage validate: the split, and the thresholds of the rules on the log."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from befriend.settings import Settings, Share


class ValidateSettings(Settings):
    """The split, and the thresholds of the rules on the log. Critical rules stop the stage, warnings are reported."""

    train_until: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """share of the events, in time order, used for training"""
    validation_until: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """share of the events, in time order, where validation ends; the rest is for the test"""
    latest: datetime | None = None
    """events after this time (ISO 8601) are rejected; null accepts any"""
    duplicates: Literal["keep", "drop"] = "keep"
    """what to do with exact duplicates of an event, which are counted in both cases"""
    previous_users: Path | None = None
    """users.parquet of an earlier run: its users keep their internal ids, new users get the ids after them"""
    max_rejected: Share = 0.01
    """critical above: share of rows that are rejected"""
    max_self_loops: Share = 0.3
    """warning above: share of events in which a user acts on themselves"""
    max_duplicates: Share = 0.2
    """warning above: share of events that repeat an earlier one exactly"""
    max_cold_targets: Share = 0.3
    """warning above: share of test events whose target has no earlier event"""
    max_newcomers: Share = 0.7
    """warning above: share of test events whose target has no event in training"""
    min_reciprocity: Share = 0.02
    """warning below: share of pairs with contacts in both directions"""
    max_share_of_one_actor: Share = 0.1
    """warning above: share of events done by the most active user"""
    min_days: Annotated[float, Field(ge=0)] = 14
    """warning below: days from the first event to the last"""
    checked_rows: Annotated[int, Field(ge=1000)] = 2_000_000
    """maximum number of raw rows that Great Expectations checks, evenly spaced; counts and shares are of all rows"""

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        if self.train_until >= self.validation_until:
            raise ValueError(
                f"train_until ({self.train_until}) must lie below validation_until ({self.validation_until})"
            )
        return self

    @property
    def latest_second(self) -> int | None:
        """`latest` in UTC seconds; a time without zone is UTC."""
        if self.latest is None:
            return None
        zoned = self.latest if self.latest.tzinfo else self.latest.replace(tzinfo=UTC)
        return int(zoned.timestamp())
