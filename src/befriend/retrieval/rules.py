"""Who may be on a list whatever the model says, how different its people are, and how often one person is shown."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import polars as pl

from befriend.data.activity import DAY
from befriend.data.attributes import Attributes
from befriend.data.log import EventLog
from befriend.errors import CallError

POOL = 100  # people, at least, from whom a list is put together


@dataclass(frozen=True)
class Rules:
    """What an operator asks of lists."""

    min_age_days: float = 0.0
    """only people who have been there so many days, since their first event or text"""
    same: tuple[str, ...] = ()
    """only people with the user's value of these categorical attributes, where both are known"""
    different: tuple[str, ...] = ()
    """only people with another value, where both are known"""
    only: Collection[Any] | None = None
    """only these people, by their ids in the log"""
    exclude: Collection[Any] = ()
    """never these people, by their ids in the log"""
    diversity: float = 0.0
    """0 to 1, how much it counts that people differ from those before them on the list"""
    cap: int | None = None
    """how many lists of a run one person may be on; users are served in their order"""

    def __post_init__(self) -> None:
        if self.cap is not None and (not isinstance(self.cap, Integral) or self.cap < 1):
            raise CallError(f"cap is {self.cap}: one person may be on a whole number of lists, at least one.")
        if not 0 <= self.diversity <= 1:
            raise CallError(f"diversity is {self.diversity}, and lies between 0 and 1.")
        if not self.min_age_days >= 0:
            raise CallError(f"min_age_days is {self.min_age_days}: it is a number of days, 0 or more.")

    @property
    def filters(self) -> bool:
        """Whether some people may not be on some lists."""
        filters = self.min_age_days, self.same, self.different, self.exclude, self.cap
        return any(filters) or self.only is not None


class Eligible:
    """The rules as a `befriend.retrieval.recommender.Filter`."""

    def __init__(self, rules: Rules, log: EventLog, since: np.ndarray, attributes: Attributes, shown: np.ndarray):
        """since: int64[N], the second after which each user may be found; shown: int64[N], on how many lists everybody
        has been, which whoever makes them counts on."""
        self.rules, self.since, self.attributes, self.shown = rules, since, attributes, shown
        self.listed = np.ones(len(since), bool)
        if rules.only is not None:
            self.listed[:] = False
            self.listed[_known(log, rules.only)] = True
            if not self.listed.any():
                raise CallError("of those who alone may be listed, the log has nobody.")
        self.listed[_known(log, rules.exclude)] = False
        columns = list(attributes.vocabulary)
        for name in (*rules.same, *rules.different):
            if name not in columns:
                known = ", ".join(columns) or "the log has none"
                raise CallError(f"there is no categorical attribute {name}. Attributes: {known}.")
        self.same, self.different = ([columns.index(name) for name in names] for names in (rules.same, rules.different))

    def allows(self, user: int, horizon: int) -> np.ndarray:
        """bool[N]. Somebody the log does not have has no attributes."""
        allowed = self.listed
        if self.rules.min_age_days:
            allowed = allowed & (self.since <= horizon - self.rules.min_age_days * DAY)
        if self.rules.cap is not None:
            allowed = allowed & (self.shown < self.rules.cap)
        table = self.attributes.categorical
        for columns, alike in ((self.same, True), (self.different, False)):
            for column in columns:
                own = table[user, column] if user < len(table) else 0
                values = table[:, column]
                allowed = allowed & (values != 0) & (own != 0) & ((values == own) == alike)
        return allowed


def _known(log: EventLog, ids: Collection[Any]) -> np.ndarray:
    """int64: the numbers of those whom the log has."""
    numbers = log.numbers(pl.Series(list(ids)))
    return numbers[numbers < log.num_users]


def diverse(ids: np.ndarray, scores: np.ndarray, k: int, weight: float, vectors: np.ndarray) -> np.ndarray:
    """int64[B, k]: columns of pools, int64[B, C], best first, of which a list is put together; -1 behind the last.

    By maximal marginal relevance (Carbonell and Goldstein 1998): (1 - w) * relevance - w * the largest cosine with
    anybody on the list so far; relevance falls from 1 to 0 with the score over the pool. vectors: float32[N, D], of
    length 1.
    """
    out = np.full((len(ids), k), -1)
    for row, (pool, score) in enumerate(zip(ids, scores, strict=True)):
        people, score = pool[pool >= 0], score[pool >= 0]
        if not len(people):
            continue
        spread = max(float(score[0] - score[-1]), 1e-9)
        relevance, near, left = (score - score[-1]) / spread, np.zeros(len(people)), np.ones(len(people), bool)
        for place in range(min(k, len(people))):
            value = np.where(left, (1 - weight) * relevance - weight * near, -np.inf)
            best = int(value.argmax())
            left[best] = False
            out[row, place] = best
            near = np.maximum(near, vectors[people] @ vectors[people[best]])
    return out
