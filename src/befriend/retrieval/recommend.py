"""Tables of lists: what `befriend recommend`, the API and batch jobs give, for anybody, as of any moment of a log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from numbers import Integral
from typing import Any, Literal, get_args

import numpy as np
import polars as pl
import torch

from befriend.data.activity import NEVER
from befriend.data.attributes import Attributes
from befriend.data.observed import Observed
from befriend.errors import CallError, DataError
from befriend.evaluation.regimes import HIDDEN, REGIMES
from befriend.retrieval.recommender import Filter, Ranking, Recommender
from befriend.retrieval.request_table import ACTION, AT, FILTER_AT, LIST, LISTS, REGIME, USER_ID
from befriend.retrieval.requests import Request, RequestBuilder
from befriend.retrieval.rules import POOL, Eligible, Rules, diverse
from befriend.retrieval.sampling import Sampling, gumbel, sample

AT_ONCE = 1024  # requests
NO_RULES = Rules()
SCHEMA: dict[str, Any] = {
    "request": pl.Int64,
    "user": pl.String,
    "known": pl.Boolean,
    "rank": pl.Int64,
    "recommended": pl.String,
    "score": pl.Float32,
    "contact": pl.Boolean,
    "last_active": pl.Datetime("us", "UTC"),
}
ModelName = Literal["two-tower", "stu", "both"]


@dataclass(frozen=True)
class RecommendOptions:
    """What is shown of what was ranked."""

    model: ModelName = "both"
    k: int = 10
    """people a list"""
    sampling: Sampling | None = None
    """draw the lists instead of ranking; None: the best first"""
    rules: Rules = NO_RULES
    """who may be on a list, and how it is put together"""

    def __post_init__(self) -> None:
        if self.model not in get_args(ModelName):
            raise CallError(f"there is no model {self.model}. Models: {', '.join(get_args(ModelName))}.")
        if not isinstance(self.k, Integral) or self.k < 1:
            raise CallError(f"k is {self.k}: a list has a whole number of people, at least one.")


class ListMaker:
    """Lists of a project as tables. What its cap and its draws remember, it learns from list to list."""

    def __init__(
        self,
        recommender: Recommender,
        observed: Observed,
        since: np.ndarray,
        attributes: Attributes,
        vectors: np.ndarray,
        options: RecommendOptions,
    ):
        """since: int64[N], the second after which each user may be found; attributes: of everybody; vectors:
        float32[N, D], of everybody, of length 1, by which people are alike."""
        self.recommender, self.observed, self.options = recommender, observed, options
        self.log, self.vectors = observed.log, vectors
        self.builder = RequestBuilder(self.log, observed.activity.histories)
        self.shown = np.zeros(self.log.num_users, np.int64)
        eligible = Eligible(options.rules, self.log, since, attributes, self.shown)  # says what is wrong with the rules
        self.only: Filter | None = eligible if options.rules.filters else None

    def request(self, table: pl.DataFrame) -> Request:
        """table: COLUMNS, `at` and `filter_at` in UTC seconds. CallError, DataError for what there is not."""
        last = max(int(self.log.timestamp[-1]), self.observed.texts.last) + 1
        at = table[AT].fill_null(last).to_numpy().astype(np.int64)
        filter_at = table[FILTER_AT].fill_null(pl.Series(at)).to_numpy().astype(np.int64)
        first = _first((filter_at < at).tolist())
        if first is not None:
            raise CallError(
                "filter_at, the moment at which a list is shown, lies before at, as of which it is made"
                f"{_of_row(table, first)}."
            )
        first = _first(table[USER_ID].is_null())
        if first is not None:
            raise CallError(f"no user is named{_of_row(table, first)}.")
        action = table[ACTION].is_not_null()
        for name, labels, given in (
            (REGIME, REGIMES, True),
            (LIST, LISTS, True),
            (ACTION, self.log.actions, action),
        ):
            first = _first(given & ~table[name].is_in(labels))
            if first is not None:
                raise CallError(
                    f"there is no {name} “{table[name][first]}”{_of_row(table, first)}. There are: {', '.join(labels)}."
                )
        first = _first(action != (table[REGIME] == "streaming"))
        if first is not None:
            said = f"has the action {table[ACTION][first]}" if action[first] else "has no action"
            raise CallError(
                "what the user is about to do is known in regime streaming, and in no other: regime "
                f"{table[REGIME][first]} {said}{_of_row(table, first)}."
            )
        first = _first((at <= self.log.timestamp[0]).tolist())
        if first is not None:
            begin = datetime.fromtimestamp(int(self.log.timestamp[0]), UTC)
            raise DataError(
                f"nothing had happened yet{_of_row(table, first)}: the log begins on {begin:%Y-%m-%d %H:%M:%S} UTC."
            )
        number = {action: k for k, action in enumerate(self.log.actions)} | {None: HIDDEN}
        return self.builder.build(
            user=self.log.numbers(table[USER_ID]),
            horizon=at,
            filter_at=filter_at,
            action=np.array([number[action] for action in table[ACTION]], np.int64),
            regime=np.array([REGIMES.index(name) for name in table[REGIME]], np.int64),
            is_new=(table[LIST] == "new").to_numpy(),
        )

    def lists(self, table: pl.DataFrame) -> pl.DataFrame:
        """Lists for requests, best first or as drawn; all at once, so AT_ONCE of them at most.

        Columns: request (row of the table), user, known (False: a cold-start list, made without any history), rank
        (from 1), recommended, score (a model's is the log of a probability, up to a constant that is the same for the
        whole list), contact (whether the two were in contact before the list is shown), last_active (UTC; when the
        person last did or wrote something, null for never). Nobody gets themselves, or anybody on the other side of an
        `exclude` event.
        """
        request = self.request(table)
        if not table.height:
            return pl.DataFrame(schema=SCHEMA | {"user": table[USER_ID].dtype, "recommended": self.log.user_ids.dtype})
        ranking = self.recommender.rank(request, (self.options.model,))
        ids, scores = self._shown(request, ranking)
        row, rank = np.nonzero(ids >= 0)
        found = ids[row, rank]
        user, visible, horizon = (torch.from_numpy(x) for x in (request.user, request.visible, request.horizon))
        known = self.observed.known(user, visible, horizon).numpy()
        until = self.log.before(np.maximum(request.horizon, table[FILTER_AT].fill_null(0).to_numpy()))
        contact = np.zeros(len(found), bool)
        for b in np.unique(row):
            mine = row == b
            contact[mine] = np.isin(found[mine], self.builder.contacts(int(request.user[b]), int(until[b])))
        last = last_active(self.observed, found, request.visible[row], request.horizon[row])
        active = pl.Series(last, dtype=pl.Int64)
        return pl.DataFrame(
            {
                "request": row,
                "user": table[USER_ID].gather(row),
                "known": known[row],
                "rank": rank + 1,
                "recommended": self.log.user_ids.gather(found),
                "score": scores[row, rank],
                "contact": contact,
                "last_active": pl.select(pl.when(active > NEVER).then(pl.from_epoch(active, "s")))
                .to_series()
                .dt.replace_time_zone("UTC"),
            }
        )

    def remember(self, lists: pl.DataFrame) -> None:
        """Counts who is on lists that an earlier process made: the cap on how often one is shown spans them."""
        self.shown += np.bincount(self.log.numbers(lists["recommended"]), minlength=len(self.shown))

    def _shown(self, request: Request, ranking: Ranking) -> tuple[np.ndarray, np.ndarray]:
        """int64[B, k] users, -1 behind the last, and float32[B, k], their scores."""
        everyone = np.arange(len(request))
        # Who may be on a list under a cap depends on the lists before it.
        groups = everyone[None] if self.options.rules.cap is None else everyone[:, None]
        parts = [self._heads(request, ranking, some) for some in groups]
        return np.concatenate([ids for ids, _ in parts]), np.concatenate([scores for _, scores in parts])

    def _heads(self, request: Request, ranking: Ranking, some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `_shown`, of some requests, int64[R]; counts who is on them."""
        options, diversity = self.options, self.options.rules.diversity
        pool = max(POOL, options.k) if diversity else options.k
        head = ranking.head(
            options.model, pool if options.sampling is None else self.log.num_users, self.only, requests=some
        )
        ids, scores = head.ids, head.scores
        relevance = scores
        if options.sampling is not None:
            noise = [gumbel(self.log.num_users, generator=self._generator(request, int(b))) for b in some]
            mine = torch.stack(noise).gather(1, torch.from_numpy(ids).clamp(min=0))
            drawn = sample(torch.from_numpy(scores), pool, options.sampling, mine).numpy()
            ids, scores = _columns(ids, scores, drawn)
            # Who was drawn earlier counts for more, whatever their score.
            relevance = np.broadcast_to(-np.arange(pool, dtype=np.float32), ids.shape)
        if diversity:
            ids, scores = _columns(ids, scores, diverse(ids, relevance, options.k, diversity, self.vectors))
        self.shown += np.bincount(ids[ids >= 0], minlength=len(self.shown))
        return ids, scores

    def _generator(self, request: Request, row: int) -> torch.Generator:
        """Each request has draws of its own, whoever else is asked for."""
        assert self.options.sampling is not None
        asked = (request.user, request.horizon, request.regime, request.action + 1)
        entropy = [self.options.sampling.seed, *(int(column[row]) for column in asked)]
        return torch.Generator().manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))


def _columns(ids: np.ndarray, scores: np.ndarray, column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ids, int64[B, C], and scores, float32[B, C], in some columns, int64[B, k], -1 for nobody."""
    at = column.clip(min=0)
    found = np.take_along_axis(ids, at, 1), np.take_along_axis(scores, at, 1)
    return np.where(column < 0, -1, found[0]), np.where(column < 0, np.float32(-np.inf), found[1])


def _first(wrong: Iterable[bool]) -> int | None:
    """The first row of which something holds."""
    return next((row for row, holds in enumerate(wrong) if holds), None)


def _of_row(table: pl.DataFrame, row: int) -> str:
    """What an error says of where it is, of many requests."""
    return f", in row {row + 1} of the requests" if table.height > 1 else ""


def blocks(table: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """AT_ONCE requests at a time, one block even of none."""
    for low in range(0, max(table.height, 1), AT_ONCE):
        yield table[low : low + AT_ONCE]


def last_active(observed: Observed, users: np.ndarray, visible: np.ndarray, horizon: np.ndarray) -> np.ndarray:
    """int64: the second in which each user last did or wrote something before a moment; at most NEVER without any."""
    who = torch.from_numpy(users).long()
    place = observed.activity.places(who, torch.from_numpy(visible))
    done = observed.activity.user_marks[place, 2]
    if observed.texts.width:
        written = observed.texts.places(who, torch.from_numpy(horizon))
        wrote = observed.texts.second[written.clamp(min=0)]
        done = torch.maximum(done, torch.where(written >= 0, wrote, NEVER))
    return done.numpy()
