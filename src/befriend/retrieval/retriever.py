"""Base class of the retrievers: candidate generation with a trained model, as of any point in time.

A list is made as of a *cutoff*, a UTC second: only events and texts before it count. A user is *eligible* if they may
be recommended as of the cutoff: they have an event or a text before it, and did not opt out.

The score of a user is the sum of up to five terms:

- static term: from the user's embedding or tokens, which no event changes after training;
- neighbor term: from the embeddings of the *recent neighbors*, the other users of the user's latest events;
- dynamic term: from the user's recent activity and texts;
- pointer term: from the past events between the user and the requesting user, as in a pointer network. Only *history
  candidates*, the other users of the requesting user's latest events, get it;
- two-hop term: from the common contacts of the user and the requesting user. Only *two-hop candidates* get it, users
  with common contacts who are no history candidates: the MAX_TWO_HOP_PAIRS with the most of late.

The vectors of neighbor and dynamic term are computed for each cutoff. A search has two steps. Scores in single
precision propose users. Then the proposals and the *pair candidates*, those with a pointer or two-hop term, are scored
in double precision, and these exact scores, rounded once, decide who is listed and in which order. So a list does not
depend on which other lists are requested in the same batch, although matrix products of different shapes round
differently.

Shapes: B requests; N users of the log; E eligible users; K users of one request; C pair candidates; P pairs; D, width
of an embedding; W, width of the vectors that are multiplied.
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
from befriend.features.two_hop import log_features
from befriend.models.model_inputs import NextTargetPredictionBatch, Positions, Query
from befriend.models.model_settings import ModelSettings
from befriend.models.query_tower import QueryTower
from befriend.models.score_terms import row_wise_dot
from befriend.retrieval.knn import SearchResult
from befriend.retrieval.requests import RequestBatch, request_tensors

M = TypeVar("M", bound=QueryTower)
MAX_TWO_HOP_PAIRS = 1024  # two-hop candidates of a request; in dense networks, users have more
EXTRA_PROPOSALS = 32  # users proposed beyond the k to be listed
ROUNDING_MARGIN = 1e-4  # scores in single and in double precision differ by less, relative to max(1, |score|)
DOUBLES_PER_BATCH = 2**22  # elements of the vectors that are scored at a time in double precision: 32 MiB


@dataclass(frozen=True)
class ModelView:
    """What a model needs for a search as of one cutoff: a vector for each of the E eligible users.

    Row i of `vectors` belongs to user `snapshot.eligible_users[i]`; "row of the view" means such an i.
    """

    snapshot: FeatureSnapshot
    """the eligible users, and the features of all users as of the cutoff"""
    vectors: Tensor
    """float32[E, W], one vector per eligible user. Two-tower model: the inner product with `Query.vector` is the score
    without the terms of pairs. STU model, whose static term comes from tokens: the inner product with
    `Query.time_dependent` is the neighbor plus the dynamic term"""
    neighbor_vectors: Tensor
    """float32[N, D], the mean embedding of each user's recent neighbors; float32[0, 0] without a neighbor term"""


@dataclass(frozen=True)
class ExcludedPairs:
    """Pairs (row of a batch of requests, user): the user must not be on the list of that row."""

    row: Tensor
    """int64[P]"""
    user: Tensor
    """int64[P]"""

    @classmethod
    def of(cls, requests: RequestBatch) -> ExcludedPairs:
        """The pairs that a batch of requests excludes."""
        return cls(torch.from_numpy(requests.exclude_row), torch.from_numpy(requests.exclude))

    def with_pairs(self, row: Tensor, user: Tensor) -> ExcludedPairs:
        """These pairs and the given ones. row, user: int64[P']."""
        return ExcludedPairs(torch.cat([self.row, row]), torch.cat([self.user, user]))

    def contains(self, users: Tensor, size: int) -> Tensor:
        """bool[B, K]: whether row b excludes users[b, k]. users: int64[B, K]. All ids have to be below `size`."""
        rows = torch.arange(len(users))[:, None]
        return torch.isin(rows * size + users, self.row * size + self.user)

    def select_rows(self, rows: Tensor) -> ExcludedPairs:
        """The pairs of these rows, int64, ascending; the rows are renumbered 0, 1, ..."""
        new_row = torch.searchsorted(rows, self.row).clamp(max=max(len(rows) - 1, 0))
        selected = rows[new_row] == self.row if len(rows) else torch.zeros(len(self.row), dtype=torch.bool)
        return ExcludedPairs(new_row[selected], self.user[selected])


@dataclass(frozen=True)
class PairCandidates:
    """The history candidates of B requesting users, who get the pointer term, then two-hop candidates, with theirs."""

    users: Tensor
    """int64[B, C], internal ids, 0 in the padding"""
    mask: Tensor
    """bool[B, C], False in the padding"""
    scores: Tensor
    """float64[B, C], the pointer or two-hop term of each, arbitrary in the padding"""
    num_history: int
    """number of columns with history candidates; those after them have two-hop candidates"""


class Retriever(ABC, Generic[M]):
    """A trained model on an event log. Threads may share it.

    The result for a request is always the same, but for an approximate index, which is trained on the first view.
    """

    @torch.no_grad()
    def __init__(self, name: str, model: M, feature_view: FeatureView, model_settings: ModelSettings):
        """name: of the model, as in `befriend.retrieval.ranker.MODELS`; feature_view: the log as the model reads it;
        model_settings: the architecture with which the model was trained."""
        self.name, self.model, self.feature_view, self.model_settings = name, model.eval(), feature_view, model_settings
        self.activity = feature_view.activity
        self.embedding_lookup = model.users.lookup()
        self.double_model = copy.deepcopy(model).double()
        self.double_lookup = self.double_model.users.lookup()

    @abstractmethod
    def static_vectors(self, users: Tensor) -> Tensor:
        """float32[E, W']: vectors of users, int64[E], for the static term, the same at every cutoff.

        They are the first W' columns of `ModelView.vectors`; W' may be 0.
        """

    @abstractmethod
    def static_scores(self, view: ModelView, query: Query, users: Tensor) -> Tensor:
        """float64[B, K]: the static term of the scores of eligible users, int64[B, K]. query: float64."""

    @abstractmethod
    def eligible_scores(self, view: ModelView, query: Query) -> Tensor:
        """float32[B, E]: the scores of all eligible users, in single precision, without the terms of pairs."""

    @abstractmethod
    def propose(
        self, view: ModelView, query: Query, k: int, excluded: ExcludedPairs, allowed: Tensor | None
    ) -> SearchResult:
        """The k best users for each of B queries, by score in single precision, without the terms of pairs.

        Subclasses search exactly or approximately. query: float32; excluded: users not to return for a query; allowed:
        bool[N], users who may be listed at all, None: all eligible users. The result has width k, and holds internal
        ids, not rows of the view.
        """

    @torch.no_grad()
    def view_at(self, snapshot: FeatureSnapshot, previous: ModelView | None = None) -> ModelView:
        """Computes the vectors of all eligible users as of the cutoff of a snapshot.

        previous: the view of any other cutoff, from which the neighbor vectors of users with the same last event are
        copied.
        """
        activity, model, ids = self.activity, self.model, snapshot.eligible_users
        blocks = [self.static_vectors(ids)]
        neighbor = torch.zeros(0, 0)
        if model.to_neighbor is not None:
            if previous is None:
                neighbor = torch.zeros(len(snapshot.last_entry), model.to_neighbor.out_features)
                changed = snapshot.has_events.nonzero().squeeze(1)
            else:
                neighbor = previous.neighbor_vectors.clone()
                changed = (snapshot.last_entry != previous.snapshot.last_entry).nonzero().squeeze(1)
            recent_neighbors = activity.recent_neighbors(
                changed, snapshot.last_entry[changed] + 1, self.model_settings.recent_neighbors
            )
            neighbor[changed] = model.neighbor_vectors(recent_neighbors, self.embedding_lookup)
            blocks.append(neighbor[ids])
        if model.dynamic is not None:
            has_texts = self.feature_view.texts.width > 0
            features = (
                torch.cat([snapshot.user_features, snapshot.texts[0]], 1) if has_texts else snapshot.user_features
            )
            blocks.append(model.dynamic(features))
            if model.text_width:
                blocks.append(self.feature_view.texts.vectors_at(snapshot.texts[1]))
        return self.prepare_view(ModelView(snapshot, torch.cat(blocks, 1), neighbor))

    def prepare_view(self, view: ModelView) -> ModelView:
        """Returns the view with what a search needs in addition, such as an index. Subclasses override it."""
        return view

    @torch.no_grad()
    def queries(self, requests: RequestBatch) -> Query:
        """The query vectors of B requests, in double precision.

        A user without an event or text before the cutoff gets the query of an unknown user.
        """
        length, unknown = self.model_settings.history_length, self.feature_view.log.num_users
        columns = request_tensors(requests)
        # Requests that differ only in the users to exclude share one query. Requests of the same user with the same
        # cutoff share one encoded history.
        distinct, query_of_request = torch.stack(list(columns.values())).unique(return_inverse=True, dim=1)
        user, _, _, action, regime = distinct
        (actor, num_visible, cutoff), row = distinct[:3].unique_consecutive(return_inverse=True, dim=1)
        actor = torch.where(self.feature_view.has_event_or_text(actor, num_visible, cutoff), actor, unknown)
        history = self.feature_view.encoder_histories.gather(actor, num_visible, length)
        unused = actor  # the targets, and the action of the batch, have no effect on a query
        batch = NextTargetPredictionBatch(
            actor, history.action, history.other_user, history.mask, unused, unused, history.received, history.timestamp
        )
        features = None
        if self.model_settings.freshness:
            features = self.feature_view.features(
                actor, self.activity.last_entries(actor, num_visible), num_visible, cutoff
            ).double()[row]
        state = torch.full_like(row, length)
        positions = Positions(row, state, self.feature_view.actions(action), user, regime, features)  # user: unused
        states = self.double_model.encode_history(batch, self.double_lookup)
        return self.double_model.query(batch, positions, states, self.double_lookup).select(query_of_request)

    @torch.no_grad()
    def pair_candidates(self, view: ModelView, query: Query, user: Tensor) -> PairCandidates:
        """The pair candidates of requesting users, int64[B], for the terms that the model has."""
        activity, snapshot, hidden = self.activity, view.snapshot, query.hidden[:, None]
        pointer, two_hop = self.double_model.pointer, self.double_model.two_hop
        distinct, row = user.unique(return_inverse=True)  # requests of the same user share candidates and features
        num_visible, cutoff = (torch.full_like(distinct, x) for x in (snapshot.num_visible, snapshot.cutoff))
        end = activity.histories.end_offsets(distinct, num_visible)
        max_entries = self.model_settings.history_candidates if pointer is not None else 0
        entry = activity.recent_distinct_entries(end, distinct, num_visible, max_entries)
        users, mask = activity.neighbors(entry), entry >= 0
        num_history, scores = users.shape[1], torch.zeros(len(user), 0, dtype=torch.float64)
        if pointer is not None:
            features = activity.pair_features(entry, end[:, None], num_visible[:, None], cutoff[:, None]).double()
            scores = pointer(hidden, features[row], activity.edge_types(entry)[row])
        if two_hop is not None:
            neighbors = self.feature_view.two_hop.neighbors(distinct, num_visible, cutoff)
            history_row, column = mask.nonzero(as_tuple=True)
            closest = neighbors.closest(MAX_TWO_HOP_PAIRS, history_row, users[history_row, column])
            features = neighbors.features_of(torch.arange(len(distinct))[:, None], closest.clamp(min=0))
            features = log_features(features).double()
            users, mask = torch.cat([users, closest.clamp(min=0)], 1), torch.cat([mask, closest >= 0], 1)
            scores = torch.cat([scores, two_hop(hidden, features[row])], 1)
        return PairCandidates(users[row], mask[row], scores, num_history)

    @torch.no_grad()
    def exact_scores(self, view: ModelView, query: Query, users: Tensor) -> Tensor:
        """float64[B, K]: scores of eligible users, int64[B, K], in double precision, without the terms of pairs.

        query: float64.
        """
        rows = max(1, DOUBLES_PER_BATCH // max(1, users.shape[1] * view.vectors.shape[1]))
        scores = [users.new_empty(0, users.shape[1], dtype=torch.float64)]
        time_dependent, static_width = query.time_dependent(), view.vectors.shape[1] - query.time_dependent().shape[1]
        for low in range(0, len(users), rows):
            batch = slice(low, low + rows)
            vectors = view.vectors[view.snapshot.row_of_user[users[batch]], static_width:].double()
            static_scores = self.static_scores(view, query.select(batch), users[batch])
            scores.append(static_scores + row_wise_dot(time_dependent[batch], vectors))
        return torch.cat(scores)

    @torch.no_grad()
    def all_scores(self, view: ModelView, query: Query, user: Tensor, excluded: ExcludedPairs) -> Tensor:
        """float32[B, E]: scores of all eligible users, with all terms, in single precision.

        -inf for excluded users, and for the requesting user. Parameters as in `search`.
        """
        total, pairs = self.eligible_scores(view, query), self.pair_candidates(view, query, user)
        row_of_user = torch.cat([view.snapshot.row_of_user, torch.tensor([-1])])
        row, column = pairs.mask.nonzero(as_tuple=True)[0], row_of_user[pairs.users[pairs.mask]]
        total[row[column >= 0], column[column >= 0]] += pairs.scores[pairs.mask].float()[column >= 0]
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
        """The k best users for each of B queries, by score, ties by the smaller internal id.

        They are the best of all eligible users if `propose` is exact. query: from `queries`; user: int64[B], the
        requesting users, who are never on their own lists; excluded: users not to return for a query; allowed: bool[N],
        users who may be listed at all, None: all eligible users.
        """
        pairs = self.pair_candidates(view, query, user)
        rows = torch.arange(len(user))
        excluded_or_self = excluded.with_pairs(rows, user)
        eligible = view.snapshot.eligible if allowed is None else view.snapshot.eligible & allowed
        is_excluded = excluded_or_self.contains(pairs.users, len(eligible) + 1)
        may_be_listed = pairs.mask & eligible[pairs.users] & ~is_excluded
        scores = (self.exact_scores(view, query, pairs.users) + pairs.scores).masked_fill(~may_be_listed, -torch.inf)
        row, column = pairs.mask.nonzero(as_tuple=True)
        not_proposed = excluded_or_self.with_pairs(row, pairs.users[row, column])
        scored_pairs = SearchResult(pairs.users, scores)
        return self._search(view, query, k, EXTRA_PROPOSALS, scored_pairs, not_proposed, allowed)

    def _search(
        self,
        view: ModelView,
        query: Query,
        k: int,
        extra: int,
        pairs: SearchResult,
        not_proposed: ExcludedPairs,
        allowed: Tensor | None,
    ) -> SearchResult:
        """Proposes users in single precision, then ranks them and the pair candidates by exact scores.

        extra: number of users proposed beyond k; pairs: the pair candidates with their scores, float64[B, C], -inf for
        those who must not be listed; not_proposed: the excluded users, the requesting users and the pair candidates.
        """
        proposals = self.propose(view, query.to_dtype(torch.float32), k + extra, not_proposed, allowed)
        is_proposed = proposals.ids >= 0
        ids = proposals.ids.clamp(min=0)
        eligible_users = view.snapshot.eligible_users
        # Padding is scored as any eligible user, then masked: only eligible users have a row of the view.
        scored = torch.where(is_proposed, ids, eligible_users[:1]) if len(eligible_users) else ids
        exact = self.exact_scores(view, query, scored).masked_fill(~is_proposed, -torch.inf)
        result = best_of_each_row(torch.cat([pairs.ids, ids], 1), torch.cat([pairs.scores, exact], 1).float(), k)
        # If `propose` is exact, users who were not proposed score at most as much as the last proposal, up to rounding.
        # Where the last proposal scores almost as much as the k-th result, search again with more proposals.
        last_proposal, kth = proposals.scores[:, -1], result.scores[:, -1]
        in_doubt = is_proposed[:, -1] & (last_proposal >= kth - ROUNDING_MARGIN * kth.abs().clamp(min=1))
        if in_doubt.any():
            rows = in_doubt.nonzero().squeeze(1)
            subset = SearchResult(pairs.ids[rows], pairs.scores[rows])
            retried = self._search(
                view, query.select(rows), k, 8 * extra, subset, not_proposed.select_rows(rows), allowed
            )
            result.ids[rows], result.scores[rows] = retried.ids, retried.scores
        return result


def best_of_each_row(ids: Tensor, scores: Tensor, k: int) -> SearchResult:
    """The k best ids of each row by score, ties by the smaller id; padded with -1 and -inf.

    ids: int64[B, K], in any order; scores: [B, K], -inf for ids to leave out. Example with five users: 1 and 4 have
    equal scores, 0 is left out:

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
    """Translates the ids of a search result from rows of a view to internal ids of users."""
    ids = (
        torch.where(result.ids >= 0, view.snapshot.eligible_users[result.ids.clamp(min=0)], -1)
        if len(view.snapshot.eligible_users)
        else result.ids
    )
    return replace(result, ids=ids)
