"""Retrieval with the two-tower model: vectors of everyone at a moment in an index, and one's own contacts on top.

The score of somebody outside one's history is an inner product, found by an index; people of one's own history are
scored one by one and merged.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from befriend.data.observed import Observed
from befriend.models.batch import Query
from befriend.models.settings import TowerSettings
from befriend.models.terms import each
from befriend.models.two_tower import NextTargetPredictionUserIDs
from befriend.retrieval.knn import ExactIndex, IvfIndex, Neighbours
from befriend.retrieval.serving import Retriever, RetrieverRanker


class TwoTowerRetriever(Retriever[NextTargetPredictionUserIDs]):
    """Everyone of a log as targets. Whom a user was last in contact with changes for the users of new events only."""

    @torch.no_grad()
    def __init__(
        self, model: NextTargetPredictionUserIDs, observed: Observed, tower: TowerSettings, approximate: bool = False
    ):
        """approximate: search with inverted lists instead of looking at everyone."""
        width = model.users.own.embedding_dim
        super().__init__(model, observed, tower, width)
        self.approximate = approximate
        self.vectors[:, :width] = model.users(torch.arange(observed.log.num_users), self.rows)
        self.index: ExactIndex | IvfIndex = ExactIndex(self.vectors)

    def refreshed(self, changed: Tensor) -> None:
        if self.approximate:
            old = self.index
            self.index = old.refreshed(self.vectors) if isinstance(old, IvfIndex) else IvfIndex.build(self.vectors)

    @torch.no_grad()
    def score(self, query: Query, users: Tensor) -> Tensor:
        return each(query.vector(), self.vectors[users])

    @torch.no_grad()
    def search(self, query: Query, user: Tensor, k: int, exclude_indptr: np.ndarray, exclude: np.ndarray) -> Neighbours:
        near = self.contacts(query, user)
        hidden_row = np.repeat(np.arange(len(user)), np.diff(exclude_indptr))
        row = torch.arange(len(user))[:, None].expand_as(near.users)
        out_row = np.concatenate([hidden_row, np.arange(len(user)), row[near.real].numpy()])
        out = np.concatenate([exclude, user.numpy(), near.users[near.real].numpy()])
        order = np.argsort(out_row, kind="stable")
        indptr = np.concatenate([[0], np.bincount(out_row, minlength=len(user)).cumsum()])
        found = self.nearest(query, user, k, indptr, out[order])
        if not near.users.numel():
            return found
        score = self.score(query, near.users) + near.score
        key = row * len(self.place) + near.users
        hidden = torch.from_numpy(hidden_row * len(self.place) + exclude)
        score = score.masked_fill(~near.real | torch.isin(key, hidden), -torch.inf)
        ids, scores = torch.cat([near.users, found.ids], 1), torch.cat([score, found.scores], 1)
        best = scores.topk(k, dim=1)
        ids = torch.where(best.values > -torch.inf, ids.gather(1, best.indices), -1)
        return Neighbours(ids, best.values)

    def nearest(self, query: Query, user: Tensor, k: int, indptr: np.ndarray, hidden: np.ndarray) -> Neighbours:
        """The k users with the best inner products. indptr, hidden: CSR of those not to be found, int64."""
        return self.index.search(query.vector(), k, indptr, hidden, self.found)


class TwoTowerRanker(RetrieverRanker[NextTargetPredictionUserIDs]):
    """The model as a Ranker of the evaluation protocol."""

    def __init__(
        self, model: NextTargetPredictionUserIDs, observed: Observed, tower: TowerSettings, approximate: bool = False
    ):
        super().__init__("two-tower", TwoTowerRetriever(model, observed, tower, approximate))
