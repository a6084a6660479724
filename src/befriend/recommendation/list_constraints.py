"""Constraints on lists, independent of the model: who may be listed, how often, and how diverse a list has to be."""

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

MIN_POOL_SIZE = 100  # a diverse list is chosen from at least this many candidates


@dataclass(frozen=True)
class ListConstraints:
    """The constraints that an operator sets for all lists of a job. The default is no constraint.

    A job is all lists of one command, which may be interrupted and resumed, or of one API call. Users are given by
    external ids, their ids in the log. Raises CallError for values out of range.
    """

    min_age_days: float = 0.0
    """only users whose first event or text is at least this many days old"""
    same_attributes: tuple[str, ...] = ()
    """names of categorical attributes: only users with the same values as the requesting user; both values have to be
    known"""
    different_attributes: tuple[str, ...] = ()
    """names of categorical attributes: only users with other values than the requesting user; both values have to be
    known"""
    only: Collection[Any] | None = None
    """only these users; None: all users"""
    exclude: Collection[Any] = ()
    """users who are on no list"""
    diversity: float = 0.0
    """0 to 1: weight of the dissimilarity to the users already on the list, see `diversify`; 0: order by score alone"""
    cap: int | None = None
    """on how many lists of a job a user may be; lists are made in the order of their requests; None: no cap"""

    def __post_init__(self) -> None:
        if self.cap is not None and (not isinstance(self.cap, Integral) or self.cap < 1):
            raise CallError(f"cap is {self.cap}: it must be a whole number of lists, at least one.")
        if not 0 <= self.diversity <= 1:
            raise CallError(f"diversity is {self.diversity}: it must lie between 0 and 1.")
        if not self.min_age_days >= 0:
            raise CallError(f"min_age_days is {self.min_age_days}: it must be a number of days, 0 or more.")

    @property
    def filters_users(self) -> bool:
        """Whether any constraint keeps users off lists. Diversity does not: it only reorders."""
        filters = self.min_age_days, self.same_attributes, self.different_attributes, self.exclude, self.cap
        return any(filters) or self.only is not None


class ConstraintFilter:
    """The constraints as a `befriend.retrieval.recommender.ListFilter`."""

    def __init__(
        self,
        constraints: ListConstraints,
        log: EventLog,
        eligible_since: np.ndarray,
        attributes: Attributes,
        times_listed: np.ndarray,
    ):
        """eligible_since: int64[N], UTC second of each user's first event or text; times_listed: int64[N], number of
        lists of the job that each user is on, which the caller updates in place after each list.

        Raises CallError for an attribute that the log does not have, and if `only` names no user of the log.
        """
        self.constraints, self.eligible_since = constraints, eligible_since
        self.attributes, self.times_listed = attributes, times_listed
        self.allowed = np.ones(len(eligible_since), bool)
        if constraints.only is not None:
            self.allowed[:] = False
            self.allowed[_internal_ids(log, constraints.only)] = True
            if not self.allowed.any():
                raise CallError("`only` names no user of the log, so all lists would be empty.")
        self.allowed[_internal_ids(log, constraints.exclude)] = False
        columns = list(attributes.vocabulary)
        for name in (*constraints.same_attributes, *constraints.different_attributes):
            if name not in columns:
                names = ", ".join(columns) or "the log has none"
                raise CallError(f"there is no categorical attribute {name}. Attributes: {names}.")
        self.same_columns = [columns.index(name) for name in constraints.same_attributes]
        self.different_columns = [columns.index(name) for name in constraints.different_attributes]

    def allowed_mask(self, user: int, cutoff: int) -> np.ndarray:
        """bool[N]: the users who may be on a list for `user`, an internal id, as of `cutoff`, a UTC second.

        A requesting user who is not in the log has no attributes.
        """
        allowed = self.allowed
        if self.constraints.min_age_days:
            allowed = allowed & (self.eligible_since <= cutoff - self.constraints.min_age_days * DAY)
        if self.constraints.cap is not None:
            allowed = allowed & (self.times_listed < self.constraints.cap)
        table = self.attributes.categorical
        for columns, has_to_match in ((self.same_columns, True), (self.different_columns, False)):
            for column in columns:
                user_value = table[user, column] if user < len(table) else 0  # 0: unknown
                values = table[:, column]
                allowed = allowed & (values != 0) & (user_value != 0) & ((values == user_value) == has_to_match)
        return allowed


def _internal_ids(log: EventLog, ids: Collection[Any]) -> np.ndarray:
    """int64: internal ids of users given by external ids; ids that the log does not have are left out."""
    internal = log.internal_ids(pl.Series(list(ids)))
    return internal[internal < log.num_users]


def diversify(ids: np.ndarray, scores: np.ndarray, k: int, weight: float, vectors: np.ndarray) -> np.ndarray:
    """Chooses diverse lists from pools of candidates by maximal marginal relevance (Carbonell and Goldstein 1998).

    Each step takes the candidate with the largest (1 - weight) * relevance - weight * similarity. Relevance is the
    score, scaled to fall from 1 to 0 over the pool. Similarity is the largest cosine to a candidate already on the
    list, 0 if it is negative or the list is empty.

    ids: int64[B, C], candidates, best first, padded with -1; scores: [B, C]; vectors: float32[N, D], of length 1, one
    for each user. Returns columns of `ids`, int64[B, k], in the order of the list, padded with -1.
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
