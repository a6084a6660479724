"""Soft clusters of users: a small table of learned embeddings, trained on which actors contact which targets.

Targets that the same actors contact get the same clusters. A *membership* is p(c | user), the probability that a user
is in cluster c. With p(c | v), the memberships of target v, and p(c | q), the clusters in which a query q expects its
next target, the target's probability is

    p(v | q) = p(v) * sum over c of p(c | q) p(c | v) / p(c)

as in pLSA (probabilistic latent semantic analysis, Hofmann 1999). The sum is the factor by which q makes v more
probable. With one cluster for all users it is 1.

Shapes: C clusters; N users; B users of a batch; P queries; D, width of an embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from befriend.features.neighbor_bags import NeighborBags

PRIOR_EMA_DECAY = 0.95  # decay per batch of p(c), an exponential moving average


class SoftClusters(nn.Module):
    """C learned cluster embeddings, C being much smaller than the number of users."""

    def __init__(self, num_clusters: int, embedding_dim: int, temperature: float = 1.0):
        """temperature: divides the logits of memberships; near 0, a user is in the cluster with the largest logit
        alone."""
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
        """float32[C, D], the cluster embeddings with norm 1, so that no cluster is preferred for its norm."""
        return F.normalize(self.table.weight, dim=1)

    def log_memberships(self, user_vectors: Tensor) -> Tensor:
        """float32[..., C]: log p(c | user), a softmax of dot products with the centres. user_vectors: float32[..., D].

        Two clusters, with centres (1, 0) and (0, 1). A user vector halfway between them has membership 0.5 in each:

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
        """Losses of P queries and their targets.

        query, targets: float32[P, C], log p(c | q) and log p(c | v).

        name          shape  formula, in nats
        next_cluster  [P]    -log sum_c p(c | q) p(c | v) / p(c): minus the log of the factor in the module docstring
        balance       []     sum_c p(c) log p(c) + log C: KL divergence of p(c) from the uniform distribution
        entropy       []     mean over targets of -sum_c p(c | v) log p(c | v), 0 if each target is in one cluster

        In train mode, every call updates p(c). Two queries with targets in different clusters: each query makes its
        target twice as probable, so the first loss is -log 2, and its exponential about 0.5.

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
    """User vectors from the embeddings of users and of their neighbors, and cluster memberships from user vectors.

    The neighbors of a user are the other users of its latest events, of all actions (setting `history_entries`), see
    `NeighborBags`. Users who joined after training have no embedding: only their neighbors describe them.
    """

    def __init__(self, initial: Tensor, num_clusters: int, id_dropout: float = 0.0):
        """initial: float32[N, D], initial embeddings; id_dropout: share of users without one in a training step."""
        super().__init__()
        # The last row is for users who joined after training.
        self.id_embedding = nn.Embedding.from_pretrained(F.pad(initial, (0, 0, 0, 1)), freeze=False)
        self.clusters = SoftClusters(num_clusters, initial.shape[1])
        self.id_dropout = id_dropout

    def forward(self, bags: NeighborBags) -> Tensor:
        """float32[B, D]: user vectors of norm 1, in the direction of a user's embedding plus the mean embedding of its
        neighbors; 0 for a user with neither."""
        last_row, mask = self.id_embedding.num_embeddings - 1, bags.mask
        embedding = self.id_embedding(bags.users.clamp(max=last_row))
        if self.training and self.id_dropout:
            embedding = embedding * (torch.rand(len(embedding), 1, device=embedding.device) >= self.id_dropout)
        weight = (mask / mask.sum(1, keepdim=True).clamp(min=1)).to(embedding.dtype)
        neighbor_mean = F.embedding_bag(
            bags.other_users.clamp(max=last_row), self.id_embedding.weight, mode="sum", per_sample_weights=weight
        )
        return F.normalize(embedding + neighbor_mean, dim=1)

    def log_memberships(self, bags: NeighborBags) -> Tensor:
        """float32[B, C]: log p(c | user) of the B users."""
        return self.clusters.log_memberships(self(bags))
