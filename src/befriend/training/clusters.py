"""The clusters as a trainee: on top of the trained two-tower model, from the contacts of the training part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from befriend.data.contacts import Contacts
from befriend.data.observed import Observed
from befriend.data.split import Split, segments
from befriend.evaluation.protocol import NEW, sample
from befriend.models.cluster_settings import ClusterSettings
from befriend.models.clusters import UserClusters
from befriend.tokens.user_vectors import normalised
from befriend.training.trainee import Losses

if TYPE_CHECKING:
    from scipy.sparse import csr_array  # type: ignore[import-untyped]

AT_ONCE = 2**14  # users
ROUNDS = 6  # of handing on


@dataclass(frozen=True)
class Asked:
    """Events: who asked, and who it was."""

    actors: Contacts
    targets: Contacts
    progress: float
    """how far the training is, 0 to 1"""

    def to(self, device: torch.device | str) -> Asked:
        return Asked(self.actors.to(device), self.targets.to(device), self.progress)


class Batches(Sequence[Asked]):
    def __init__(self, trainee: ClusterTrainee, epoch: int):
        self.trainee, self.epoch = trainee, epoch
        s = trainee.settings
        self.order = np.random.default_rng([s.seed, epoch]).permutation(trainee.events)
        self.size = s.events_per_batch

    def __len__(self) -> int:
        return -(-len(self.order) // self.size)

    def __getitem__(self, number: int) -> Asked:  # type: ignore[override]
        events = self.order[number * self.size : (number + 1) * self.size]
        progress = (self.epoch + number / len(self)) / self.trainee.settings.epochs
        log = self.trainee.observed.log
        visible = log.before(log.timestamp[events])
        return Asked(
            self.trainee.contacts(log.actor[events], visible),
            self.trainee.contacts(log.target[events], visible),
            progress,
        )


def propagated(own: Tensor, graph: csr_array) -> Tensor:
    """float32[N, D], of length 1 or 0: what users are, handed on along their ties again and again.

    Repeated, that leads to the leading eigenvectors of the graph, in which communities lie apart; columns are made
    orthogonal each time, so that all of them get there (subspace iteration). Clusters that begin here get stuck less
    often. own: float32[N, D]; graph: float64[N, N], ties.
    """
    normal, root = normalised(graph)
    found = own.double().numpy()
    for _ in range(ROUNDS):
        found, _ = np.linalg.qr(normal @ found)
    found = root[:, None] * found
    return F.normalize(torch.from_numpy(found), dim=1).float()


class ClusterTrainee:
    """Who asks for whom says who belongs together."""

    metric = "found"

    def __init__(self, observed: Observed, split: Split, settings: ClusterSettings, own: Tensor):
        """own: float32[N, D], what users begin with, 0 for those of whom nothing is known."""
        self.observed, self.settings = observed, settings
        log = observed.log
        events = np.arange(split.part("train")[1])
        self.events = events[log.is_contact[events]]
        self.start = split.part("validation")[0]
        asked = sample(log, split, "validation", settings.validation_events)
        horizon = np.full(len(asked), log.timestamp[self.start])
        self.asked = asked[segments(log, asked, horizon) == NEW]
        torch.manual_seed(settings.seed)
        self.model = UserClusters(own.clone(), settings.count(len(own)), settings.id_dropout)

    def contacts(self, users: np.ndarray, visible: np.ndarray) -> Contacts:
        """users, visible: int[B]."""
        return Contacts.of(
            self.observed.activity,
            torch.from_numpy(users.astype(np.int64)),
            torch.from_numpy(visible.astype(np.int64)),
            self.settings.entries,
        )

    def scale(self, name: str) -> float:
        return 1.0

    def batches(self, epoch: int) -> Batches:
        return Batches(self, epoch)

    def loss(self, batch: Asked) -> Losses:
        s, clusters = self.settings, self.model.clusters
        clusters.temperature.fill_(s.temperature * (s.final_temperature / s.temperature) ** batch.progress)
        found = clusters.losses(self.model.log_shares(batch.actors), self.model.log_shares(batch.targets))
        loss = found["next_cluster"].mean() + s.balance_weight * found["balance"] + s.entropy_weight * found["entropy"]
        figures = {name: value.detach().mean() for name, value in found.items()}
        return Losses(loss, len(batch.actors.users), figures)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Of first contacts of the validation part, as of its beginning.

        `gain`, nats by which clusters make the target more probable; `found`, how many targets lie in the clusters that
        promise most and hold a share of all users; `largest`, the share of the largest cluster.
        """
        model, clusters = self.model, self.model.clusters
        device, log = clusters.share.device, self.observed.log
        seen = np.flatnonzero(log.first_seen < log.timestamp[self.start])
        if not len(self.asked):
            return {self.metric: 0.0, "gain": 0.0, "largest": 0.0}

        def shares(users: np.ndarray) -> Tensor:
            return model.log_shares(self.contacts(users, np.full(len(users), self.start)).to(device))

        of = torch.cat([shares(some).argmax(1) for some in np.array_split(seen, -(-len(seen) // AT_ONCE))])
        size = of.bincount(minlength=len(clusters.share))
        actors, targets = shares(log.actor[self.asked]), shares(log.target[self.asked])
        promise = actors - clusters.share.clamp(min=1e-9).log()
        best = promise.argsort(1, descending=True)
        before = size[best].cumsum(1) - size[best]
        looked = before < self.settings.share * len(seen)  # what comes before is not yet enough
        hit = ((best == targets.argmax(1, keepdim=True)) & looked).any(1)
        return {
            "gain": float(-clusters.losses(actors, targets)["next_cluster"].mean()),
            self.metric: float(hit.float().mean()),
            "largest": float(size.max() / len(seen)),
        }
