"""Requests as tests make them: everybody as of one moment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from befriend.models.batch import Query
from befriend.models.query_tower import QueryTower
from befriend.retrieval.knn import Neighbours
from befriend.retrieval.moment import Moment
from befriend.retrieval.requests import Request
from befriend.retrieval.retriever import Pairs, Retriever, View


def request(
    users: Sequence[int] | np.ndarray,
    visible: int,
    horizon: int,
    action: int = 0,
    regime: int = 0,
    excluded: Sequence[Sequence[int]] | None = None,
) -> Request:
    user = np.asarray(users, np.int64)
    excluded = excluded or [()] * len(user)
    return Request(
        user=user,
        visible=np.full_like(user, visible),
        horizon=np.full_like(user, horizon),
        action=np.full_like(user, action),
        regime=np.full_like(user, regime),
        exclude_indptr=np.cumsum([0, *map(len, excluded)]),
        exclude=np.array([u for some in excluded for u in some], np.int64),
    )


def search(r: Retriever[QueryTower], asked: Request, k: int) -> tuple[Neighbours, Query, View]:
    """The k best for each user of a request, with the queries and the model as of its moment."""
    view = r.at(Moment(r.observed, int(asked.visible[0]), int(asked.horizon[0])))
    query = r.queries(asked)
    return r.search(view, query, torch.from_numpy(asked.user), k, Pairs.of(asked)), query, view
