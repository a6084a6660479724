"""All options for making lists, in one place for the command line, the API and batch jobs."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from datetime import datetime
from numbers import Integral
from typing import Any, Literal, get_args

import polars as pl

from befriend.data.regimes import Regime
from befriend.errors import CallError
from befriend.recommendation.list_rules import Rules
from befriend.recommendation.request_table import requests_table
from befriend.recommendation.sampling import Sampling

ModelName = Literal["two-tower", "stu", "both"]
NO_RULES = Rules()


@dataclass(frozen=True)
class RecommendOptions:
    """Options for making lists. Who gets the lists is not among them.

    at, filter_at, regime, action and new_only become columns of the requests that `requests` makes for given users. A
    table of requests has its own values in each row; for it, those of the options are ignored.
    """

    model: ModelName = "both"
    """which model ranks; both: the ranker, over the candidates of the two models and the rules"""
    k: int = 10
    """users on a list"""
    sampling: Sampling | None = None
    """how to draw the lists; None: no draws, the best candidates first"""
    rules: Rules = NO_RULES
    """who may be on a list, how different its users are, and how often one user is shown"""
    approximate: bool = False
    """search faster and miss a few candidates: an index, or a beam"""
    clusters: bool = False
    """let the two-tower model search the best clusters and the users who were active last, instead of all users"""
    at: datetime | None = None
    """the cutoff: only what happened before it counts; UTC without a time zone; None: the end of the log"""
    filter_at: datetime | None = None
    """contacts and blocks before it decide who may be listed, where lists are shown later than `at`; None: as `at`"""
    regime: Regime | None = None
    """how the list is used: live, daily for a nightly list, ...; None: streaming with an action, live without"""
    action: str | None = None
    """what the user is about to do, where that is known"""
    new_only: bool = False
    """leave out existing contacts"""

    def __post_init__(self) -> None:
        if self.model not in get_args(ModelName):
            raise CallError(f"there is no model {self.model}. Models: {', '.join(get_args(ModelName))}.")
        if not isinstance(self.k, Integral) or self.k < 1:
            raise CallError(f"k is {self.k}: a list has a whole number of people, at least one.")

    def replaced(self, **values: Any) -> RecommendOptions:
        """These options with other values for some fields. CallError for a field that does not exist."""
        names = [field.name for field in fields(self)]
        for name in values:
            if name not in names:
                raise CallError(f"there is no option {name}. Options: {', '.join(names)}.")
        return replace(self, **values)

    def requests(self, users: pl.Series) -> pl.DataFrame:
        """One request for each user, given by external ids: a table with the columns of `request_table.COLUMNS`."""
        return requests_table(users, self.at, self.filter_at, self.regime, self.action, self.new_only)
