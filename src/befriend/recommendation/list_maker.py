"""Makes lists of recommended users as tables; used by `befriend recommend`, the API and batch jobs.

A job is all lists that one `ListMaker` makes: those of one command, which may be interrupted and resumed, or of one API
call.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
import torch

from befriend.data.attributes import Attributes
from befriend.data.regimes import REGIMES, UNKNOWN_ACTION
from befriend.features.activity import NEVER
from befriend.features.feature_view import FeatureView
from befriend.recommendation.list_constraints import MIN_POOL_SIZE, ConstraintFilter, diversify
from befriend.recommendation.recommend_options import RecommendOptions
from befriend.recommendation.request_table import ACTION, AT, FILTER_AT, LIST, REGIME, USER_ID, check_requests
from befriend.recommendation.sampling import gumbel, sample
from befriend.retrieval.recommender import ListFilter, Ranking, Recommender
from befriend.retrieval.requests import RequestBatch, RequestBuilder

REQUESTS_PER_BLOCK = 1024  # number of requests for which lists are made at a time
LIST_SCHEMA: dict[str, Any] = {
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
    """Ranks users for requests, applies options and constraints, and returns the lists as tables.

    The constraint `cap` limits on how many lists of a job a user may be. For it, the object counts how often it has
    listed each user.
    """

    def __init__(
        self,
        recommender: Recommender,
        feature_view: FeatureView,
        eligible_since: np.ndarray,
        attributes: Attributes,
        vectors: np.ndarray,
        options: RecommendOptions,
    ):
        """feature_view: the histories, features and texts of the log; eligible_since: int64[N], UTC second after which
        each user may be listed, from `LoadedModels.eligible_since`; attributes: those of all users, such as a town,
        for constraints; vectors: float32[N, D], users of the two-tower model, of length 1, whose inner product is the
        similarity of two users, for `options.constraints.diversity`."""
        self.recommender, self.feature_view, self.options = recommender, feature_view, options
        self.log, self.vectors = feature_view.log, vectors
        self.request_builder = RequestBuilder(self.log, feature_view.activity.histories)
        self.times_listed = np.zeros(self.log.num_users, np.int64)
        # Made even if it would filter no user, because it raises for constraints that do not fit the log.
        list_filter = ConstraintFilter(options.constraints, self.log, eligible_since, attributes, self.times_listed)
        self.list_filter: ListFilter | None = list_filter if options.constraints.filters_users else None

    def request_batch(self, table: pl.DataFrame) -> RequestBatch:
        """Checks a table of requests, with the columns `request_table.COLUMNS`, and converts it to a batch.

        Column `at` is the cutoff of each list, a UTC second; null stands for the end of the log, one second after its
        last event or text. Contacts and blocks before `filter_at`, a UTC second, decide who may be listed; null stands
        for the cutoff. Column `list` is the kind of the list: "new" leaves out existing contacts of the user, "any"
        does not.

        Raises the errors of `request_table.check_requests`.
        """
        end = max(int(self.log.timestamp[-1]), self.feature_view.texts.last_timestamp) + 1
        at = table[AT].fill_null(end).to_numpy().astype(np.int64)
        filter_at = table[FILTER_AT].fill_null(pl.Series(at)).to_numpy().astype(np.int64)
        check_requests(table, self.log.actions, int(self.log.timestamp[0]), end)
        action_index = {action: k for k, action in enumerate(self.log.actions)} | {None: UNKNOWN_ACTION}
        return self.request_builder.build(
            user=self.log.internal_ids(table[USER_ID]),
            cutoff=at,
            filter_at=filter_at,
            action=np.array([action_index[action] for action in table[ACTION]], np.int64),
            regime=np.array([REGIMES.index(name) for name in table[REGIME]], np.int64),
            exclude_contacts=(table[LIST] == "new").to_numpy(),
        )

    def make_lists(self, table: pl.DataFrame) -> pl.DataFrame:
        """The lists for a table of at most REQUESTS_PER_BLOCK requests; they are all made in one batch.

        A row of the result is a recommended user. Columns:

        - request: row of `table`;
        - user: the requesting user, external id;
        - known: False if there is no event or text of the requesting user before the cutoff (cold start);
        - rank: from 1, in order of score; of the draws if options.sampling is set; of maximal marginal relevance if
          options.constraints.diversity is;
        - recommended: the recommended user, external id;
        - score: with options.model two-tower or stu, log-probability up to a constant that is the same for the whole
          list; with both, the output of the ranker, of which only the order matters, and for the users after the
          ranker's candidates the score of the two-tower model, shifted below those of the candidates;
        - contact: whether the two were in contact before the list is shown;
        - last_active: UTC time of the recommended user's last text, or last event as its actor, before the cutoff; null
          without one. Events of role exclude, such as blocks, do not count.

        Users are not recommended to themselves, nor to a user whom they blocked or who blocked them (an event whose
        action has the role exclude).
        """
        requests = self.request_batch(table)
        if not table.height:
            return pl.DataFrame(
                schema=LIST_SCHEMA | {"user": table[USER_ID].dtype, "recommended": self.log.user_ids.dtype}
            )
        ranking = self.recommender.rank(requests, (self.options.model,))
        ids, scores = self._select_lists(requests, ranking)
        row, rank = np.nonzero(ids >= 0)
        recommended = ids[row, rank]
        user, num_visible, cutoff = (
            torch.from_numpy(x) for x in (requests.user, requests.num_visible, requests.cutoff)
        )
        is_known = self.feature_view.has_event_or_text(user, num_visible, cutoff).numpy()
        num_until_shown = self.log.count_before(np.maximum(requests.cutoff, table[FILTER_AT].fill_null(0).to_numpy()))
        is_contact = np.zeros(len(recommended), bool)
        for b in np.unique(row):
            in_list = row == b
            contacts = self.request_builder.contacts(int(requests.user[b]), int(num_until_shown[b]))
            is_contact[in_list] = np.isin(recommended[in_list], contacts)
        last = last_active(self.feature_view, recommended, requests.num_visible[row], requests.cutoff[row])
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
                "last_active": pl.select(pl.when(active > NEVER).then(pl.from_epoch(active, "s")))
                .to_series()
                .dt.replace_time_zone("UTC"),
            }
        )

    def add_earlier_lists(self, lists: pl.DataFrame) -> None:
        """Adds lists that an earlier process made for the same job to the counts, because the cap holds for the job."""
        self.times_listed += np.bincount(self.log.internal_ids(lists["recommended"]), minlength=len(self.times_listed))

    def _select_lists(self, requests: RequestBatch, ranking: Ranking) -> tuple[np.ndarray, np.ndarray]:
        """Selects the users of each list from a ranking: sampling, constraints, diversity.

        Returns internal ids, int64[B, k], padded with -1, and their scores, float32[B, k].
        """
        rows = np.arange(len(requests))
        # Under a cap, who may be on a list depends on the lists before it, so the lists are made one by one.
        groups = rows[None] if self.options.constraints.cap is None else rows[:, None]
        lists = [self._select_for_rows(requests, ranking, group) for group in groups]
        return np.concatenate([ids for ids, _ in lists]), np.concatenate([scores for _, scores in lists])

    def _select_for_rows(
        self, requests: RequestBatch, ranking: Ranking, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `_select_lists`, for the requests in `rows`, int64[R]. Counts the listed users in `times_listed`."""
        options, diversity = self.options, self.options.constraints.diversity
        pool = max(MIN_POOL_SIZE, options.k) if diversity else options.k
        top = ranking.top(
            options.model, pool if options.sampling is None else self.log.num_users, self.list_filter, rows
        )
        ids, scores = top.ids, top.scores
        relevance = scores
        if options.sampling is not None:
            noise = [gumbel(self.log.num_users, generator=self._generator(requests, int(b))) for b in rows]
            noise_of_ids = torch.stack(noise).gather(1, torch.from_numpy(ids).clamp(min=0))
            drawn = sample(torch.from_numpy(scores), pool, options.sampling, noise_of_ids).numpy()
            ids, scores = _take_columns(ids, scores, drawn)
            # For diversity, relevance is the order of the draws, not the score.
            relevance = np.broadcast_to(-np.arange(pool, dtype=np.float32), ids.shape)
        if diversity:
            ids, scores = _take_columns(ids, scores, diversify(ids, relevance, options.k, diversity, self.vectors))
        self.times_listed += np.bincount(ids[ids >= 0], minlength=len(self.times_listed))
        return ids, scores

    def _generator(self, requests: RequestBatch, row: int) -> torch.Generator:
        """The random generator for one request. Its seed depends on the request, and not on other requests."""
        assert self.options.sampling is not None
        # A seed must not be negative, and UNKNOWN_ACTION is -1.
        columns = (requests.user, requests.cutoff, requests.regime, requests.action + 1)
        entropy = [self.options.sampling.seed, *(int(column[row]) for column in columns)]
        return torch.Generator().manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))


def _take_columns(ids: np.ndarray, scores: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ids, int64[B, C], and scores, float32[B, C], at columns, int64[B, k]; -1 and -inf where the column is -1."""
    index, is_padding = columns.clip(min=0), columns < 0
    ids, scores = np.take_along_axis(ids, index, 1), np.take_along_axis(scores, index, 1)
    return np.where(is_padding, -1, ids), np.where(is_padding, np.float32(-np.inf), scores)


def split_into_blocks(table: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Cuts a table of requests into blocks of REQUESTS_PER_BLOCK rows. An empty table gives one empty block."""
    for low in range(0, max(table.height, 1), REQUESTS_PER_BLOCK):
        yield table[low : low + REQUESTS_PER_BLOCK]


def last_active(
    feature_view: FeatureView, users: np.ndarray, num_visible: np.ndarray, cutoff: np.ndarray
) -> np.ndarray:
    """int64[n]: UTC second of each user's last text, or last event as its actor, before a cutoff; NEVER without one.

    Events whose action has the role exclude, such as blocks, do not count.

    users: int64[n], internal ids; cutoff: int64[n], UTC seconds; num_visible: int64[n], number of events before each
    cutoff.
    """
    user = torch.from_numpy(users).long()
    entry = feature_view.activity.last_entries(user, torch.from_numpy(num_visible))
    second = feature_view.activity.last_outgoing_times(entry)
    if feature_view.texts.width:
        post = feature_view.texts.last_posts(user, torch.from_numpy(cutoff))
        post_second = feature_view.texts.timestamp[post.clamp(min=0)]
        second = torch.maximum(second, torch.where(post >= 0, post_second, NEVER))
    return second.numpy()
