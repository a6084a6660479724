"""Settings of stage report."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from befriend.settings import Settings


class ReportSettings(Settings):
    """The page of a run."""

    examples: Annotated[int, Field(ge=0, le=4)] = 3
    """number of example users, at most one for each level of activity; 0: a page without example lists"""
    people: Annotated[int, Field(ge=1, le=20)] = 5
    """users on each example list"""
