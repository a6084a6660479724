"""The two-tower model over user ids: a query vector from actor, action and history, and a vector for every target.

The score of a target is the inner product of both, plus the pointer term for users in the actor's history, or the
two-hop term for users with common contacts. Terms and shapes are those of `query_tower`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from befriend.models.model_inputs import CandidateInputs, NextTargetPredictionBatch, Positions, Query
from befriend.models.model_settings import NegativesName
from befriend.models.negatives import draw_negatives
from befriend.models.query_tower import QueryTower, QueryTowerConfig, last_own_events, shared_dot
from befriend.models.sampled_softmax import SoftmaxLoss, softmax_loss
from befriend.models.user_clusters import SoftClusters
from befriend.models.user_embedding import EmbeddingLookup, UserEmbedding

TEMPERATURE = 0.1  # of the softmax over clusters, see `SoftClusters`


class NextTargetPredictionUserIDs(QueryTower):
    """Two towers over user ids, histories, attributes, activity and texts.

    Args:
        num_users: N, number of users known to the model, with internal ids 0 to N - 1; later users have no embedding.
        num_actions: Number of action labels.
        embedding_dim: D, width of a user embedding.
        hidden_dim: Width of hidden layers.
        device: Device of the parameters.
        id_embedding: Whether users have their own embedding.
        clusters: Number of learned soft clusters, whose mixture of centres is added to a user's embedding; 0 for none.
        categories, numeric: Numbers of labels of the users' categorical attributes; number of numeric inputs.
        temporal_weight: Weight in the loss of a position inside a history; the example itself has weight 1.
        temporal_positions: Number of an actor's latest own events whose targets are predicted; None for all.
        negatives, log_q: Kind of negatives (in_batch, mixed, random); whether the scores of negatives are corrected for
            how often they are drawn (log-Q correction).
        query_tower_options: Fields of `QueryTowerConfig`.

    The temporal parameters, negatives and log_q are for the losses of this class. The example is the event after the
    history, and positions inside a history predict the targets of events of the history.
    """

    def __init__(
        self,
        num_users: int,
        num_actions: int,
        embedding_dim: int = 128,
        hidden_dim: int = 256,
        device: torch.device | str = "cpu",
        id_embedding: bool = True,
        clusters: int = 0,
        categories: tuple[int, ...] = (),
        numeric: int = 0,
        temporal_weight: float = 1.0,
        temporal_positions: int | None = None,
        negatives: NegativesName = "mixed",
        log_q: bool = True,
        **query_tower_options: Any,
    ):
        embedding = nn.Embedding(num_users + 1 if id_embedding else 1, embedding_dim)
        soft_clusters = SoftClusters(clusters, embedding_dim, TEMPERATURE) if clusters else None
        users = UserEmbedding(num_users, embedding, categories, numeric, soft_clusters)
        super().__init__(users, num_actions, hidden_dim, embedding_dim, QueryTowerConfig(**query_tower_options))
        self.num_users = num_users
        self.temporal_weight, self.temporal_positions = temporal_weight, temporal_positions
        self.negatives, self.log_q = negatives, log_q
        self.register_buffer("popularity", torch.full((num_users,), 1 / num_users))
        self.popularity: Tensor
        """float32[N], the share of each user among the targets to learn from, for the log-Q correction"""
        self.to(device)

    def query_from_actor_vectors(self, positions: Positions, states: Tensor, actor: Tensor) -> Query:
        """As in `QueryTower`. At inference, multiplies the static query vector by `static_score_weight`."""
        query = super().query_from_actor_vectors(positions, states, actor)
        return query if self.training else replace(query, static=self.static_score_weight * query.static)

    def target_vectors(self, targets: CandidateInputs, lookup: EmbeddingLookup | None = None) -> Tensor:
        """float32[..., W]: target vectors, the static, neighbor and dynamic parts joined; unknown parts are 0.

        An inner product with `Query.vector` is a score without the terms of pairs.
        """
        lookup = self.users.lookup() if lookup is None else lookup
        terms = [self.users(targets.users, lookup)]
        shape = targets.users.shape
        if self.to_neighbor is not None:
            no_neighbors = terms[0].new_zeros(*shape, self.to_neighbor.out_features)
            recent_neighbors = targets.recent_neighbors
            terms.append(no_neighbors if recent_neighbors is None else self.neighbor_vectors(recent_neighbors, lookup))
        if self.dynamic is not None:
            terms.append(self.dynamic_vectors(targets))
        return torch.cat(terms, -1)

    def static_scores(self, query: Query, users: Tensor, lookup: EmbeddingLookup) -> Tensor:
        return shared_dot(query.static, self.users(users, lookup), query.grad_mask)

    def forward(self, batch: NextTargetPredictionBatch) -> Tensor:
        """float32[B, W]: the query vector of each example. Scores are inner products with `target_vectors`."""
        states = self.encode_history(batch)
        return self.query(batch, self._examples(batch), states).vector()

    def train_forward_with_target(self, batch: NextTargetPredictionBatch, num_rand_negs: int = 0) -> dict[str, Tensor]:
        """Loss of the examples alone. Keys: `loss`; `accuracy` and `mean_rank` of the targets among the negatives.

        num_rand_negs: number of random negatives per example.
        """
        lookup = self.users.lookup(self.id_dropout)
        states = self.encode_history(batch, lookup)
        examples = self._examples(batch)
        result = self._softmax(batch, examples, states, lookup, num_rand_negs)
        return _loss_and_metrics(result, result.loss.mean())

    def temporal_pretraining_loss(self, batch: NextTargetPredictionBatch, num_rand_negs: int = 0) -> Tensor:
        """Mean loss of the positions inside the histories, each predicted from the events before it; nan if none."""
        lookup = self.users.lookup(self.id_dropout)
        inner_positions = self._inner_positions(batch)
        return self._softmax(
            batch, inner_positions, self.encode_history(batch, lookup), lookup, num_rand_negs
        ).loss.mean()

    def train_forward(self, batch: NextTargetPredictionBatch, num_rand_negs: int = 0) -> dict[str, Tensor]:
        """Losses of the examples and of the positions inside the histories, from one pass over each history.

        Keys: those of `train_forward_with_target`, of the examples; `temporal_loss`, of the positions inside; `loss`,
        the weighted mean over all positions: examples have weight 1, positions inside `temporal_weight`.
        """
        lookup = self.users.lookup(self.id_dropout)
        states = self.encode_history(batch, lookup)
        result = self._softmax(batch, self._examples(batch), states, lookup, num_rand_negs)
        inner_positions = self._inner_positions(batch)
        inner_losses = self._softmax(batch, inner_positions, states, lookup, num_rand_negs).loss
        weight = self.temporal_weight
        total = (result.loss.sum() + weight * inner_losses.sum()) / (len(result.loss) + weight * len(inner_losses))
        return _loss_and_metrics(result, total) | {
            "temporal_loss": inner_losses.mean() if len(inner_losses) else total.new_zeros(())
        }

    @torch.no_grad()
    def predict_top_k(self, batch: NextTargetPredictionBatch, k: int = 10) -> tuple[Tensor, Tensor]:
        """The k users with the best scores for each example, int64[B, k], and the scores, float32[B, k].

        Scores have the static term only. The actor's is -inf, so it comes last if k is at least the number of users.
        """
        all_users = CandidateInputs(torch.arange(self.num_users, device=self.device))
        scores = self(batch) @ self.target_vectors(all_users).T
        scores.scatter_(1, batch.actor_id[:, None], float("-inf"))
        best = scores.topk(min(k, self.num_users))
        return best.indices, best.values

    def _examples(self, batch: NextTargetPredictionBatch) -> Positions:
        """The example of each actor as a position after the whole history."""
        b, n = batch.actor_history_mask.shape
        row = torch.arange(b, device=batch.actor_id.device)
        return Positions(row, torch.full_like(row, n), batch.example_action, batch.example_target)

    def _inner_positions(self, batch: NextTargetPredictionBatch) -> Positions:
        """The positions inside the histories: the last `temporal_positions` events done by each actor."""
        row, column = last_own_events(batch.actor_history_mask, batch.actor_history_received, self.temporal_positions)
        return Positions(
            row, column, batch.actor_history_actions[row, column], batch.actor_history_targets[row, column]
        )

    def _softmax(
        self,
        batch: NextTargetPredictionBatch,
        positions: Positions,
        states: Tensor,
        lookup: EmbeddingLookup,
        num_rand_negs: int,
    ) -> SoftmaxLoss:
        """Softmax loss of positions against shared negatives, by the static term only.

        Positions that read the same state of the same history are one query with several targets: none of these is a
        negative of the others.
        """
        query = self.query(batch, positions, states, lookup)
        target = positions.target
        negative_pool = torch.arange(self.num_users, device=target.device)
        num_random = len(target) * num_rand_negs
        shared = draw_negatives(target, self.popularity, negative_pool, self.negatives, num_random, self.log_q)
        scores = self.static_scores(query, shared.users, lookup)
        positive = torch.einsum("pd,pd->p", query.static, self.users(target, lookup))
        is_negative = shared.users != batch.actor_id[positions.row][:, None]
        query_id = positions.row * states.shape[1] + positions.state
        position, position_of_same_query = (query_id[:, None] == query_id).nonzero(as_tuple=True)
        shared.mask_out(is_negative, position, target[position_of_same_query])
        return softmax_loss(positive, scores, is_negative, shared.log_q)


def _loss_and_metrics(result: SoftmaxLoss, loss: Tensor) -> dict[str, Tensor]:
    return {"loss": loss, "accuracy": (result.rank == 1).float().mean(), "mean_rank": result.rank.mean()}
