"""Business rules for lists, whatever the model says: who may be listed, how often, and how different users must be."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import polars as pl

from befriend.data.attributes import Attributes
from befriend.data.event_log import DAY, EventLog
from befriend.errors import CallError

POOL = 100  # candidates, at least, from which a diverse list is chosen


@dataclass(frozen=True)
class Rules:
    """What an operator asks of lists. Users are given by their external ids."""

    min_age_days: float = 0.0
    """only users whose first event or text is at least this many days old"""
    same: tuple[str, ...] = ()
    """only users who share the requesting user's value of these categorical attributes; both must be known"""
    different: tuple[str, ...] = ()
    """only users whose value differs from the requesting user's; both must be known"""
    only: Collection[Any] | None = None
    """only these users; None: no such limit"""
    exclude: Collection[Any] = ()
    """never these users"""
    diversity: float = 0.0
    """0 to 1: how much it counts that users differ from those before them on the list"""
    cap: int | None = None
    """how many lists of a run one user may be on; lists are made in the order of their requests"""

    def __post_init__(self) -> None:
        if self.cap is not None and (not isinstance(self.cap, Integral) or self.cap < 1):
            raise CallError(f"cap is {self.cap}: one user may be on a whole number of lists, at least one.")
        if not 0 <= self.diversity <= 1:
            raise CallError(f"diversity is {self.diversity}: it must lie between 0 and 1.")
        if not self.min_age_days >= 0:
            raise CallError(f"min_age_days is {self.min_age_days}: it must be a number of days, 0 or more.")

    @property
    def filters(self) -> bool:
        """Whether any rule keeps users off lists."""
        filtering_rules = self.min_age_days, self.same, self.different, self.exclude, self.cap
        return any(filtering_rules) or self.only is not None


class RuleEligibility:
    """The rules as a `befriend.retrieval.recommender.ListFilter`."""

    def __init__(
        self, rules: Rules, log: EventLog, eligible_since: np.ndarray, attributes: Attributes, shown: np.ndarray
    ):
        """eligible_since: int64[N], the UTC second from which each user may be listed; shown: int64[N], on how many
        lists each user has been so far. The caller updates it in place while it makes lists."""
        self.rules, self.eligible_since, self.attributes, self.shown = rules, eligible_since, attributes, shown
        self.listed = np.ones(len(eligible_since), bool)
        if rules.only is not None:
            self.listed[:] = False
            self.listed[_internal_ids(log, rules.only)] = True
            if not self.listed.any():
                raise CallError("`only` names no user of the log, so nobody could be listed.")
        self.listed[_internal_ids(log, rules.exclude)] = False
        columns = list(attributes.vocabulary)
        for name in (*rules.same, *rules.different):
            if name not in columns:
                allowed = ", ".join(columns) or "the log has none"
                raise CallError(f"there is no categorical attribute {name}. Attributes: {allowed}.")
        self.same, self.different = ([columns.index(name) for name in names] for names in (rules.same, rules.different))

    def allowed_mask(self, user: int, cutoff: int) -> np.ndarray:
        """bool[N]: who may be on a list that is made for `user` (internal id) at `cutoff` (UTC second).

        A user that the log does not have has no attributes.
        """
        allowed = self.listed
        if self.rules.min_age_days:
            allowed = allowed & (self.eligible_since <= cutoff - self.rules.min_age_days * DAY)
        if self.rules.cap is not None:
            allowed = allowed & (self.shown < self.rules.cap)
        table = self.attributes.categorical
        for columns, alike in ((self.same, True), (self.different, False)):
            for column in columns:
                user_value = table[user, column] if user < len(table) else 0
                values = table[:, column]
                allowed = allowed & (values != 0) & (user_value != 0) & ((values == user_value) == alike)
        return allowed


def _internal_ids(log: EventLog, ids: Collection[Any]) -> np.ndarray:
    """int64: internal ids of those users, given by external ids, whom the log has."""
    internal = log.internal_ids(pl.Series(list(ids)))
    return internal[internal < log.num_users]


def diversify(ids: np.ndarray, scores: np.ndarray, k: int, weight: float, vectors: np.ndarray) -> np.ndarray:
    """int64[B, k]: columns of `ids` that make each list, best first; -1 behind the last.

    Maximal marginal relevance (Carbonell and Goldstein 1998): each step takes the candidate with the largest
    (1 - weight) * relevance - weight * max cosine to the candidates already listed. Relevance is the score, scaled to
    fall from 1 to 0 over the pool.

    ids: int64[B, C], pools of candidates, best first, -1 behind the last; scores: [B, C]; vectors: float32[N, D], of
    length 1.
    """
    out = np.full((len(ids), k), -1)
    for row, (pool, score) in enumerate(zip(ids, scores, strict=True)):
        candidates, score = pool[pool >= 0], score[pool >= 0]
        if not len(candidates):
            continue
        spread = max(float(score[0] - score[-1]), 1e-9)
        relevance = (score - score[-1]) / spread
        similarity, remaining = np.zeros(len(candidates)), np.ones(len(candidates), bool)
        for rank in range(min(k, len(candidates))):
            value = np.where(remaining, (1 - weight) * relevance - weight * similarity, -np.inf)
            best = int(value.argmax())
            remaining[best] = False
            out[row, rank] = best
            similarity = np.maximum(similarity, vectors[candidates] @ vectors[candidates[best]])
    return out
