"""Makes batches of requests with the same cutoff, and the lists for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from befriend.features.snapshot import FeatureSnapshot
from befriend.models.model_inputs import Query
from befriend.models.query_tower import QueryTower
from befriend.retrieval.knn import SearchResult
from befriend.retrieval.requests import RequestBatch
from befriend.retrieval.retriever import ExcludedPairs, ModelView, Retriever


def make_request(
    users: Sequence[int] | np.ndarray,
    num_visible: int,
    cutoff: int,
    action: int = 0,
    regime: int = 0,
    excluded: Sequence[Sequence[int]] | None = None,
) -> RequestBatch:
    user = np.asarray(users, np.int64)
    excluded = excluded or [()] * len(user)
    return RequestBatch(
        user=user,
        num_visible=np.full_like(user, num_visible),
        cutoff=np.full_like(user, cutoff),
        action=np.full_like(user, action),
        regime=np.full_like(user, regime),
        exclude_indptr=np.cumsum([0, *map(len, excluded)]),
        exclude=np.array([u for users_of_row in excluded for u in users_of_row], np.int64),
        excludes_contacts=np.zeros(len(user), bool),
    )


def search_lists(
    retriever: Retriever[QueryTower], request: RequestBatch, k: int
) -> tuple[SearchResult, Query, ModelView]:
    """The k best users for each request, with the queries and the view of the model as of their cutoff."""
    view = retriever.view_at(
        FeatureSnapshot(retriever.feature_view, int(request.num_visible[0]), int(request.cutoff[0]))
    )
    query = retriever.queries(request)
    return retriever.search(view, query, torch.from_numpy(request.user), k, ExcludedPairs.of(request)), query, view
