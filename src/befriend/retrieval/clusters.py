"""Retrieval cluster by cluster: score C clusters, then only the users of the best few, and whoever was active last."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
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
from befriend.retrieval.serving import RetrieverRanker
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
        self.of = torch.full((observed.log.num_users,), -1)
        """int64[N], the cluster of each user as of the last `refresh`, -1 for those not seen yet"""
        self.lists = Lists.of(self.of, self.count, self.vectors, self.place)
        self.fresh = Lists.of(self.of, 1, self.vectors, self.place)

    @torch.no_grad()
    def refreshed(self, changed: Tensor) -> None:
        """Users with other contacts than before may belong elsewhere; whoever is fresh is on a list apart."""
        super().refreshed(changed)
        for some in changed.split(AT_ONCE):
            self.of[some] = self.shares(some).argmax(1)
        self.of[self.place < 0] = -1
        last = active_last(self)
        newest = last.topk(min(self.settings.fresh, int((self.place >= 0).sum()))).indices
        fresh = torch.full_like(self.of, -1)
        fresh[newest] = 0
        self.fresh = Lists.of(fresh, 1, self.vectors, last)
        self.lists = Lists.of(self.of.masked_fill(fresh == 0, -1), self.count, self.vectors, last)

    def shares(self, users: Tensor) -> Tensor:
        """float32[B, C]: log p(c | user) as of the last `refresh`."""
        visible = torch.full_like(users, self.now[0])
        contacts = Contacts.of(self.activity, users, visible, self.settings.entries)
        return self.clusters.log_shares(contacts)

    def nearest(self, query: Query, user: Tensor, k: int, indptr: np.ndarray, hidden: np.ndarray) -> Neighbours:
        row, away = torch.from_numpy(np.repeat(np.arange(len(user)), np.diff(indptr))), torch.from_numpy(hidden)
        vector = query.vector()
        most = math.ceil(self.settings.share * int((self.place >= 0).sum()))
        found = self.lists.best(vector, self.lists.looks(vector, most), k, row, away)
        fresh = self.fresh.best(vector, self.fresh.sizes.expand(len(user), 1), k, row, away)
        both = torch.cat([found.scores, fresh.scores], 1).topk(k, dim=1)
        return Neighbours(torch.cat([found.ids, fresh.ids], 1).gather(1, both.indices), both.values)


def active_last(retriever: TwoTowerRetriever) -> Tensor:
    """int64[N]: the event in which each user was last seen, in either role, as of the last `refresh`; -1 for none."""
    event = retriever.activity.histories.event[retriever.place.clamp(min=0)].long()
    return event.masked_fill(retriever.place < 0, -1)


class ClusterRanker(RetrieverRanker[NextTargetPredictionUserIDs]):
    """The two-tower model, searched this way, as a Ranker of the evaluation protocol."""

    def __init__(
        self,
        model: NextTargetPredictionUserIDs,
        observed: Observed,
        tower: TowerSettings,
        clusters: UserClusters,
        settings: SearchSettings,
    ):
        super().__init__("two-tower", ClusterRetriever(model, observed, tower, clusters, settings))
