"""Clusters inside the model: a small table, to which users belong by degrees, learned from who asks for whom.

A cluster is what people have in common who are asked for by the same people. With p(c | v), to which cluster a target
belongs, and p(c | q), in which one the next target is looked for, the target's probability is

    p(v | q) = p(v) * sum over c of p(c | q) p(c | v) / p(c)

as in the aspect model (Hofmann 1999). The sum is the gain over knowing nothing of q. One huge cluster gains nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from befriend.data.contacts import Contacts

FADE = 0.95  # of the running mean of p(c), a batch


class Clusters(nn.Module):
    """C learned embeddings, C much smaller than the number of users."""

    def __init__(self, num_clusters: int, embedding_dim: int, temperature: float = 1.0):
        """temperature: of the softmax; 1: as it is, near 0: the nearest cluster alone."""
        super().__init__()
        self.table = nn.Embedding(num_clusters, embedding_dim)
        nn.init.normal_(self.table.weight, std=embedding_dim**-0.5)
        self.register_buffer("temperature", torch.tensor(temperature))
        self.temperature: Tensor
        self.register_buffer("share", torch.full((num_clusters,), 1 / num_clusters))
        self.share: Tensor
        """float32[C], p(c), a running mean over what was trained on"""

    @property
    def centres(self) -> Tensor:
        """float32[C, D], of length 1: no cluster wins by its length."""
        return F.normalize(self.table.weight, dim=1)

    def log_shares(self, users: Tensor) -> Tensor:
        """float32[..., C]: log p(c | user), by dot products. users: float32[..., D]."""
        return (users @ self.centres.T / self.temperature).log_softmax(-1)

    def forward(self, users: Tensor) -> Tensor:
        """float32[..., D]: users as mixtures of their clusters, softmax(u C^T) C. users: float32[..., D]."""
        return self.log_shares(users).exp() @ self.centres

    def losses(self, asked: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Of P questions and their targets, by their log p(c | q) and log p(c | v), float32[P, C]:

        `next_cluster`, float32[P], minus the log of the sum above; `balance`, how far p(c) is from even, and `entropy`,
        how undecided targets are, both in nats, 0 at best. In training, p(c) moves with every call.
        """
        now = (asked.exp().mean(0) + targets.exp().mean(0)) / 2
        mean = self.share
        if self.training:
            with torch.no_grad():
                self.share.mul_(FADE).add_(now, alpha=1 - FADE)
            mean = now + (self.share - now).detach()  # the value of the running mean, the gradient of this batch
        log = mean.clamp(min=1e-9).log()
        return {
            "next_cluster": -(asked + targets - log).logsumexp(1),
            "balance": (mean * log).sum() + torch.tensor(float(len(mean))).log(),
            "entropy": -(targets.exp() * targets).sum(1).mean(),
        }


class UserClusters(nn.Module):
    """Users by something of their own and by whom they are in contact with, and the clusters they belong to.

    Somebody who joined later has nothing of their own, but contacts.
    """

    def __init__(self, own: Tensor, num_clusters: int, id_dropout: float = 0.0):
        """own: float32[N, D], what users begin with; id_dropout: share of users who have only contacts in a step."""
        super().__init__()
        self.own = nn.Embedding.from_pretrained(F.pad(own, (0, 0, 0, 1)), freeze=False)  # the last row: nobody
        self.clusters = Clusters(num_clusters, own.shape[1])
        self.id_dropout = id_dropout

    def forward(self, contacts: Contacts) -> Tensor:
        """float32[B, D], of length 1."""
        nobody, real = self.own.num_embeddings - 1, contacts.real
        own = self.own(contacts.users.clamp(max=nobody))
        if self.training and self.id_dropout:
            own = own * (torch.rand(len(own), 1, device=own.device) >= self.id_dropout)
        weight = (real / real.sum(1, keepdim=True).clamp(min=1)).to(own.dtype)
        theirs = F.embedding_bag(
            contacts.others.clamp(max=nobody), self.own.weight, mode="sum", per_sample_weights=weight
        )
        return F.normalize(own + theirs, dim=1)

    def log_shares(self, contacts: Contacts) -> Tensor:
        """float32[B, C]: log p(c | user)."""
        return self.clusters.log_shares(self(contacts))
