"""The objective that trains soft clusters of users, from the contact events of the training part.

Clusters start from the user embeddings of the two-tower model. A user is described by its *bag*, the set of the
other users of its latest events as of a cutoff (UTC second before which events are visible).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from befriend.data.split import NEW, Split, sample_events, segments
from befriend.features.feature_view import FeatureView
from befriend.features.neighbor_bags import NeighborBags
from befriend.models.user_clusters import UserClusters
from befriend.objectives.cluster_settings import ClusterSettings
from befriend.tokens.user_vectors import normalized_adjacency
from befriend.training.objective import BatchLoss

if TYPE_CHECKING:
    from scipy.sparse import csr_array  # type: ignore[import-untyped]

USERS_PER_BATCH = 2**14  # users whose memberships validation computes per batch
SUBSPACE_ITERATIONS = 6  # propagations of embeddings along the edges of the graph


@dataclass(frozen=True)
class PositivePairs:
    """B contact events: each is a pair of users, the actor and the target, and each of these is a bag of neighbors."""

    actors: NeighborBags
    """the actor of each event, with its neighbors in the events before this event"""
    targets: NeighborBags
    """the target of each event, with its neighbors in the events before this event"""
    progress: float
    """share of the training that is completed, 0 to 1"""

    def to(self, device: torch.device | str) -> PositivePairs:
        return PositivePairs(self.actors.to(device), self.targets.to(device), self.progress)


class ContactBatches(Sequence[PositivePairs]):
    """The batches of one epoch: all contact events of the training part, in random order."""

    def __init__(self, objective: ClusterObjective, epoch: int):
        self.objective, self.epoch = objective, epoch
        s = objective.settings
        self.event_order = np.random.default_rng([s.seed, epoch]).permutation(objective.events)
        self.batch_size = s.events_per_batch

    def __len__(self) -> int:
        return -(-len(self.event_order) // self.batch_size)

    def __getitem__(self, index: int) -> PositivePairs:  # type: ignore[override]
        events = self.event_order[index * self.batch_size : (index + 1) * self.batch_size]
        progress = (self.epoch + index / len(self)) / self.objective.settings.epochs
        log = self.objective.feature_view.log
        num_visible = log.count_before(log.timestamp[events])
        return PositivePairs(
            self.objective.neighbor_bags(log.actor[events], num_visible),
            self.objective.neighbor_bags(log.target[events], num_visible),
            progress,
        )


def subspace_iteration(embeddings: Tensor, graph: csr_array) -> Tensor:
    """float32[N, D]: embeddings propagated along the edges of a graph, several times; rows have norm 1 or 0.

    The columns are made orthogonal each time, so that they converge to different leading eigenvectors of the graph
    (subspace iteration), in which communities are far apart. Clusters that are initialised from these vectors end less
    often in a poor local optimum. embeddings: float32[N, D]; graph: float64[N, N], edge weights.
    """
    normalized, row_scale = normalized_adjacency(graph)
    basis = embeddings.double().numpy()
    for _ in range(SUBSPACE_ITERATIONS):
        basis, _ = np.linalg.qr(normalized @ basis)
    basis = row_scale[:, None] * basis
    return F.normalize(torch.from_numpy(basis), dim=1).float()


class ClusterObjective:
    """Learns soft clusters from contact events: targets of the same actors get the same clusters."""

    metric = "recall_at_share"

    def __init__(self, feature_view: FeatureView, split: Split, settings: ClusterSettings, initial: Tensor):
        """initial: float32[N, D], initial embeddings of users, 0 for a user without one."""
        self.feature_view, self.settings = feature_view, settings
        log = feature_view.log
        events = np.arange(split.part("train")[1])
        self.events = events[log.is_contact[events]]
        self.start = split.part("validation")[0]
        """index of the first event of the validation part: validation sees the events before it"""
        sample = sample_events(log, split, "validation", settings.validation_events)
        cutoff = np.full(len(sample), log.timestamp[self.start])
        self.first_contacts = sample[segments(log, sample, cutoff) == NEW]
        """int64, indices of the validation events: first contacts of users who had events before"""
        torch.manual_seed(settings.seed)
        self.model = UserClusters(initial.clone(), settings.num_clusters(len(initial)), settings.id_dropout)

    def neighbor_bags(self, users: np.ndarray, num_visible: np.ndarray) -> NeighborBags:
        """The neighbors of B users. users: int[B]; num_visible: int[B], numbers of visible events of the log."""
        return NeighborBags.of(
            self.feature_view.activity,
            torch.from_numpy(users.astype(np.int64)),
            torch.from_numpy(num_visible.astype(np.int64)),
            self.settings.history_entries,
        )

    def lr_multiplier(self, name: str) -> float:
        return 1.0

    def batches(self, epoch: int) -> ContactBatches:
        return ContactBatches(self, epoch)

    def loss(self, batch: PositivePairs) -> BatchLoss:
        s, clusters = self.settings, self.model.clusters
        clusters.temperature.fill_(s.temperature * (s.final_temperature / s.temperature) ** batch.progress)
        losses = clusters.losses(self.model.log_memberships(batch.actors), self.model.log_memberships(batch.targets))
        loss = (
            losses["next_cluster"].mean() + s.balance_weight * losses["balance"] + s.entropy_weight * losses["entropy"]
        )
        metrics = {name: value.detach().mean() for name, value in losses.items()}
        return BatchLoss(loss, len(batch.actors.users), metrics)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Metrics of first contacts of the validation part, with the start of that part as the cutoff.

        `recall_at_share`: the share of targets in the actor's best clusters, as many as are needed to cover
        `probe_share` of all users; `gain`: by how many nats the clusters raise the log-probability of the target;
        `largest`: the share of users in the largest cluster.
        """
        model, clusters = self.model, self.model.clusters
        device, log = clusters.prior.device, self.feature_view.log
        seen_users = np.flatnonzero(log.first_seen < log.timestamp[self.start])
        if not len(self.first_contacts):
            return {self.metric: 0.0, "gain": 0.0, "largest": 0.0}

        def log_memberships(users: np.ndarray) -> Tensor:
            """float32[B, C]: log p(c | user) as of the cutoff."""
            return model.log_memberships(self.neighbor_bags(users, np.full(len(users), self.start)).to(device))

        cluster_of_user = torch.cat(
            [
                log_memberships(chunk).argmax(1)
                for chunk in np.array_split(seen_users, -(-len(seen_users) // USERS_PER_BATCH))
            ]
        )
        size = cluster_of_user.bincount(minlength=len(clusters.prior))
        actors, targets = (
            log_memberships(log.actor[self.first_contacts]),
            log_memberships(log.target[self.first_contacts]),
        )
        lift = actors - clusters.prior.clamp(min=1e-9).log()
        best = lift.argsort(1, descending=True)
        num_users_before = size[best].cumsum(1) - size[best]  # in the better clusters
        is_searched = num_users_before < self.settings.probe_share * len(seen_users)
        is_hit = ((best == targets.argmax(1, keepdim=True)) & is_searched).any(1)
        return {
            "gain": float(-clusters.losses(actors, targets)["next_cluster"].mean()),
            self.metric: float(is_hit.float().mean()),
            "largest": float(size.max() / len(seen_users)),
        }
