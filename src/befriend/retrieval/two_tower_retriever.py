"""Retrieval with the two-tower model: an index over the vectors of all eligible users as of a cutoff.

The score without the pointer term is an inner product, so that an index can find the best users; the users in the
requesting user's own history are scored one by one and merged, see `Retriever.search`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from befriend.features.feature_view import FeatureView
from befriend.models.model_inputs import Query
from befriend.models.model_settings import TowerSettings
from befriend.models.score_terms import row_wise_dot
from befriend.models.two_tower_model import NextTargetPredictionUserIDs
from befriend.retrieval.knn import ExactIndex, IvfIndex, SearchResult
from befriend.retrieval.retriever import ExcludedPairs, ModelView, Retriever, rows_to_users


@dataclass(frozen=True)
class IndexedView(ModelView):
    """A view with an approximate index over its vectors."""

    index: IvfIndex


class TwoTowerRetriever(Retriever[NextTargetPredictionUserIDs]):
    """The two-tower model on a log, exact or with an approximate index."""

    @torch.no_grad()
    def __init__(
        self,
        model: NextTargetPredictionUserIDs,
        feature_view: FeatureView,
        query_settings: TowerSettings,
        approximate: bool = False,
    ):
        """approximate: search with inverted lists instead of scoring all users."""
        super().__init__("two-tower", model, feature_view, query_settings)
        self.approximate = approximate
        self.users = model.users(torch.arange(feature_view.log.num_users), self.rows)
        self.trained: IvfIndex | None = None

    def static_vectors(self, users: Tensor) -> Tensor:
        return self.users[users]

    def static(self, view: ModelView, query: Query, users: Tensor) -> Tensor:
        return row_wise_dot(query.static, self.users[users].double())

    def scores(self, view: ModelView, query: Query) -> Tensor:
        return query.vector().float() @ view.vectors.T

    def prepared(self, view: ModelView) -> ModelView:
        if not self.approximate:
            return view
        if self.trained is None:  # directions are trained once; later cutoffs only refill the lists
            self.trained = IvfIndex.build(view.vectors)
        index = self.trained if self.trained.vectors is view.vectors else self.trained.refreshed(view.vectors)
        return IndexedView(view.snapshot, view.vectors, view.neighbor, index)

    def propose(
        self, view: ModelView, query: Query, k: int, excluded: ExcludedPairs, allowed: Tensor | None
    ) -> SearchResult:
        order = excluded.row.argsort(stable=True)
        indptr = torch.zeros(len(query.static) + 1, dtype=torch.long)
        indptr[1:] = torch.bincount(excluded.row, minlength=len(query.static)).cumsum(0)
        row = torch.cat([view.snapshot.row_of_user, torch.tensor([-1])])[excluded.user[order]]
        index = view.index if isinstance(view, IndexedView) else ExactIndex(view.vectors)
        allowed_rows = None if allowed is None else allowed[view.snapshot.eligible_users]
        return rows_to_users(view, index.search(query.vector(), k, indptr, row, allowed_rows))
