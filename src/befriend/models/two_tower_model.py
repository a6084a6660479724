"""The two-tower model over user ids: a query from actor, action and history, and a vector for every target.

The score of a target is the inner product of both, plus the pointer term for users in the actor's history.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from befriend.models.model_inputs import NextTargetPredictionBatch, Positions, Query, Targets
from befriend.models.model_settings import NegativesName
from befriend.models.negatives import draw_negatives
from befriend.models.query_tower import QueryTower, QueryTowerConfig, detach_unless, last_own_events, shared_dot
from befriend.models.sampled_softmax import SoftmaxLoss, softmax_loss
from befriend.models.score_terms import row_wise_dot
from befriend.models.user_clusters import SoftClusters
from befriend.models.user_embedding import EmbeddingRows, UserEmbedding

TEMPERATURE = 0.1  # of the softmax over clusters


class NextTargetPredictionUserIDs(QueryTower):
    """Two towers over user ids, histories, attributes and activity.

    Args:
        num_users: Rows of the embedding table; users with a larger internal id have no embedding.
        num_actions: Number of action labels.
        embedding_dim: D, width of a user embedding.
        hidden_dim: Width of hidden layers.
        device: Device of the parameters.
        id_embedding: Whether users have their own embedding.
        clusters: Number of learned clusters, whose mixture is added to a user's embedding; 0 for none.
        categories, numeric: Sizes of the users' categorical attributes, and number of numeric ones.
        temporal_weight: Weight of a position inside a history; that of the example itself is 1.
        temporal_positions: How many positions of a history predict their next target; None for all.
        negatives, log_q: Kind of negatives (in_batch, mixed, random), and whether log-Q correction is applied.
        tower: Fields of `QueryTowerConfig`.
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
        **tower: Any,
    ):
        embedding = nn.Embedding(num_users + 1 if id_embedding else 1, embedding_dim)
        table = SoftClusters(clusters, embedding_dim, TEMPERATURE) if clusters else None
        users = UserEmbedding(num_users, embedding, categories, numeric, table)
        super().__init__(users, num_actions, hidden_dim, embedding_dim, QueryTowerConfig(**tower))
        self.num_users = num_users
        self.temporal_weight, self.temporal_positions = temporal_weight, temporal_positions
        self.negatives, self.log_q = negatives, log_q
        self.register_buffer("popularity", torch.full((num_users,), 1 / num_users))
        self.popularity: Tensor
        self.to(device)

    def query_from_actor_vectors(self, positions: Positions, states: Tensor, actor: Tensor) -> Query:
        query = super().query_from_actor_vectors(positions, states, actor)
        return query if self.training else replace(query, static=self.static_score_weight * query.static)

    def target_vectors(self, targets: Targets, rows: EmbeddingRows | None = None) -> Tensor:
        """float32[..., W]: vectors of the users as targets, static, neighbor and dynamic; unknown features are 0."""
        rows = self.users.rows() if rows is None else rows
        terms = [self.users(targets.users, rows)]
        shape = targets.users.shape
        if self.to_neighbor is not None:
            no_neighbors = terms[0].new_zeros(*shape, self.to_neighbor.out_features)
            recent_neighbors = targets.recent_neighbors
            terms.append(no_neighbors if recent_neighbors is None else self.neighbor(recent_neighbors, rows))
        if self.dynamic is not None:
            terms.append(self.dynamic_vectors(targets))
        return torch.cat(terms, -1)

    def static_per_query(self, query: Query, targets: Targets, rows: EmbeddingRows) -> Tensor:
        users = detach_unless(self.users(targets.users, rows), query.grad_mask)
        return row_wise_dot(query.static, users)

    def static_shared(self, query: Query, targets: Targets, rows: EmbeddingRows) -> Tensor:
        return shared_dot(query.static, self.users(targets.users, rows), query.grad_mask)

    def forward(self, batch: NextTargetPredictionBatch) -> Tensor:
        """float32[B, W]: the query vector of each actor and action, to search `target_vectors` with."""
        states = self.encode_history(batch)
        return self.query(batch, self._examples(batch), states).vector()

    def train_forward_with_target(self, batch: NextTargetPredictionBatch, num_rand_negs: int = 0) -> dict[str, Tensor]:
        """Loss of the examples alone: `loss`, `accuracy` and `mean_rank` among the negatives."""
        rows = self.users.rows(self.id_dropout)
        states = self.encode_history(batch, rows)
        examples = self._examples(batch)
        result = self._softmax(batch, examples, states, rows, num_rand_negs)
        return _metrics(result, result.loss.mean())

    def temporal_pretraining_loss(self, batch: NextTargetPredictionBatch, num_rand_negs: int = 0) -> Tensor:
        """Mean loss of the positions inside the histories: predicts each event's target from the events before it."""
        rows = self.users.rows(self.id_dropout)
        inside = self._inside(batch)
        return self._softmax(batch, inside, self.encode_history(batch, rows), rows, num_rand_negs).loss.mean()

    def train_forward(self, batch: NextTargetPredictionBatch, num_rand_negs: int = 0) -> dict[str, Tensor]:
        """Losses of the examples and of the positions inside the histories, from one pass over each history.

        Keys: those of `train_forward_with_target`, for the examples, and `temporal_loss`, for the positions inside.
        `loss` is the weighted mean over all positions, in which those inside weigh `temporal_weight` each.
        """
        rows = self.users.rows(self.id_dropout)
        states = self.encode_history(batch, rows)
        result = self._softmax(batch, self._examples(batch), states, rows, num_rand_negs)
        inside = self._inside(batch)
        temporal = self._softmax(batch, inside, states, rows, num_rand_negs).loss
        weight = self.temporal_weight
        total = (result.loss.sum() + weight * temporal.sum()) / (len(result.loss) + weight * len(temporal))
        return _metrics(result, total) | {"temporal_loss": temporal.mean() if len(temporal) else total.new_zeros(())}

    @torch.no_grad()
    def predict_top_k(self, batch: NextTargetPredictionBatch, k: int = 10) -> tuple[Tensor, Tensor]:
        """The k best users of each example, without the actor: int64[B, k], and their scores, float32[B, k]."""
        all_users = Targets(torch.arange(self.num_users, device=self.device))
        scores = self(batch) @ self.target_vectors(all_users).T
        scores.scatter_(1, batch.actor_id[:, None], float("-inf"))
        best = scores.topk(min(k, self.num_users))
        return best.indices, best.values

    def _examples(self, batch: NextTargetPredictionBatch) -> Positions:
        """The example of each actor as a position after the whole history."""
        b, n = batch.actor_history_mask.shape
        row = torch.arange(b, device=batch.actor_id.device)
        return Positions(row, torch.full_like(row, n), batch.example_action, batch.example_target)

    def _inside(self, batch: NextTargetPredictionBatch) -> Positions:
        """The last `temporal_positions` events done by each actor, as positions."""
        row, column = last_own_events(batch.actor_history_mask, batch.actor_history_received, self.temporal_positions)
        return Positions(
            row, column, batch.actor_history_actions[row, column], batch.actor_history_targets[row, column]
        )

    def _softmax(
        self,
        batch: NextTargetPredictionBatch,
        positions: Positions,
        states: Tensor,
        rows: EmbeddingRows,
        num_rand_negs: int,
    ) -> SoftmaxLoss:
        """Loss of positions against shared negatives: the targets of all positions and random users.

        Another position's target is no negative if it belongs to the same query: the same state of the same history.
        """
        query = self.query(batch, positions, states, rows)
        target = positions.target
        negative_pool = torch.arange(self.num_users, device=target.device)
        shared = draw_negatives(target, self.popularity, negative_pool, self.negatives, num_rand_negs, self.log_q)
        scores = self.score_shared(query, Targets(shared.users), rows)
        positive = torch.einsum("pd,pd->p", query.static, self.users(target, rows))
        allowed = shared.users != batch.actor_id[positions.row][:, None]
        query_id = positions.row * states.shape[1] + positions.state
        position, same_query = (query_id[:, None] == query_id).nonzero(as_tuple=True)
        shared.mask_out(allowed, position, target[same_query])
        no_candidates = scores.new_zeros(len(target), 0)
        return softmax_loss(positive, no_candidates, no_candidates.bool(), scores, allowed, shared.log_q)


def _metrics(result: SoftmaxLoss, loss: Tensor) -> dict[str, Tensor]:
    return {"loss": loss, "accuracy": (result.rank == 1).float().mean(), "mean_rank": result.rank.mean()}
