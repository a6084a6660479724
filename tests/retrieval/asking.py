"""Requests as tests make them: everybody as of one moment."""

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


def request(
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
        exclude=np.array([u for some in excluded for u in some], np.int64),
    )


def search(r: Retriever[QueryTower], asked: RequestBatch, k: int) -> tuple[SearchResult, Query, ModelView]:
    """The k best for each user of a request, with the queries and the model as of its moment."""
    view = r.view_at(FeatureSnapshot(r.feature_view, int(asked.num_visible[0]), int(asked.cutoff[0])))
    query = r.queries(asked)
    return r.search(view, query, torch.from_numpy(asked.user), k, ExcludedPairs.of(asked)), query, view
