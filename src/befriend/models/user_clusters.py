"""Soft clusters of users: a small table of learned embeddings, trained on which actors contact which targets.

Targets that the same actors contact get the same clusters. With p(c | v), the memberships of a target, and p(c | q),
the clusters in which a query expects its next target, the target's probability is

    p(v | q) = p(v) * sum over c of p(c | q) p(c | v) / p(c)

as in pLSA (probabilistic latent semantic analysis, Hofmann 1999). The sum is the factor by which q makes v more
probable. With a single huge cluster it is 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from befriend.features.contact_bags import ContactBags

PRIOR_EMA_DECAY = 0.95  # decay per batch of p(c), an exponential moving average


class SoftClusters(nn.Module):
    """C learned cluster embeddings, C much smaller than the number of users."""

    def __init__(self, num_clusters: int, embedding_dim: int, temperature: float = 1.0):
        """temperature: divides the logits of the memberships; 1: no change, near 0: only the nearest cluster counts."""
        super().__init__()
        self.table = nn.Embedding(num_clusters, embedding_dim)
        nn.init.normal_(self.table.weight, std=embedding_dim**-0.5)
        self.register_buffer("temperature", torch.tensor(temperature))
        self.temperature: Tensor
        self.register_buffer("prior", torch.full((num_clusters,), 1 / num_clusters))
        self.prior: Tensor
        """float32[C], p(c), an exponential moving average over the training batches"""

    @property
    def centres(self) -> Tensor:
        """float32[C, D], the cluster embeddings scaled to length 1, so that no cluster wins by its length."""
        return F.normalize(self.table.weight, dim=1)

    def log_memberships(self, user_vectors: Tensor) -> Tensor:
        """float32[..., C]: log p(c | user), a softmax of dot products. user_vectors: float32[..., D].

        Two clusters, with centres (1, 0) and (0, 1). A user vector in between belongs half to each:

        >>> clusters = SoftClusters(2, 2)
        >>> _ = clusters.table.weight.data.copy_(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
        >>> memberships = clusters.log_memberships(torch.tensor([[3.0, 3.0], [3.0, 0.0]])).exp()
        >>> [[round(p, 2) for p in row] for row in memberships.tolist()]
        [[0.5, 0.5], [0.95, 0.05]]
        """
        return (user_vectors @ self.centres.T / self.temperature).log_softmax(-1)

    def forward(self, user_vectors: Tensor) -> Tensor:
        """float32[..., D]: each user as a mixture of centres, softmax(u C^T) C. user_vectors: float32[..., D]."""
        return self.log_memberships(user_vectors).exp() @ self.centres

    def losses(self, query: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Losses of P queries and their targets. query, targets: float32[P, C], log p(c | q) and log p(c | v).

        name          shape  formula, in nats
        next_cluster  [P]    -log sum_c p(c | q) p(c | v) / p(c): minus the log of the factor in the module docstring
        balance       []     sum_c p(c) log p(c) + log C: divergence of p(c) from uniform, 0 at best
        entropy       []     mean over targets of -sum_c p(c | v) log p(c | v), 0 if each target is in one cluster

        In training, every call updates p(c). Two queries, each with its target in a cluster of its own, twice as
        probable as without the query:

        >>> memberships = torch.tensor([[0.99, 0.01], [0.01, 0.99]]).log()
        >>> losses = SoftClusters(2, 2).eval().losses(memberships, memberships)
        >>> {name: round(loss.mean().exp().item(), 2) for name, loss in losses.items()}
        {'next_cluster': 0.51, 'balance': 1.0, 'entropy': 1.06}
        """
        batch_prior = (query.exp().mean(0) + targets.exp().mean(0)) / 2
        prior = self.prior
        if self.training:
            with torch.no_grad():
                self.prior.mul_(PRIOR_EMA_DECAY).add_(batch_prior, alpha=1 - PRIOR_EMA_DECAY)
            # Straight-through: the value is the moving average, the gradient is that of this batch.
            prior = batch_prior + (self.prior - batch_prior).detach()
        log_prior = prior.clamp(min=1e-9).log()
        return {
            "next_cluster": -(query + targets - log_prior).logsumexp(1),
            "balance": (prior * log_prior).sum() + torch.tensor(float(len(prior))).log(),
            "entropy": -(targets.exp() * targets).sum(1).mean(),
        }


class UserClusters(nn.Module):
    """Vectors of users from their own embedding and the embeddings of their contacts, and their cluster memberships.

    Users who joined later have no embedding; their contacts alone describe them.
    """

    def __init__(self, initial: Tensor, num_clusters: int, id_dropout: float = 0.0):
        """initial: float32[N, D], initial embeddings; id_dropout: share of users without one in a training step."""
        super().__init__()
        self.id_embedding = nn.Embedding.from_pretrained(F.pad(initial, (0, 0, 0, 1)), freeze=False)  # last row: unseen
        self.clusters = SoftClusters(num_clusters, initial.shape[1])
        self.id_dropout = id_dropout

    def forward(self, contacts: ContactBags) -> Tensor:
        """float32[B, D]: user vectors, the user's embedding plus the mean of its contacts' embeddings, normalised."""
        unseen, mask = self.id_embedding.num_embeddings - 1, contacts.mask
        embedding = self.id_embedding(contacts.users.clamp(max=unseen))
        if self.training and self.id_dropout:
            embedding = embedding * (torch.rand(len(embedding), 1, device=embedding.device) >= self.id_dropout)
        weight = (mask / mask.sum(1, keepdim=True).clamp(min=1)).to(embedding.dtype)
        contact_mean = F.embedding_bag(
            contacts.other_users.clamp(max=unseen), self.id_embedding.weight, mode="sum", per_sample_weights=weight
        )
        return F.normalize(embedding + contact_mean, dim=1)

    def log_memberships(self, contacts: ContactBags) -> Tensor:
        """float32[B, C]: log p(c | user) of the users of the bags."""
        return self.clusters.log_memberships(self(contacts))
