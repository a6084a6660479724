"""Makes lists as tables, for any requests on a log: used by `befriend recommend`, the API and batch jobs alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import torch

from befriend.data.attributes import Attributes
from befriend.data.regimes import HIDDEN, REGIMES
from befriend.errors import CallError, DataError
from befriend.features.activity import NEVER_TIME
from befriend.features.feature_view import FeatureView
from befriend.recommendation.list_rules import POOL, RuleEligibility, diversify
from befriend.recommendation.recommend_options import RecommendOptions
from befriend.recommendation.request_table import ACTION, AT, FILTER_AT, LIST, LISTS, REGIME, USER_ID
from befriend.recommendation.sampling import gumbel, sample
from befriend.retrieval.recommender import ListFilter, Ranking, Recommender
from befriend.retrieval.requests import RequestBatch, RequestBuilder

AT_ONCE = 1024  # requests
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


class ListMaker:
    """Makes lists as tables. For the cap, it counts from list to list how often each user was listed."""

    def __init__(
        self,
        recommender: Recommender,
        feature_view: FeatureView,
        eligible_since: np.ndarray,
        attributes: Attributes,
        vectors: np.ndarray,
        options: RecommendOptions,
    ):
        """eligible_since: int64[N], the UTC second from which each user may be listed; attributes: of all users;
        vectors: float32[N, D], of length 1: their cosine is how alike two users are, for `options.rules.diversity`."""
        self.recommender, self.feature_view, self.options = recommender, feature_view, options
        self.log, self.vectors = feature_view.log, vectors
        self.builder = RequestBuilder(self.log, feature_view.activity.histories)
        self.shown = np.zeros(self.log.num_users, np.int64)
        # Made even where no rule filters: it raises for rules that do not fit the log.
        rules = RuleEligibility(options.rules, self.log, eligible_since, attributes, self.shown)
        self.eligibility: ListFilter | None = rules if options.rules.filters else None

    def request(self, table: pl.DataFrame) -> RequestBatch:
        """The requests of a table with the columns `COLUMNS`, `at` and `filter_at` in UTC seconds.

        CallError, DataError for requests that the log cannot serve; both name the row.
        """
        end = max(int(self.log.timestamp[-1]), self.feature_view.texts.last) + 1
        at = table[AT].fill_null(end).to_numpy().astype(np.int64)
        filter_at = table[FILTER_AT].fill_null(pl.Series(at)).to_numpy().astype(np.int64)
        row = _first_true((filter_at < at).tolist())
        if row is not None:
            raise CallError(
                "filter_at, the time at which a list is shown, lies before at, the time as of which it is made"
                f"{_in_row(table, row)}."
            )
        row = _first_true(table[USER_ID].is_null())
        if row is not None:
            raise CallError(f"no user is named{_in_row(table, row)}.")
        has_action = table[ACTION].is_not_null()
        for name, labels, is_given in (
            (REGIME, REGIMES, True),
            (LIST, LISTS, True),
            (ACTION, self.log.actions, has_action),
        ):
            row = _first_true(is_given & ~table[name].is_in(labels))
            if row is not None:
                raise CallError(
                    f"there is no {name} “{table[name][row]}”{_in_row(table, row)}. There are: {', '.join(labels)}."
                )
        row = _first_true(has_action != (table[REGIME] == "streaming"))
        if row is not None:
            problem = f"has the action {table[ACTION][row]}" if has_action[row] else "has no action"
            raise CallError(
                "the action, what the user is about to do, belongs to regime streaming and to no other: regime "
                f"{table[REGIME][row]} {problem}{_in_row(table, row)}."
            )
        row = _first_true((at <= self.log.timestamp[0]).tolist())
        if row is not None:
            begin = datetime.fromtimestamp(int(self.log.timestamp[0]), UTC)
            raise DataError(
                f"nothing had happened yet{_in_row(table, row)}: the log begins on {begin:%Y-%m-%d %H:%M:%S} UTC."
            )
        code = {action: k for k, action in enumerate(self.log.actions)} | {None: HIDDEN}
        return self.builder.build(
            user=self.log.internal_ids(table[USER_ID]),
            cutoff=at,
            filter_at=filter_at,
            action=np.array([code[action] for action in table[ACTION]], np.int64),
            regime=np.array([REGIMES.index(name) for name in table[REGIME]], np.int64),
            exclude_contacts=(table[LIST] == "new").to_numpy(),
        )

    def lists(self, table: pl.DataFrame) -> pl.DataFrame:
        """Lists for a table of requests, best first or as drawn. All are made at once, so at most AT_ONCE of them.

        Columns: request (row of the table), user, known (False: a cold-start list, made without any history), rank
        (from 1), recommended, score (of a model: a log probability, up to a constant that is the same for the whole
        list), contact (whether the two were in contact before the list is shown), last_active (UTC; when the
        recommended user last did or wrote something, null for never). Nobody is recommended to themselves, or to a
        user on the other side of an `exclude` event.
        """
        request = self.request(table)
        if not table.height:
            return pl.DataFrame(schema=SCHEMA | {"user": table[USER_ID].dtype, "recommended": self.log.user_ids.dtype})
        ranking = self.recommender.rank(request, (self.options.model,))
        ids, scores = self._cut_lists(request, ranking)
        row, rank = np.nonzero(ids >= 0)
        recommended = ids[row, rank]
        user, num_visible, cutoff = (torch.from_numpy(x) for x in (request.user, request.num_visible, request.cutoff))
        is_known = self.feature_view.has_event_or_text(user, num_visible, cutoff).numpy()
        shown_visible = self.log.count_before(np.maximum(request.cutoff, table[FILTER_AT].fill_null(0).to_numpy()))
        is_contact = np.zeros(len(recommended), bool)
        for b in np.unique(row):
            of_list = row == b
            contacts = self.builder.contacts(int(request.user[b]), int(shown_visible[b]))
            is_contact[of_list] = np.isin(recommended[of_list], contacts)
        last = last_active(self.feature_view, recommended, request.num_visible[row], request.cutoff[row])
        active = pl.Series(last, dtype=pl.Int64)
        return pl.DataFrame(
            {
                "request": row,
                "user": table[USER_ID].gather(row),
                "known": is_known[row],
                "rank": rank + 1,
                "recommended": self.log.user_ids.gather(recommended),
                "score": scores[row, rank],
                "contact": is_contact,
                "last_active": pl.select(pl.when(active > NEVER_TIME).then(pl.from_epoch(active, "s")))
                .to_series()
                .dt.replace_time_zone("UTC"),
            }
        )

    def count_earlier(self, lists: pl.DataFrame) -> None:
        """Counts who is on lists that an earlier process made: the cap holds for all lists of a run together."""
        self.shown += np.bincount(self.log.internal_ids(lists["recommended"]), minlength=len(self.shown))

    def _cut_lists(self, request: RequestBatch, ranking: Ranking) -> tuple[np.ndarray, np.ndarray]:
        """int64[B, k] users, -1 behind the last, and float32[B, k], their scores."""
        rows = np.arange(len(request))
        # Under a cap, who may be on a list depends on the lists before it, so they are cut one by one.
        groups = rows[None] if self.options.rules.cap is None else rows[:, None]
        lists = [self._cut_rows(request, ranking, group) for group in groups]
        return np.concatenate([ids for ids, _ in lists]), np.concatenate([scores for _, scores in lists])

    def _cut_rows(self, request: RequestBatch, ranking: Ranking, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `_cut_lists`, for rows of the request, int64[R]. Counts the listed users in `shown`."""
        options, diversity = self.options, self.options.rules.diversity
        pool = max(POOL, options.k) if diversity else options.k
        top = ranking.top(
            options.model, pool if options.sampling is None else self.log.num_users, self.eligibility, requests=rows
        )
        ids, scores = top.ids, top.scores
        relevance = scores
        if options.sampling is not None:
            noise = [gumbel(self.log.num_users, generator=self._generator(request, int(b))) for b in rows]
            noise_of_ids = torch.stack(noise).gather(1, torch.from_numpy(ids).clamp(min=0))
            drawn = sample(torch.from_numpy(scores), pool, options.sampling, noise_of_ids).numpy()
            ids, scores = _take_columns(ids, scores, drawn)
            # Candidates drawn earlier are more relevant, whatever their score.
            relevance = np.broadcast_to(-np.arange(pool, dtype=np.float32), ids.shape)
        if diversity:
            ids, scores = _take_columns(ids, scores, diversify(ids, relevance, options.k, diversity, self.vectors))
        self.shown += np.bincount(ids[ids >= 0], minlength=len(self.shown))
        return ids, scores

    def _generator(self, request: RequestBatch, row: int) -> torch.Generator:
        """The random generator of one request: its draws do not depend on the other requests."""
        assert self.options.sampling is not None
        columns = (request.user, request.cutoff, request.regime, request.action + 1)
        entropy = [self.options.sampling.seed, *(int(column[row]) for column in columns)]
        return torch.Generator().manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))


def _take_columns(ids: np.ndarray, scores: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ids, int64[B, C], and scores, float32[B, C], at columns, int64[B, k]; -1 and -inf where the column is -1."""
    index = columns.clip(min=0)
    taken = np.take_along_axis(ids, index, 1), np.take_along_axis(scores, index, 1)
    return np.where(columns < 0, -1, taken[0]), np.where(columns < 0, np.float32(-np.inf), taken[1])


def _first_true(mask: Iterable[bool]) -> int | None:
    """The first row that is true, None where none is."""
    return next((row for row, is_true in enumerate(mask) if is_true), None)


def _in_row(table: pl.DataFrame, row: int) -> str:
    """Where an error is, for a message; empty where there is only one request."""
    return f", in row {row + 1} of the requests" if table.height > 1 else ""


def blocks(table: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The table in blocks of AT_ONCE requests. An empty table is one empty block."""
    for low in range(0, max(table.height, 1), AT_ONCE):
        yield table[low : low + AT_ONCE]


def last_active(
    feature_view: FeatureView, users: np.ndarray, num_visible: np.ndarray, cutoff: np.ndarray
) -> np.ndarray:
    """int64[n]: UTC second in which each user last did or wrote something before a cutoff; at most NEVER_TIME if never.

    users, num_visible, cutoff: int64[n]; num_visible: the number of events before each cutoff.
    """
    user = torch.from_numpy(users).long()
    entry = feature_view.activity.last_entries(user, torch.from_numpy(num_visible))
    second = feature_view.activity.last_outgoing_times(entry)
    if feature_view.texts.width:
        post = feature_view.texts.last_posts(user, torch.from_numpy(cutoff))
        post_second = feature_view.texts.second[post.clamp(min=0)]
        second = torch.maximum(second, torch.where(post >= 0, post_second, NEVER_TIME))
    return second.numpy()
