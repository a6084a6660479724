"""Cluster search with the two-tower model: an inverted-file index (IVF) whose lists are learned clusters of users.

A query scores the centroids (mean vectors) of the clusters, then the users of the clusters with the best centroids,
until it has scored a given share of the users who may be listed. In addition, every query scores the most recently
active users, whose last event, done or received, is the latest, whatever their cluster, because they are likely
targets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from befriend.features.feature_view import FeatureView
from befriend.features.neighbor_bags import NeighborBags
from befriend.features.snapshot import FeatureSnapshot
from befriend.models.model_inputs import Query
from befriend.models.model_settings import ClusterSearchSettings, TwoTowerModelSettings
from befriend.models.two_tower_model import NextTargetPredictionUserIDs
from befriend.models.user_clusters import UserClusters
from befriend.retrieval.knn import SearchResult
from befriend.retrieval.retriever import ExcludedPairs, ModelView, rows_to_users
from befriend.retrieval.two_tower_retriever import TwoTowerRetriever

USERS_PER_BATCH = 2**14  # users assigned to clusters in one step


@dataclass(frozen=True)
class InvertedLists:
    """Inverted lists: for each list, its users and their vectors. A user is on one list or on none.

    A user is a number from 0 to N - 1: `ClusterView` uses rows of the view. M is the number of users on a list, W the
    width of a vector.
    """

    users: Tensor
    """int64[M], list after list; within a list, the most recently active user first"""
    offsets: Tensor
    """int64[lists + 1]: the users of list c are users[offsets[c]:offsets[c + 1]]"""
    position: Tensor
    """int64[N], index of each user into `users`; -1 for users on no list"""
    vectors: Tensor
    """float32[M, W], the vectors of `users`"""
    centroids: Tensor
    """float32[lists, W], the mean vector of each list; 0 for empty lists"""

    @classmethod
    def of(cls, list_of_user: Tensor, count: int, vectors: Tensor, last_active: Tensor) -> InvertedLists:
        """Sorts users into lists.

        list_of_user: int64[N], -1 for users on no list; count: number of lists; vectors: float32[N, W]; last_active:
        int64[N], larger for users who were active later, in any unit.
        """
        users = last_active.argsort(descending=True, stable=True)
        users = users[list_of_user[users].argsort(stable=True)]
        size = torch.bincount(list_of_user[list_of_user >= 0], minlength=count)
        users = users[len(users) - int(size.sum()) :]
        offsets = torch.cat([size.new_zeros(1), size.cumsum(0)])
        position = torch.full_like(list_of_user, -1)
        position[users] = torch.arange(len(users))
        sorted_vectors = vectors[users]
        centroids = (
            torch.zeros(count, vectors.shape[1]).index_add_(0, list_of_user[users], sorted_vectors)
            / size.clamp(min=1)[:, None]
        )
        return cls(users, offsets, position, sorted_vectors, centroids)

    @property
    def sizes(self) -> Tensor:
        """int64[lists], number of users of each list."""
        return self.offsets.diff()

    def probe_budget(self, vector: Tensor, total: int) -> Tensor:
        """The probe budget, int64[B, lists]: how many users of each list a query scores; `total` in sum, or all users.

        vector: float32[B, W], the queries. A query scores lists in descending order of the inner product with their
        centroids, until it has scored `total` users. Of its last list it may score a part: the most recently active
        users.

        Example: list 0 holds users 1 and 0, list 1 holds users 4, 2 and 3, most recently active first. The centroids
        are 2.5 and 11 / 3. The first query scores all of list 1, then one user of list 0; the second query starts with
        list 0:

        >>> vectors = torch.tensor([[3.0], [2.0], [6.0], [4.0], [1.0]])
        >>> last_active = torch.tensor([1, 9, 3, 2, 8])
        >>> lists = InvertedLists.of(torch.tensor([0, 0, 1, 1, 1]), 2, vectors, last_active)
        >>> lists.users
        tensor([1, 0, 4, 2, 3])
        >>> lists.probe_budget(torch.tensor([[1.0], [-1.0]]), total=4)
        tensor([[1, 3],
                [2, 2]])
        """
        centroid_score = (vector @ self.centroids.T).masked_fill(self.sizes == 0, -torch.inf)
        order = centroid_score.argsort(dim=1, descending=True, stable=True)
        size = self.sizes[order]
        remaining = (total - (size.cumsum(1) - size)).clamp(min=0)
        return torch.zeros_like(size).scatter_(1, order, torch.minimum(size, remaining))

    def search(self, vector: Tensor, budget: Tensor, k: int, row: Tensor, user: Tensor) -> SearchResult:
        """The k users with the largest inner product, among the first `budget` users of each list.

        vector: float32[B, W]; budget: int64[B, lists], from `probe_budget`; row, user: int64[P], excluded pairs: the
        user is not returned for that row of `vector`. Results are padded with -1 and -inf.

        Example: the lists from the example of `probe_budget`. The budget covers user 1 of list 0 and all of list 1. So
        user 0, with inner product 3, is not scored; user 2, with inner product 6, is excluded:

        >>> vectors = torch.tensor([[3.0], [2.0], [6.0], [4.0], [1.0]])
        >>> last_active = torch.tensor([1, 9, 3, 2, 8])
        >>> lists = InvertedLists.of(torch.tensor([0, 0, 1, 1, 1]), 2, vectors, last_active)
        >>> query, budget = torch.tensor([[1.0]]), torch.tensor([[1, 3]])
        >>> lists.search(query, budget, k=2, row=torch.tensor([0]), user=torch.tensor([2]))
        SearchResult(ids=tensor([[3, 1]]), scores=tensor([[4., 2.]]))
        """
        b = len(vector)
        ids, scores = torch.full((b, k), -1), torch.full((b, k), -torch.inf)
        position = self.position[user.clamp(max=len(self.position) - 1)]
        is_on_list = (position >= 0) & (user < len(self.position))
        row, position = row[is_on_list], position[is_on_list]
        order = position.argsort()
        row, position = row[order], position[order]
        cut = torch.searchsorted(position, self.offsets).tolist()  # list c has the excluded pairs cut[c]:cut[c + 1]
        slot = torch.empty(b, dtype=torch.long)  # the row of each query in `rows`, the queries that score a list
        for c, (low, high) in enumerate(zip(self.offsets[:-1].tolist(), self.offsets[1:].tolist(), strict=True)):
            rows = budget[:, c].nonzero().squeeze(1)
            if not len(rows):
                continue
            count = budget[rows, c]
            high = low + int(count.max())
            score = vector[rows] @ self.vectors[low:high].T
            score[torch.arange(high - low) >= count[:, None]] = -torch.inf
            slot.fill_(-1)
            slot[rows] = torch.arange(len(rows))
            pair_slot, column = slot[row[cut[c] : cut[c + 1]]], position[cut[c] : cut[c + 1]] - low
            is_scored = (pair_slot >= 0) & (column < high - low)
            score[pair_slot[is_scored], column[is_scored]] = -torch.inf
            top = torch.cat([scores[rows], score], 1).topk(k, dim=1)
            pool = torch.cat([ids[rows], self.users[low:high].expand(len(rows), -1)], 1)
            ids[rows], scores[rows] = pool.gather(1, top.indices), top.values
        return SearchResult(torch.where(scores > -torch.inf, ids, -1), scores)


@dataclass(frozen=True)
class ClusterView(ModelView):
    """The vectors of the E eligible users as of a cutoff, with inverted lists.

    A user is eligible if they may be recommended as of the cutoff. The lists hold row numbers of `vectors`, not ids of
    users.
    """

    cluster_of_user: Tensor
    """int64[N], the cluster of each eligible user; -1 for all other users"""
    last_event_of_row: Tensor
    """int64[E], index into the event log of the last event that each eligible user did or received; -1 for none"""
    lists: InvertedLists
    """one list per cluster, without the most recently active users"""
    recently_active: InvertedLists
    """a single list: the most recently active users of all clusters"""


class ClusterRetriever(TwoTowerRetriever):
    """The two-tower model on an event log; a search scores only a share of the users."""

    def __init__(
        self,
        model: NextTargetPredictionUserIDs,
        feature_view: FeatureView,
        model_settings: TwoTowerModelSettings,
        clusters: UserClusters,
        settings: ClusterSearchSettings,
    ):
        """clusters: the model of p(cluster | user), trained after the two-tower model; settings: the share of users
        that a query scores, and how many recently active users it scores in addition. Other parameters: as in
        `TwoTowerRetriever`."""
        super().__init__(model, feature_view, model_settings)
        self.clusters, self.settings = clusters.eval(), settings
        self.num_clusters = len(clusters.clusters.prior)

    @torch.no_grad()
    def view_at(self, snapshot: FeatureSnapshot, previous: ModelView | None = None) -> ClusterView:
        """As `Retriever.view_at`. Assigns users to clusters; with a previous view, only those who were not eligible
        then or had another last event."""
        view = super().view_at(snapshot, previous)
        cluster_of_user = torch.full_like(snapshot.last_entry, -1)
        changed = snapshot.eligible
        if isinstance(previous, ClusterView):
            cluster_of_user = torch.where(snapshot.eligible, previous.cluster_of_user, -1)
            changed = snapshot.eligible & (
                (snapshot.last_entry != previous.snapshot.last_entry) | ~previous.snapshot.eligible
            )
        for users in changed.nonzero().squeeze(1).split(USERS_PER_BATCH):
            cluster_of_user[users] = self.log_memberships(users, snapshot).argmax(1)
        last_event_of_row = last_events(self, snapshot)
        cluster_of_row = cluster_of_user[snapshot.eligible_users]
        lists, recently_active = self._lists(cluster_of_row, view.vectors, last_event_of_row)
        return ClusterView(
            snapshot, view.vectors, view.neighbor_vectors, cluster_of_user, last_event_of_row, lists, recently_active
        )

    def _lists(
        self, cluster_of_row: Tensor, vectors: Tensor, last_event_of_row: Tensor
    ) -> tuple[InvertedLists, InvertedLists]:
        """The lists of the clusters, and the list of the most recently active users, as in `ClusterView`.

        cluster_of_row: int64[E], the cluster of each row of the view; -1 for rows that must not be returned; vectors:
        float32[E, W]; last_event_of_row: int64[E].
        """
        is_allowed = cluster_of_row >= 0
        num_recent = min(self.settings.recently_active, int(is_allowed.sum()))
        recent_rows = last_event_of_row.masked_fill(~is_allowed, -2).topk(num_recent).indices
        recent_list = torch.full_like(cluster_of_row, -1)
        recent_list[recent_rows] = 0
        clusters = cluster_of_row.masked_fill(recent_list == 0, -1)
        return (
            InvertedLists.of(clusters, self.num_clusters, vectors, last_event_of_row),
            InvertedLists.of(recent_list, 1, vectors, last_event_of_row),
        )

    def log_memberships(self, users: Tensor, snapshot: FeatureSnapshot) -> Tensor:
        """float32[B, C]: log p(cluster | user) of users, int64[B], from the other users of their latest events."""
        bags = NeighborBags.of(
            self.activity, users, torch.full_like(users, snapshot.num_visible), self.settings.history_entries
        )
        return self.clusters.log_memberships(bags)

    def propose(
        self, view: ModelView, query: Query, k: int, excluded: ExcludedPairs, allowed: Tensor | None
    ) -> SearchResult:
        """As `Retriever.propose`, approximately. With `allowed`, the inverted lists are built again from the allowed
        users, so that a search does not spend its budget on users who must not be listed."""
        assert isinstance(view, ClusterView)
        row = torch.cat([view.snapshot.row_of_user, torch.tensor([-1])])[excluded.user]
        excluded_pairs = excluded.row[row >= 0], row[row >= 0]
        vector, lists, recently_active = query.vector(), view.lists, view.recently_active
        num_allowed = len(view.vectors)
        if allowed is not None:
            users = view.snapshot.eligible_users
            mask = allowed[users]
            cluster_of_row = view.cluster_of_user[users].masked_fill(~mask, -1)
            lists, recently_active = self._lists(cluster_of_row, view.vectors, view.last_event_of_row)
            num_allowed = int(mask.sum())
        budget = lists.probe_budget(vector, math.ceil(self.settings.probe_share * num_allowed))
        clustered = lists.search(vector, budget, k, *excluded_pairs)
        recent = recently_active.search(vector, recently_active.sizes.expand(len(vector), 1), k, *excluded_pairs)
        top = torch.cat([clustered.scores, recent.scores], 1).topk(k, dim=1)
        ids = torch.cat([clustered.ids, recent.ids], 1).gather(1, top.indices)
        return rows_to_users(view, SearchResult(ids, top.values))


def last_events(retriever: TwoTowerRetriever, snapshot: FeatureSnapshot) -> Tensor:
    """int64[E]: index into the event log of the last event that each eligible user did or received; -1 for none."""
    entry = snapshot.last_entry[snapshot.eligible_users]
    event = retriever.activity.histories.event[entry.clamp(min=0)].long()
    return event.masked_fill(entry < 0, -1)
