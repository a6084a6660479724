"""Retrieval with the two-tower model: vectors of everyone at a moment in an index, and one's own contacts on top.

The score of somebody outside one's history is an inner product, found by an index; people of one's own history are
scored one by one and merged.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from befriend.data.observed import Observed
from befriend.models.batch import Query
from befriend.models.settings import TowerSettings
from befriend.models.terms import each
from befriend.models.two_tower import NextTargetPredictionUserIDs
from befriend.retrieval.knn import ExactIndex, IvfIndex, Neighbours
from befriend.retrieval.retriever import Pairs, Retriever, View, of_view


@dataclass(frozen=True)
class IndexedView(View):
    index: IvfIndex


class TwoTowerRetriever(Retriever[NextTargetPredictionUserIDs]):
    """Everyone of a log as targets."""

    @torch.no_grad()
    def __init__(
        self, model: NextTargetPredictionUserIDs, observed: Observed, tower: TowerSettings, approximate: bool = False
    ):
        """approximate: search with inverted lists instead of looking at everyone."""
        super().__init__("two-tower", model, observed, tower)
        self.approximate = approximate
        self.users = model.users(torch.arange(observed.log.num_users), self.rows)
        self.trained: IvfIndex | None = None

    def standing(self, users: Tensor) -> Tensor:
        return self.users[users]

    def static(self, view: View, query: Query, users: Tensor) -> Tensor:
        return each(query.static, self.users[users].double())

    def scores(self, view: View, query: Query) -> Tensor:
        return query.vector().float() @ view.vectors.T

    def prepared(self, view: View) -> View:
        if not self.approximate:
            return view
        if self.trained is None:  # lists are found once; later moments only fill them
            self.trained = IvfIndex.build(view.vectors)
        index = self.trained if self.trained.vectors is view.vectors else self.trained.refreshed(view.vectors)
        return IndexedView(view.moment, view.vectors, view.social, index)

    def propose(self, view: View, query: Query, k: int, hidden: Pairs, allowed: Tensor | None) -> Neighbours:
        order = hidden.row.argsort(stable=True)
        indptr = torch.zeros(len(query.static) + 1, dtype=torch.long)
        indptr[1:] = torch.bincount(hidden.row, minlength=len(query.static)).cumsum(0)
        row = torch.cat([view.moment.row, torch.tensor([-1])])[hidden.user[order]]
        index = view.index if isinstance(view, IndexedView) else ExactIndex(view.vectors)
        among = None if allowed is None else allowed[view.moment.ids]
        return of_view(view, index.search(query.vector(), k, indptr, row, among))
