"""Who may be on a list whatever the model says, how different its people are, and how often one person is shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from befriend.data.activity import DAY
from befriend.data.attributes import Attributes
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
    only: frozenset[int] | None = None
    """only these people, by number"""
    exclude: frozenset[int] = frozenset()
    """never these people, by number"""
    diversity: float = 0.0
    """0 to 1, how much it counts that people differ from those before them on the list"""
    cap: int | None = None
    """how many lists of a run one person may be on; users are served in their order"""

    @property
    def filters(self) -> bool:
        """Whether some people may not be on some lists."""
        filters = self.min_age_days, self.same, self.different, self.exclude, self.cap
        return any(filters) or self.only is not None


class Eligible:
    """The rules as a `befriend.retrieval.recommender.Filter`."""

    def __init__(self, rules: Rules, since: np.ndarray, attributes: Attributes, shown: np.ndarray):
        """since: int64[N], the second after which each user may be found; shown: int64[N], on how many lists everybody
        has been, which whoever makes them counts on."""
        self.rules, self.since, self.attributes, self.shown = rules, since, attributes, shown
        self.listed = np.ones(len(since), bool)
        if rules.only is not None:
            self.listed[:] = False
            self.listed[list(rules.only)] = True
        self.listed[list(rules.exclude)] = False
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


def diverse(
    ids: np.ndarray, scores: np.ndarray, k: int, weight: float, vectors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """int64[B, k] and float32[B, k]: lists put together from pools, int64[B, C], best first, -1 behind the last.

    By maximal marginal relevance (Carbonell and Goldstein 1998): (1 - w) * relevance - w * the largest cosine with
    anybody on the list so far; relevance falls from 1 to 0 with the score over the pool. vectors: float32[N, D], of
    length 1.
    """
    out, score_out = np.full((len(ids), k), -1), np.full((len(ids), k), -np.inf, np.float32)
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
            out[row, place], score_out[row, place] = people[best], score[best]
            near = np.maximum(near, vectors[people] @ vectors[people[best]])
    return out, score_out
