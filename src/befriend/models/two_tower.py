"""The two-tower model over user ids: a query from actor, action and history; a vector for every target.

The score of a target is the inner product of the two, plus a term for people of one's own history.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

import torch
from torch import Tensor, nn

from befriend.models.batch import NextTargetPredictionBatch, Positions, Query, Targets
from befriend.models.clusters import Clusters
from befriend.models.query_tower import QueryTower, TowerArguments, inside, products, taught
from befriend.models.settings import NegativesName
from befriend.models.terms import each
from befriend.models.users import Rows, UserEmbedding
from befriend.training.losses import SoftmaxLoss, softmax_loss
from befriend.training.negatives import draw

TEMPERATURE = 0.1  # of belonging to a cluster


class NextTargetPredictionUserIDs(QueryTower):
    """Two towers over user ids, histories, attributes and moments.

    Args:
        num_users: Rows of the embedding table; users with a larger number are represented without one.
        num_actions: Labels of actions.
        embedding_dim: D, width of a user's embedding.
        hidden_dim: Width of hidden layers.
        device: Where the parameters lie.
        id_embedding: Whether users have an embedding of their own.
        clusters: Learned clusters, whose mixture is part of a user; 0 for none.
        categories, numeric: Sizes of the users' categorical attributes, and number of numeric ones.
        temporal_weight: Weight of a position inside a history beside the example's own.
        temporal_positions: How many positions of a history predict their next target; None for all.
        negatives, log_q: Kind of negatives, and whether they are corrected for how often they are drawn.
        tower: Of the query tower: dropout, history_encoder_type, interaction_type and so on.
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
        **tower: Unpack[TowerArguments],
    ):
        own = nn.Embedding(num_users + 1 if id_embedding else 1, embedding_dim)
        table = Clusters(clusters, embedding_dim, TEMPERATURE) if clusters else None
        users = UserEmbedding(num_users, own, categories, numeric, table)
        super().__init__(users, num_actions, hidden_dim, embedding_dim, **tower)
        self.num_users = num_users
        self.temporal_weight, self.temporal_positions = temporal_weight, temporal_positions
        self.negatives, self.log_q = negatives, log_q
        self.register_buffer("popularity", torch.full((num_users,), 1 / num_users))
        self.popularity: Tensor
        self.to(device)

    def ask(self, positions: Positions, states: Tensor, actor: Tensor) -> Query:
        query = super().ask(positions, states, actor)
        return query if self.training else replace(query, static=self.user_weight * query.static)

    def target_vectors(self, targets: Targets, rows: Rows | None = None) -> Tensor:
        """float32[..., W]: vectors of the users as targets; what is not known of them is 0."""
        rows = self.users.rows() if rows is None else rows
        parts = [self.users(targets.users, rows)]
        shape = targets.users.shape
        if self.to_social is not None:
            none = parts[0].new_zeros(*shape, self.to_social.out_features)
            known = targets.partners
            parts.append(none if known is None else self.social(known, rows))
        if self.moment is not None:
            parts.append(self.moments(targets))
        return torch.cat(parts, -1)

    def static_each(self, query: Query, targets: Targets, rows: Rows) -> Tensor:
        users = taught(self.users(targets.users, rows), query.learns)
        return each(query.static, users)

    def static_columns(self, query: Query, targets: Targets, rows: Rows) -> Tensor:
        return products(query.static, self.users(targets.users, rows), query.learns)

    def forward(self, batch: NextTargetPredictionBatch) -> Tensor:
        """float32[B, W]: the query of each actor and action, to be searched for among `target_vectors`."""
        states = self.encode_history(batch)
        return self.query(batch, self._examples(batch), states).vector()

    def train_forward_with_target(self, batch: NextTargetPredictionBatch, num_rand_negs: int = 0) -> dict[str, Tensor]:
        """Loss of the examples alone: `loss`, `accuracy` and `mean_rank` among the negatives."""
        rows = self.users.rows(self.id_dropout)
        states = self.encode_history(batch, rows)
        examples = self._examples(batch)
        result = self._softmax(batch, examples, states, rows, num_rand_negs)
        return _figures(result, result.loss.mean())

    def temporal_pretraining_loss(self, batch: NextTargetPredictionBatch, num_rand_negs: int = 0) -> Tensor:
        """Mean loss of the positions inside the histories: each predicts its own target from what came before."""
        rows = self.users.rows(self.id_dropout)
        inside = self._inside(batch)
        return self._softmax(batch, inside, self.encode_history(batch, rows), rows, num_rand_negs).loss.mean()

    def train_forward(self, batch: NextTargetPredictionBatch, num_rand_negs: int = 0) -> dict[str, Tensor]:
        """Examples and positions inside the histories, from one pass over each history.

        Keys as of `train_forward_with_target`, of the examples, with `temporal_loss` beside. With weight w of
        `temporal_weight`, `loss` is the mean over all positions, of which those inside count w each.
        """
        rows = self.users.rows(self.id_dropout)
        states = self.encode_history(batch, rows)
        result = self._softmax(batch, self._examples(batch), states, rows, num_rand_negs)
        inside = self._inside(batch)
        temporal = self._softmax(batch, inside, states, rows, num_rand_negs).loss
        weight = self.temporal_weight
        total = (result.loss.sum() + weight * temporal.sum()) / (len(result.loss) + weight * len(temporal))
        return _figures(result, total) | {"temporal_loss": temporal.mean() if len(temporal) else total.new_zeros(())}

    @torch.no_grad()
    def predict_top_k(self, batch: NextTargetPredictionBatch, k: int = 10) -> tuple[Tensor, Tensor]:
        """The k best users of each example, but for the actor: int64[B, k] and their scores, float32[B, k]."""
        everyone = Targets(torch.arange(self.num_users, device=self.device))
        scores = self(batch) @ self.target_vectors(everyone).T
        scores.scatter_(1, batch.actor_id[:, None], float("-inf"))
        best = scores.topk(min(k, self.num_users))
        return best.indices, best.values

    def _examples(self, batch: NextTargetPredictionBatch) -> Positions:
        b, n = batch.actor_history_mask.shape
        row = torch.arange(b, device=batch.actor_id.device)
        return Positions(row, torch.full_like(row, n), batch.example_action, batch.example_target)

    def _inside(self, batch: NextTargetPredictionBatch) -> Positions:
        """The last `temporal_positions` events that each actor did, as positions."""
        row, column = inside(batch.actor_history_mask, batch.actor_history_received, self.temporal_positions)
        return Positions(
            row, column, batch.actor_history_actions[row, column], batch.actor_history_targets[row, column]
        )

    def _softmax(
        self, batch: NextTargetPredictionBatch, positions: Positions, states: Tensor, rows: Rows, num_rand_negs: int
    ) -> SoftmaxLoss:
        """Loss of positions whose negatives are each other's targets and random users.

        Another position's target is no negative where it is a true target of the same query as well: the same
        state of the same history.
        """
        query = self.query(batch, positions, states, rows)
        target = positions.target
        universe = torch.arange(self.num_users, device=target.device)
        columns = draw(target, self.popularity, universe, self.negatives, num_rand_negs, self.log_q)
        scores = self.score_columns(query, Targets(columns.users), rows)
        own = torch.einsum("pd,pd->p", query.static, self.users(target, rows))
        allowed = columns.users != batch.actor_id[positions.row][:, None]
        same = positions.row * states.shape[1] + positions.state
        for_row, of = (same[:, None] == same).nonzero(as_tuple=True)
        columns.forbid(allowed, for_row, target[of])
        none = scores.new_zeros(len(target), 0)
        return softmax_loss(own, none, none.bool(), scores, allowed, columns.log_share)


def _figures(result: SoftmaxLoss, loss: Tensor) -> dict[str, Tensor]:
    return {"loss": loss, "accuracy": (result.rank == 1).float().mean(), "mean_rank": result.rank.mean()}
