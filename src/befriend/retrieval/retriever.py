"""Retrieval with any model: queries, vectors of all eligible users as of a cutoff, and exact scores of the best.

A score is the sum of four terms. Static term: what a user is, which never changes after training. Neighbor and dynamic
term: the user's recent neighbors and recent activity, computed anew for each cutoff. Pointer term: only for the few
users in the requesting user's own history, the history candidates, who are scored one by one.

A search makes proposals, then computes exact scores, so that a list does not depend on which other lists are requested
with it: matrix products round differently by their shape, so they only propose users. Which of the proposals and
history candidates are listed, and in which order, is decided by scores in double precision, rounded once.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
from torch import Tensor

from befriend.features.feature_view import FeatureView
from befriend.features.snapshot import FeatureSnapshot
from befriend.models.model_inputs import NextTargetPredictionBatch, Positions, Query
from befriend.models.model_settings import QuerySettings
from befriend.models.query_tower import QueryTower
from befriend.models.score_terms import row_wise_dot
from befriend.retrieval.knn import SearchResult
from befriend.retrieval.requests import RequestBatch, request_tensors

M = TypeVar("M", bound=QueryTower)
EXTRA_PROPOSALS = 32  # users proposed beyond the k to be listed
ROUNDING_MARGIN = 1e-4  # single and double precision differ by less, as a share of the score
DOUBLES_PER_BATCH = 2**22  # numbers in double precision at a time: 32 MiB


@dataclass(frozen=True)
class ModelView:
    """A model as of a cutoff. Row i of `vectors` belongs to user `snapshot.eligible_users[i]`."""

    snapshot: FeatureSnapshot
    vectors: Tensor
    """float32[E, W]: of each eligible user, the vector whose inner product with a query is the score without the
    pointer term; of the STU model, without the static term too"""
    neighbor: Tensor
    """float32[N, D]: of each user, the mean embedding of the recent neighbors"""


@dataclass(frozen=True)
class ExcludedPairs:
    """Excluded pairs (row of a request, user): the user must not be listed in that row."""

    row: Tensor
    """int64[P]"""
    user: Tensor
    """int64[P]"""

    @classmethod
    def of(cls, request: RequestBatch) -> ExcludedPairs:
        """The pairs that a request excludes."""
        return cls(torch.from_numpy(request.exclude_row), torch.from_numpy(request.exclude))

    def with_pairs(self, row: Tensor, user: Tensor) -> ExcludedPairs:
        """These pairs and more. row, user: int64[P']."""
        return ExcludedPairs(torch.cat([self.row, row]), torch.cat([self.user, user]))

    def hold(self, users: Tensor, size: int) -> Tensor:
        """bool[B, K]: whether each user, int64[B, K] below `size`, is excluded from its row."""
        rows = torch.arange(len(users))[:, None]
        return torch.isin(rows * size + users, self.row * size + self.user)

    def of_rows(self, rows: Tensor) -> ExcludedPairs:
        """The pairs of these rows, int64, ascending, which become rows 0, 1, ..."""
        new_row = torch.searchsorted(rows, self.row).clamp(max=max(len(rows) - 1, 0))
        selected = rows[new_row] == self.row if len(rows) else torch.zeros(len(self.row), dtype=torch.bool)
        return ExcludedPairs(new_row[selected], self.user[selected])


@dataclass(frozen=True)
class HistoryCandidates:
    """Distinct users in the recent histories of B requesting users; only they get the pointer term."""

    users: Tensor
    """int64[B, C]"""
    real: Tensor
    """bool[B, C], False where a row is padded"""
    score: Tensor
    """float64[B, C], the pointer term"""


class Retriever(ABC, Generic[M]):
    """A model on a log. It does not change from list to list, so threads may share it."""

    @torch.no_grad()
    def __init__(self, name: str, model: M, feature_view: FeatureView, query_settings: QuerySettings):
        self.name, self.model, self.feature_view, self.query_settings = name, model.eval(), feature_view, query_settings
        self.activity = feature_view.activity
        self.rows = model.users.rows()
        self.exact = copy.deepcopy(model).double()
        self.exact_rows = self.exact.users.rows()

    @abstractmethod
    def static_vectors(self, users: Tensor) -> Tensor:
        """float32[E, W']: the first columns of the vectors of users, int64[E], equal at every cutoff; W' may be 0."""

    @abstractmethod
    def static(self, view: ModelView, query: Query, users: Tensor) -> Tensor:
        """float64[B, K]: the static term of the score of users, int64[B, K]."""

    @abstractmethod
    def scores(self, view: ModelView, query: Query) -> Tensor:
        """float32[B, E]: scores of all eligible users, without the pointer term."""

    @abstractmethod
    def propose(
        self, view: ModelView, query: Query, k: int, excluded: ExcludedPairs, allowed: Tensor | None
    ) -> SearchResult:
        """The k best users by score in single precision, without the pointer term; internal ids, not rows of the view.

        query: float32; allowed: bool[N], users who may be listed at all; None: all eligible users.
        """

    @torch.no_grad()
    def view_at(self, snapshot: FeatureSnapshot, previous: ModelView | None = None) -> ModelView:
        """The model as of a cutoff. previous: the view of any cutoff, from which unchanged vectors are copied."""
        a, model, ids = self.activity, self.model, snapshot.eligible_users
        blocks = [self.static_vectors(ids)]
        neighbor = torch.zeros(0, 0)
        if model.to_neighbor is not None:
            if previous is None:
                neighbor = torch.zeros(len(snapshot.last_entry), model.to_neighbor.out_features)
                changed = snapshot.has_events.nonzero().squeeze(1)
            else:
                neighbor = previous.neighbor.clone()
                changed = (snapshot.last_entry != previous.snapshot.last_entry).nonzero().squeeze(1)
            recent_neighbors = a.recent_neighbors(
                changed, snapshot.last_entry[changed] + 1, self.query_settings.recent_neighbors
            )
            neighbor[changed] = model.neighbor(recent_neighbors, self.rows)
            blocks.append(neighbor[ids])
        if model.dynamic is not None:
            has_texts = self.feature_view.texts.width > 0
            features = (
                torch.cat([snapshot.user_features, snapshot.texts[0]], 1) if has_texts else snapshot.user_features
            )
            blocks.append(model.dynamic(features))
            if model.text_width:
                blocks.append(self.feature_view.texts.vectors_of(snapshot.texts[1]))
        return self.prepared(ModelView(snapshot, torch.cat(blocks, 1), neighbor))

    def prepared(self, view: ModelView) -> ModelView:
        """The view with whatever else a search needs, such as an index."""
        return view

    @torch.no_grad()
    def queries(self, request: RequestBatch) -> Query:
        """The queries of B requests, in double precision. Users without an event or text ask as an unknown actor."""
        a, length, unknown = self.activity, self.query_settings.history_length, self.feature_view.log.num_users
        columns = request_tensors(request)
        # The lists `any` and `new` of an event have the same query: it is computed once. And all regimes with the same
        # cutoff share one encoded history.
        distinct, query_of_request = torch.stack(list(columns.values())).unique(return_inverse=True, dim=1)
        user, _, _, action, regime = distinct
        (actor, num_visible, cutoff), row = distinct[:3].unique_consecutive(return_inverse=True, dim=1)
        actor = torch.where(self.feature_view.has_event_or_text(actor, num_visible, cutoff), actor, unknown)
        history = self.feature_view.encoder_histories.gather(actor, num_visible, length)
        batch = NextTargetPredictionBatch(
            actor, history.action, history.other, history.mask, actor, actor, history.received, history.timestamp
        )
        features = None
        if self.query_settings.freshness:
            features = self.feature_view.features(
                actor, a.last_entries(actor, num_visible), num_visible, cutoff
            ).double()[row]
        state = torch.full_like(row, length)
        positions = Positions(row, state, self.feature_view.actions(action), user, regime, features)
        states = self.exact.encode_history(batch, self.exact_rows)
        return self.exact.query(batch, positions, states, self.exact_rows).select(query_of_request)

    @torch.no_grad()
    def contacts(self, view: ModelView, query: Query, user: Tensor) -> HistoryCandidates:
        """The history candidates of each user; none if the model has no pointer term. user: int64[B]."""
        a, snapshot, pointer = self.activity, view.snapshot, self.exact.pointer
        num_visible = torch.full_like(user, snapshot.num_visible)
        end = a.histories.end_offsets(user, num_visible)
        entry = a.recent_distinct_entries(
            end, user, num_visible, self.query_settings.history_candidates if pointer is not None else 0
        )
        users = a.neighbor_of_entry(entry)
        if pointer is None:
            return HistoryCandidates(users, entry >= 0, torch.zeros(entry.shape, dtype=torch.float64))
        as_of = torch.tensor(snapshot.num_visible), torch.tensor(snapshot.cutoff)
        features = a.pair_features(entry, end[:, None], *as_of).double()
        return HistoryCandidates(users, entry >= 0, pointer(query.hidden[:, None], features, a.edge_types(entry)))

    @torch.no_grad()
    def score(self, view: ModelView, query: Query, users: Tensor) -> Tensor:
        """float64[B, K]: scores of eligible users, int64[B, K], without the pointer term.

        query: in double precision.
        """
        rows = max(1, DOUBLES_PER_BATCH // max(1, users.shape[1] * view.vectors.shape[1]))
        scores = [users.new_empty(0, users.shape[1], dtype=torch.float64)]
        time_dependent, static_width = query.time_dependent(), view.vectors.shape[1] - query.time_dependent().shape[1]
        for low in range(0, len(users), rows):
            batch = slice(low, low + rows)
            vectors = view.vectors[view.snapshot.row_of_user[users[batch]], static_width:].double()
            scores.append(
                self.static(view, query.select(batch), users[batch]) + row_wise_dot(time_dependent[batch], vectors)
            )
        return torch.cat(scores)

    @torch.no_grad()
    def all_scores(self, view: ModelView, query: Query, user: Tensor, excluded: ExcludedPairs) -> Tensor:
        """float32[B, E]: scores of all eligible users, all terms, in single precision; -inf for excluded users.

        Arguments as of `search`.
        """
        total, history = self.scores(view, query), self.contacts(view, query, user)
        row_of_user = torch.cat([view.snapshot.row_of_user, torch.tensor([-1])])
        row, column = history.real.nonzero(as_tuple=True)[0], row_of_user[history.users[history.real]]
        total[row[column >= 0], column[column >= 0]] += history.score[history.real].float()[column >= 0]
        excluded_or_self = excluded.with_pairs(torch.arange(len(user)), user)
        column = row_of_user[excluded_or_self.user]
        total[excluded_or_self.row[column >= 0], column[column >= 0]] = -torch.inf
        return total

    @torch.no_grad()
    def search(
        self,
        view: ModelView,
        query: Query,
        user: Tensor,
        k: int,
        excluded: ExcludedPairs,
        allowed: Tensor | None = None,
    ) -> SearchResult:
        """The k best users for each of B queries, by score, then by the smaller internal id.

        query: from `queries`; user: int64[B], the requesting users, never listed themselves; excluded: pairs that must
        not be listed; allowed: bool[N], users who may be listed at all, None: all eligible users.
        """
        history = self.contacts(view, query, user)
        rows = torch.arange(len(user))
        hidden = excluded.with_pairs(rows, user)
        eligible = view.snapshot.eligible if allowed is None else view.snapshot.eligible & allowed
        may_be_listed = history.real & eligible[history.users] & ~hidden.hold(history.users, len(eligible) + 1)
        scores = (self.score(view, query, history.users) + history.score).masked_fill(~may_be_listed, -torch.inf)
        row, column = history.real.nonzero(as_tuple=True)
        hidden = hidden.with_pairs(row, history.users[row, column])
        scored_history = SearchResult(history.users, scores)
        return self._search(view, query, k, EXTRA_PROPOSALS, scored_history, hidden, allowed)

    def _search(
        self,
        view: ModelView,
        query: Query,
        k: int,
        extra: int,
        history: SearchResult,
        hidden: ExcludedPairs,
        allowed: Tensor | None,
    ) -> SearchResult:
        """Proposals, then exact scores.

        extra: users proposed beyond k; history: the history candidates and their scores, float64, -inf where they must
        not be listed; hidden: pairs that must not be proposed, the history candidates among them.
        """
        proposals = self.propose(view, query.to_dtype(torch.float32), k + extra, hidden, allowed)
        is_proposed = proposals.ids >= 0
        ids = proposals.ids.clamp(min=0)
        exact = self.score(
            view,
            query,
            torch.where(
                is_proposed, ids, view.snapshot.eligible_users[:1] if len(view.snapshot.eligible_users) else ids
            ),
        )
        exact = exact.masked_fill(~is_proposed, -torch.inf)
        result = best_of_each_row(torch.cat([history.ids, ids], 1), torch.cat([history.scores, exact], 1).float(), k)
        # A user who was not proposed scores less than the last proposal, but for rounding. If the last proposal comes
        # that close to the k-th result, more users are proposed.
        last_proposal, kth = proposals.scores[:, -1], result.scores[:, -1]
        in_doubt = is_proposed[:, -1] & (last_proposal >= kth - ROUNDING_MARGIN * kth.abs().clamp(min=1))
        if in_doubt.any():
            rows = in_doubt.nonzero().squeeze(1)
            subset = SearchResult(history.ids[rows], history.scores[rows])
            retried = self._search(view, query.select(rows), k, 8 * extra, subset, hidden.of_rows(rows), allowed)
            result.ids[rows], result.scores[rows] = retried.ids, retried.scores
        return result


def best_of_each_row(ids: Tensor, scores: Tensor, k: int) -> SearchResult:
    """The k best of each row, ties by the smaller id; padded with -1 and -inf.

    ids: int64[B, K], in any order; scores: [B, K], -inf for ids that do not count. Example with five users, of whom 1
    and 4 tie and 0 does not count:

    >>> ids = torch.tensor([[4, 2, 0, 1, 3]])
    >>> scores = torch.tensor([[0.5, 0.75, -torch.inf, 0.5, 0.25]])
    >>> best_of_each_row(ids, scores, k=2)
    SearchResult(ids=tensor([[2, 1]]), scores=tensor([[0.7500, 0.5000]]))
    >>> best_of_each_row(ids, scores, k=6).ids
    tensor([[ 2,  1,  4,  3, -1, -1]])
    """
    by_id = ids.argsort(dim=1, stable=True)
    ids, scores = ids.gather(1, by_id), scores.gather(1, by_id)
    best = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
    ids, scores = ids.gather(1, best), scores.gather(1, best)
    ids = torch.where(scores > -torch.inf, ids, -1)
    missing = (0, k - ids.shape[1])
    pad = torch.nn.functional.pad
    return SearchResult(pad(ids, missing, value=-1), pad(scores, missing, value=-torch.inf))


def rows_to_users(view: ModelView, result: SearchResult) -> SearchResult:
    """A search result whose ids are rows of a view, with internal ids of users instead."""
    ids = (
        torch.where(result.ids >= 0, view.snapshot.eligible_users[result.ids.clamp(min=0)], -1)
        if len(view.snapshot.eligible_users)
        else result.ids
    )
    return replace(result, ids=ids)
