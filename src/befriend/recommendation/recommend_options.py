"""The options for making lists, shared by the command line, the API and batch jobs."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from datetime import datetime
from numbers import Integral
from typing import Any, Literal, get_args

import polars as pl

from befriend.data.regimes import Regime
from befriend.errors import CallError
from befriend.recommendation.list_constraints import ListConstraints
from befriend.recommendation.request_table import requests_table
from befriend.recommendation.sampling import Sampling

ModelName = Literal["two-tower", "stu", "both"]
NO_CONSTRAINTS = ListConstraints()


@dataclass(frozen=True)
class RecommendOptions:
    """Options for making lists. The requesting users, who get the lists, are given separately.

    The last five options, from `at` on, describe a request: `requests` makes a table of requests from them. A table of
    requests from elsewhere has its own values in each row, so that these five options do not apply to it.

    Raises CallError for an unknown model or a `k` below 1.
    """

    model: ModelName = "both"
    """what ranks the users: two-tower, the two-tower retrieval model; stu, the model that generates semantic IDs of
    users (social tokenized user ids) token by token; both, a ranker over the candidates of the two models and of
    heuristics such as popularity"""
    k: int = 10
    """number of users on a list"""
    sampling: Sampling | None = None
    """how to draw lists at random from the scores; None: the users with the best scores, best first"""
    constraints: ListConstraints = NO_CONSTRAINTS
    """who may be on a list, how diverse a list has to be, and on how many lists a user may be"""
    approximate: bool = False
    """search faster and miss a few candidates: the two-tower model with an index, the STU model with beam search"""
    clusters: bool = False
    """let the two-tower model search only the best clusters of users and the most recently active users, instead of all
    users or the index of `approximate`"""
    at: datetime | None = None
    """the cutoff: only events and texts before it count; in UTC without a time zone; None: the end of the log"""
    filter_at: datetime | None = None
    """contacts and blocks before this time decide who may be listed; for lists that are shown after `at`; None:
    the time `at`"""
    regime: Regime | None = None
    """how the list is used, which models take as an input: streaming, a service that is called when the user has chosen
    an action; live, a page that a user opens; daily, a list made at night; frozen, a list by a model that is never
    refreshed. None: streaming with an action, live without"""
    action: str | None = None
    """the action that the user is about to do, in regime streaming"""
    new_only: bool = False
    """whether lists leave out existing contacts"""

    def __post_init__(self) -> None:
        if self.model not in get_args(ModelName):
            raise CallError(f"there is no model {self.model}. Models: {', '.join(get_args(ModelName))}.")
        if not isinstance(self.k, Integral) or self.k < 1:
            raise CallError(f"k is {self.k}: a list has a whole number of users, at least one.")

    def replaced(self, **values: Any) -> RecommendOptions:
        """A copy of these options with other values for some fields. CallError for a field that does not exist."""
        names = [field.name for field in fields(self)]
        for name in values:
            if name not in names:
                raise CallError(f"there is no option {name}. Options: {', '.join(names)}.")
        return replace(self, **values)

    def requests(self, users: pl.Series) -> pl.DataFrame:
        """A table with one request for each user, given by external ids; columns: `request_table.COLUMNS`."""
        return requests_table(users, self.at, self.filter_at, self.regime, self.action, self.new_only)
