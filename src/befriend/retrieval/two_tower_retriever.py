"""Retrieval with the two-tower model: maximum inner product search over the vectors of all eligible users.

Eligible users are those who may be recommended as of the cutoff of a list. Without the pointer term, the score is an
inner product, so that an index can propose the best users. History candidates, the users of the requesting user's
latest events, who alone get the pointer term, are scored one by one; see `Retriever.search`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from befriend.features.feature_view import FeatureView
from befriend.models.model_inputs import Query
from befriend.models.model_settings import TwoTowerModelSettings
from befriend.models.score_terms import row_wise_dot
from befriend.models.two_tower_model import NextTargetPredictionUserIDs
from befriend.retrieval.knn import ExactIndex, IvfIndex, SearchResult
from befriend.retrieval.retriever import ExcludedPairs, ModelView, Retriever, rows_to_users


@dataclass(frozen=True)
class IndexedView(ModelView):
    """A view (vectors of the eligible users as of a cutoff) with an approximate index over its vectors."""

    index: IvfIndex


class TwoTowerRetriever(Retriever[NextTargetPredictionUserIDs]):
    """The two-tower model on an event log, with exact search or with an approximate index."""

    @torch.no_grad()
    def __init__(
        self,
        model: NextTargetPredictionUserIDs,
        feature_view: FeatureView,
        model_settings: TwoTowerModelSettings,
        approximate: bool = False,
    ):
        """feature_view: the log as the model reads it; model_settings: the architecture with which the model was
        trained; approximate: search an `IvfIndex` instead of scoring all users."""
        super().__init__("two-tower", model, feature_view, model_settings)
        self.approximate = approximate
        self.user_vectors = model.users(torch.arange(feature_view.log.num_users), self.embedding_lookup)
        self.trained_index: IvfIndex | None = None

    def static_vectors(self, users: Tensor) -> Tensor:
        return self.user_vectors[users]

    def static_scores(self, view: ModelView, query: Query, users: Tensor) -> Tensor:
        return row_wise_dot(query.static, self.user_vectors[users].double())

    def eligible_scores(self, view: ModelView, query: Query) -> Tensor:
        return query.vector().float() @ view.vectors.T

    def prepare_view(self, view: ModelView) -> ModelView:
        if not self.approximate:
            return view
        if self.trained_index is None:  # k-means runs once; for other cutoffs, only the lists are filled again
            self.trained_index = IvfIndex.build(view.vectors)
        trained = self.trained_index
        index = trained if trained.vectors is view.vectors else trained.refreshed(view.vectors)
        return IndexedView(view.snapshot, view.vectors, view.neighbor_vectors, index)

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
