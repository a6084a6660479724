"""Retrieval cluster by cluster: score C clusters, then only the users of the best few, and whoever was active last."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from befriend.data.contacts import Contacts
from befriend.data.observed import Observed
from befriend.models.batch import Query
from befriend.models.cluster_settings import SearchSettings
from befriend.models.clusters import UserClusters
from befriend.models.settings import TowerSettings
from befriend.models.two_tower import NextTargetPredictionUserIDs
from befriend.retrieval.knn import Neighbours
from befriend.retrieval.moment import Moment
from befriend.retrieval.retriever import Pairs, View, of_view
from befriend.retrieval.two_tower import TwoTowerRetriever

AT_ONCE = 2**14  # users whose cluster is looked up


@dataclass(frozen=True)
class Lists:
    """Users list by list, their vectors side by side."""

    users: Tensor
    """int64[M], list by list, on each those first who were active last"""
    starts: Tensor
    """int64[lists + 1]"""
    place: Tensor
    """int64[N], where each user stands in `users`, -1 for those on no list"""
    vectors: Tensor
    """float32[M, W]"""
    means: Tensor
    """float32[lists, W], 0 for empty ones"""

    @classmethod
    def of(cls, lists: Tensor, count: int, vectors: Tensor, last: Tensor) -> Lists:
        """lists: int64[N], the list of each user, -1 for none; vectors: float32[N, W]; last: int64[N], when each was
        active last, in any unit."""
        users = last.argsort(descending=True, stable=True)
        users = users[lists[users].argsort(stable=True)]
        size = torch.bincount(lists[lists >= 0], minlength=count)
        users = users[len(users) - int(size.sum()) :]
        starts = torch.cat([size.new_zeros(1), size.cumsum(0)])
        place = torch.full_like(lists, -1)
        place[users] = torch.arange(len(users))
        found = vectors[users]
        means = torch.zeros(count, vectors.shape[1]).index_add_(0, lists[users], found) / size.clamp(min=1)[:, None]
        return cls(users, starts, place, found, means)

    @property
    def sizes(self) -> Tensor:
        """int64[lists]"""
        return self.starts.diff()

    def looks(self, vector: Tensor, most: int) -> Tensor:
        """int64[B, lists]: at how many users of each list a query looks, `most` of all lists together.

        Lists whose users score best on average come first; of the last one, those who were active last. vector:
        float32[B, W].
        """
        promise = (vector @ self.means.T).masked_fill(self.sizes == 0, -torch.inf)
        best = promise.argsort(dim=1, descending=True, stable=True)
        size = self.sizes[best]
        left = (most - (size.cumsum(1) - size)).clamp(min=0)
        return torch.zeros_like(size).scatter_(1, best, torch.minimum(size, left))

    def best(self, vector: Tensor, looks: Tensor, k: int, row: Tensor, hidden: Tensor) -> Neighbours:
        """The k with the largest inner product among the first users of each list, so many as are looked at.

        vector: float32[B, W]; looks: int64[B, lists]; row, hidden: int64[H], pairs that may not meet.
        """
        b = len(vector)
        ids, scores = torch.full((b, k), -1), torch.full((b, k), -torch.inf)
        at = self.place[hidden.clamp(max=len(self.place) - 1)]
        there = (at >= 0) & (hidden < len(self.place))
        row, at = row[there], at[there]
        order = at.argsort()
        row, at = row[order], at[order]
        cut = torch.searchsorted(at, self.starts).tolist()
        slot = torch.empty(b, dtype=torch.long)
        for number, (low, high) in enumerate(zip(self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True)):
            rows = looks[:, number].nonzero().squeeze(1)
            if not len(rows):
                continue
            few = looks[rows, number]
            high = low + int(few.max())
            score = vector[rows] @ self.vectors[low:high].T
            score[torch.arange(high - low) >= few[:, None]] = -torch.inf
            slot.fill_(-1)
            slot[rows] = torch.arange(len(rows))
            mine, where = slot[row[cut[number] : cut[number + 1]]], at[cut[number] : cut[number + 1]] - low
            here = (mine >= 0) & (where < high - low)
            score[mine[here], where[here]] = -torch.inf
            both = torch.cat([scores[rows], score], 1).topk(k, dim=1)
            pool = torch.cat([ids[rows], self.users[low:high].expand(len(rows), -1)], 1)
            ids[rows], scores[rows] = pool.gather(1, both.indices), both.values
        return Neighbours(torch.where(scores > -torch.inf, ids, -1), scores)


@dataclass(frozen=True)
class ClusterView(View):
    """Lists are of rows of the view, not of users."""

    of: Tensor
    """int64[N], the cluster of everybody who is findable, -1 for others"""
    last: Tensor
    """int64[F], the event in which each was last seen, in either role; -1 for none"""
    lists: Lists
    """one a cluster, without those who are fresh"""
    fresh: Lists
    """the one list of those who were active last"""


class ClusterRetriever(TwoTowerRetriever):
    """The two-tower model, looking at a share of the users only."""

    def __init__(
        self,
        model: NextTargetPredictionUserIDs,
        observed: Observed,
        tower: TowerSettings,
        clusters: UserClusters,
        settings: SearchSettings,
    ):
        super().__init__(model, observed, tower)
        self.clusters, self.settings = clusters.eval(), settings
        self.count = len(clusters.clusters.share)

    @torch.no_grad()
    def at(self, moment: Moment, before: View | None = None) -> ClusterView:
        """Users with other contacts than before may belong elsewhere; whoever is fresh is on a list apart."""
        view = super().at(moment, before)
        of = torch.full_like(moment.place, -1)
        changed = moment.findable
        if isinstance(before, ClusterView):
            of = torch.where(moment.findable, before.of, -1)
            changed = moment.findable & ((moment.place != before.moment.place) | ~before.moment.findable)
        for some in changed.nonzero().squeeze(1).split(AT_ONCE):
            of[some] = self.shares(some, moment).argmax(1)
        last = active_last(self, moment)
        lists, fresh = self._lists(of[moment.ids], view.vectors, last)
        return ClusterView(moment, view.vectors, view.social, of, last, lists, fresh)

    def _lists(self, of: Tensor, vectors: Tensor, last: Tensor) -> tuple[Lists, Lists]:
        """Of rows of a view: int64[F], their clusters, -1 for those who may not be found."""
        there = of >= 0
        newest = last.masked_fill(~there, -2).topk(min(self.settings.fresh, int(there.sum()))).indices
        fresh = torch.full_like(of, -1)
        fresh[newest] = 0
        return Lists.of(of.masked_fill(fresh == 0, -1), self.count, vectors, last), Lists.of(fresh, 1, vectors, last)

    def shares(self, users: Tensor, moment: Moment) -> Tensor:
        """float32[B, C]: log p(c | user) as of a moment."""
        contacts = Contacts.of(self.activity, users, torch.full_like(users, moment.visible), self.settings.entries)
        return self.clusters.log_shares(contacts)

    def propose(self, view: View, query: Query, k: int, hidden: Pairs, allowed: Tensor | None) -> Neighbours:
        assert isinstance(view, ClusterView)
        row = torch.cat([view.moment.row, torch.tensor([-1])])[hidden.user]
        pair = hidden.row[row >= 0], row[row >= 0]
        vector, lists, fresh, there = query.vector(), view.lists, view.fresh, len(view.vectors)
        if allowed is not None:
            may = allowed[view.moment.ids]
            lists, fresh = self._lists(view.of[view.moment.ids].masked_fill(~may, -1), view.vectors, view.last)
            there = int(may.sum())
        looks = lists.looks(vector, math.ceil(self.settings.share * there))
        found = lists.best(vector, looks, k, *pair)
        newest = fresh.best(vector, fresh.sizes.expand(len(vector), 1), k, *pair)
        both = torch.cat([found.scores, newest.scores], 1).topk(k, dim=1)
        return of_view(view, Neighbours(torch.cat([found.ids, newest.ids], 1).gather(1, both.indices), both.values))


def active_last(retriever: TwoTowerRetriever, moment: Moment) -> Tensor:
    """int64[F]: the event in which each who is findable was last seen, in either role; -1 for none."""
    place = moment.place[moment.ids]
    event = retriever.activity.histories.event[place.clamp(min=0)].long()
    return event.masked_fill(place < 0, -1)
