"""The query tower: from actor, action, history and cutoff to a query, and the score terms that change with time.

The base class of both models. It sees only tensors; the code that builds a batch decides which events are visible.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from befriend.data.regimes import HIDDEN, REGIMES
from befriend.models.history_encoders import MeanPooling, SimpleAttention, Transformer
from befriend.models.interaction import InteractionMoE
from befriend.models.model_inputs import NextTargetPredictionBatch, PairFeatures, Positions, Query, Targets
from befriend.models.model_settings import HistoryEncoderName
from befriend.models.score_terms import DynamicTargetFeatures, Pointer
from befriend.models.user_embedding import EmbeddingRows, UserEmbedding
from befriend.nn.layers import MLP, ActivationName
from befriend.nn.tensors import used_rows


@dataclass(frozen=True)
class QueryTowerConfig:
    """Architecture of a query tower, apart from its users, actions and widths."""

    recent_neighbors: bool = False
    """whether the score has a neighbor term, by the users a target was last in contact with"""
    dropout: float = 0.1
    """share of hidden units dropped in training"""
    history_encoder_type: HistoryEncoderName = "transformer"
    """transformer, simple_attention or mean_pooling"""
    interaction_type: Literal["mlp", "moe"] = "mlp"
    """mlp, or moe (a mixture of `num_experts`)"""
    num_experts: int = 4
    """number of experts of the mixture (moe)"""
    activation: ActivationName = "gelu"
    """activation of the feed-forward layers"""
    layers: int = 2
    """number of layers of the transformer"""
    heads: int = 4
    """number of attention heads"""
    history_projection: bool = True
    """project the encoder's output of width 2 D to D"""
    shortcut: bool = False
    """add a linear layer in parallel to the interaction (wide and deep: Cheng et al. 2016)"""
    history_scale: float = 1.0
    """factor applied to user embeddings in a history; above 1, small embeddings are learned faster"""
    latent_cross: bool = True
    """add actor x history and actor x action to the inputs of the interaction (Beutel et al. 2018)"""
    num_user_features: int = 0
    """F, number of activity features of a user, its text vector included; 0 turns the dynamic term off"""
    num_pair_features: int = 0
    """number of features of a pair; 0 turns the pointer term off"""
    text_width: int = 0
    """width of the users' text vectors, the last columns of an actor's activity features; 0 for none"""
    id_dropout: float = 0.0
    """share of users without their own embedding in a training step"""
    static_score_weight: float = 1.0
    """weight of the static term of the score at inference. In training, embeddings are up to date; later they are old,
    and a weight below 1 makes users more alike"""


class QueryTower(nn.Module):
    """From an actor, their history and their next action to a query for the next target."""

    def __init__(
        self, users: UserEmbedding, num_actions: int, hidden_dim: int, static_dim: int, config: QueryTowerConfig
    ):
        """users: embeddings of width D; hidden_dim: width of hidden layers; static_dim: width of the static query.

        Do not reorder the layers: each draws its initial weights from torch's one generator, so a new order would give
        other weights for the same seed.
        """
        super().__init__()
        d, self.config, self.users = users.id_embedding.embedding_dim, config, users
        self.id_dropout, self.static_score_weight = config.id_dropout, config.static_score_weight
        self.text_width = config.text_width
        self.actions = nn.Embedding(num_actions + 1, d)  # the last row: unknown action
        self.directions = nn.Embedding(2, d)  # 0: the user acted, 1: the user was acted on
        self.gap = nn.Linear(2, d)
        self.encoder = _history_encoder(2 * d, config)
        self.projection = (
            MLP(2 * d, d, d, config.activation, config.dropout) if config.history_projection else nn.Identity()
        )
        state_width = d if config.history_projection else 2 * d
        self.empty = nn.Parameter(torch.zeros(state_width))
        self.cross = nn.Linear(state_width, d) if config.latent_cross and state_width != d else nn.Identity()
        self.regime = nn.Embedding(len(REGIMES), d)
        num_activity_features = config.num_user_features - config.text_width
        self.dynamic = DynamicTargetFeatures(num_activity_features) if num_activity_features else None
        # Inputs of the interaction: history state, actor, action; then the two products, activity and text, if any.
        width = state_width + 2 * d + (2 * d if config.latent_cross else 0)
        if self.dynamic is not None:
            self.own_activity = nn.Linear(num_activity_features, d)
            width += d
        if self.text_width:
            self.own_text = nn.Linear(self.text_width, d, bias=False)
            width += d
        self.interaction = _interaction(width, hidden_dim, d, config)
        self.shortcut = nn.Linear(width, d) if config.shortcut else None
        self.to_static = nn.Linear(d, static_dim)
        self.to_neighbor = nn.Linear(d, d) if config.recent_neighbors else None
        self.to_dynamic = nn.Linear(d, self.dynamic.width) if self.dynamic is not None else None
        # Edge types of a pair's last event: no event (0), or one of the actions, unknown included, in two directions.
        num_edge_types = 1 + 2 * (num_actions + 1)
        self.pointer = Pointer(config.num_pair_features, num_edge_types, d) if config.num_pair_features else None
        for table in (self.actions, self.directions, self.regime):
            nn.init.normal_(table.weight, std=d**-0.5)
        zero_init_(self.to_dynamic)
        if self.text_width:
            self.to_text = nn.Linear(d, self.text_width)  # the vector that scores a target's text vector
            self.likeness = nn.Linear(d, 1)  # weight of the inner product of the actor's and the target's text vectors
            zero_init_(self.to_text, self.likeness)

    @property
    def device(self) -> torch.device:
        return self.empty.device

    def encode_history(self, batch: NextTargetPredictionBatch, rows: EmbeddingRows | None = None) -> Tensor:
        """float32[B, N + 1, S]: the states of each history, in one causal pass.

        State 0 is that of the empty history, and state i is the one after the first i columns. A position reads the
        state of what it may see. For a history of two events:

            column              0           1
                             event 1     event 2
            state        0           1           2
                       empty   event 1   events 1 and 2
        """
        rows = self.users.rows() if rows is None else rows
        return self.encode(batch, self.users(batch.actor_history_targets, rows))

    def encode(self, batch: NextTargetPredictionBatch, other_vectors: Tensor) -> Tensor:
        """As `encode_history`, given the embedding of the other user of each event, other_vectors: float32[B, N, D].

        State i is the encoder's output of column i - 1. Where that column is padding, it is the learned vector `empty`,
        like state 0.
        """
        mask, timestamp = batch.actor_history_mask.bool(), batch.actor_history_timestamps
        b = len(mask)
        received = batch.actor_history_received
        event = self.actions(batch.actor_history_actions)
        event = event + self.directions(
            torch.zeros_like(batch.actor_history_actions) if received is None else received.long()
        )
        if timestamp is not None:
            gap = torch.zeros_like(timestamp)
            gap[:, 1:] = (timestamp[:, 1:] - timestamp[:, :-1]) * mask[:, :-1]
            seconds = gap.to(self.empty.dtype)
            event = event + self.gap(torch.stack([seconds.log1p() / 10, (seconds > 0).to(seconds.dtype)], -1))
        history_inputs = torch.cat([self.config.history_scale * other_vectors, event], -1) * mask[..., None]
        states = self.projection(self.encoder(history_inputs, mask, timestamp))
        states = torch.where(mask[..., None], states, self.empty)
        return torch.cat([self.empty.expand(b, 1, -1), states], 1)

    def query(
        self, batch: NextTargetPredictionBatch, positions: Positions, states: Tensor, rows: EmbeddingRows | None = None
    ) -> Query:
        """The query of each position, from the actor, the action and the state that the position reads.

        states: float32[B, N + 1, S], from `encode_history`. With a history of two events, a position with state 0 sees
        none of them, with state 1 the first, with state 2 both.
        """
        rows = self.users.rows() if rows is None else rows
        return self.query_from_actor_vectors(positions, states, self.users(batch.actor_id[positions.row], rows))

    def query_from_actor_vectors(self, positions: Positions, states: Tensor, actor: Tensor) -> Query:
        """As `query`, given the static vectors of the actors, actor: float32[P, D].

        Positions outside `grad_mask` train neither the user embeddings nor the history encoder.
        """
        history = detach_unless(states[positions.row, positions.state], positions.grad_mask)
        actor = detach_unless(actor, positions.grad_mask)
        unknown = self.actions.num_embeddings - 1
        action = self.actions(torch.where(positions.action == HIDDEN, unknown, positions.action))
        if positions.regime is not None:
            action = action + self.regime(positions.regime)
        inputs = [history, actor, action]
        if self.config.latent_cross:
            inputs += [actor * self.cross(history), actor * action]
        text = history.new_zeros(len(history), self.text_width)
        if self.dynamic is not None:
            if positions.features is None:
                activity = history.new_zeros(len(history), self.own_activity.in_features)
            else:
                activity, text = self._split(positions.features)
                activity = self.dynamic.standardise(activity)
            inputs.append(self.own_activity(activity))
        if self.text_width:
            inputs.append(self.own_text(text))
        joined = torch.cat(inputs, -1)
        hidden = self.interaction(joined)
        if self.shortcut is not None:
            hidden = hidden + self.shortcut(joined)
        return Query(
            static=self.to_static(hidden),
            neighbor=self.to_neighbor(hidden) if self.to_neighbor is not None else None,
            dynamic=self._dynamic_query(hidden, text),
            hidden=hidden,
            grad_mask=positions.grad_mask,
        )

    def _dynamic_query(self, hidden: Tensor, text: Tensor) -> Tensor | None:
        """float32[P, T]: the query vectors of the dynamic term, to multiply with the `dynamic_vectors` of targets.

        text: float32[P, E], the text vectors of the actors.
        """
        if self.to_dynamic is None:
            return None
        activity_query = self.to_dynamic(hidden)
        if not self.text_width:
            return activity_query
        return torch.cat([activity_query, self.to_text(hidden) + self.likeness(hidden) * text], -1)

    @property
    def dynamic_width(self) -> int:
        """T, number of columns of `dynamic_vectors`."""
        return self.dynamic.width + self.text_width if self.dynamic is not None else 0

    def _split(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Splits the features of users into activity features, float32[..., F], and text vectors, float32[..., E]."""
        width = features.shape[-1] - self.text_width
        return features[..., :width], features[..., width:]

    def dynamic_vectors(self, targets: Targets) -> Tensor:
        """float32[..., T]: dynamic features and text vectors of targets; 0 where unknown."""
        features, text_vectors = targets.features, targets.text_vectors
        if self.dynamic is None or features is None:
            return self.empty.new_zeros(*targets.users.shape, self.dynamic_width)
        dynamic = self.dynamic(features)
        if not self.text_width:
            return dynamic
        no_text = dynamic.new_zeros(*dynamic.shape[:-1], self.text_width)
        return torch.cat([dynamic, no_text if text_vectors is None else text_vectors.vectors[text_vectors.index]], -1)

    def dynamic_scores(self, query: Tensor, targets: Targets) -> Tensor:
        """float32[P, K]: inner products of queries, float32[P, T], with the `dynamic_vectors` of K users each."""
        assert self.dynamic is not None and targets.features is not None
        activity_query, text_query = query.split([self.dynamic.width, self.text_width], -1)
        score = self.dynamic.scores(activity_query, targets.features)
        return score if targets.text_vectors is None else score + targets.text_vectors.scores(text_query)

    def neighbor(self, recent_neighbors: Tensor, rows: EmbeddingRows) -> Tensor:
        """float32[..., D]: the mean embedding of a target's recent neighbors.

        recent_neighbors: int64[..., m], -1 where there are fewer.
        """
        mask = recent_neighbors >= 0
        weight = mask.to(rows.table.dtype) / mask.sum(-1, keepdim=True).clamp(min=1)
        m = recent_neighbors.shape[-1]
        neighbor_rows = rows.of(recent_neighbors.clamp(min=0)).view(-1, m)
        bags = F.embedding_bag(neighbor_rows, rows.table, mode="sum", per_sample_weights=weight.view(-1, m))
        return bags.view(*recent_neighbors.shape[:-1], bags.shape[1])

    def neighbor_scores(
        self, query: Tensor, recent_neighbors: Tensor, rows: EmbeddingRows, grad_mask: Tensor | None = None
    ) -> Tensor:
        """float32[P, K]: inner products of queries, float32[P, D], with the `neighbor` vectors of K targets each.

        recent_neighbors: int64[P, K, m], as of the cutoff of each query. Each distinct embedding is multiplied with the
        queries once, and the products are gathered: much less work than to sum the embeddings of every pair.
        """
        mask = recent_neighbors >= 0
        distinct, index = used_rows(rows.of(recent_neighbors.clamp(min=0)), len(rows.table))
        products = shared_dot(query, F.embedding(distinct, rows.table), grad_mask)  # (P, distinct)
        scores = products.gather(1, index.flatten(1)).view(index.shape)
        return (scores * mask).sum(-1) / mask.sum(-1).clamp(min=1)

    def static_per_query(self, query: Query, targets: Targets, rows: EmbeddingRows) -> Tensor:
        """float32[P, K]: static scores of the K targets of each query. targets: shape [P, K]."""
        raise NotImplementedError

    def static_shared(self, query: Query, targets: Targets, rows: EmbeddingRows) -> Tensor:
        """float32[P, C]: static scores of C targets shared by all queries. targets: users [C]."""
        raise NotImplementedError

    def score_per_query(
        self, query: Query, targets: Targets, pairs: PairFeatures | None, rows: EmbeddingRows
    ) -> Tensor:
        """float32[P, K]: scores, all terms, of the K targets of each query. targets, pairs: shape [P, K]."""
        score = self._add_time_dependent_terms(self.static_per_query(query, targets, rows), query, targets, rows)
        if self.pointer is not None and pairs is not None:
            pair = pairs.is_history_candidate.nonzero(as_tuple=True)  # few: most candidates are not in the history
            hidden = query.hidden.index_select(0, pair[0])
            pointer_scores = self.pointer(hidden, pairs.features[pair], pairs.edge_types[pair]).to(score.dtype)
            score = score.index_put(pair, pointer_scores, accumulate=True)
        return score

    def score_shared(self, query: Query, targets: Targets, rows: EmbeddingRows) -> Tensor:
        """float32[P, C]: scores of C targets shared by all queries, without the pointer term.

        targets: users [C]; recent_neighbors [P, C, m]; features [P, C, F].
        """
        return self._add_time_dependent_terms(self.static_shared(query, targets, rows), query, targets, rows)

    def _add_time_dependent_terms(self, score: Tensor, query: Query, targets: Targets, rows: EmbeddingRows) -> Tensor:
        """Static scores plus the neighbor and dynamic terms, where model and targets have them."""
        if query.neighbor is not None and targets.recent_neighbors is not None:
            score = score + self.neighbor_scores(query.neighbor, targets.recent_neighbors, rows, query.grad_mask)
        if query.dynamic is None or targets.features is None:
            return score
        return score + self.dynamic_scores(query.dynamic, targets)


def _history_encoder(width: int, config: QueryTowerConfig) -> Transformer | SimpleAttention | MeanPooling:
    if config.history_encoder_type == "transformer":
        return Transformer(width, config.heads, config.layers, config.activation, config.dropout)
    if config.history_encoder_type == "simple_attention":
        return SimpleAttention(width, config.heads, config.dropout)
    return MeanPooling(config.dropout)


def _interaction(width: int, hidden: int, out: int, config: QueryTowerConfig) -> InteractionMoE | MLP:
    if config.interaction_type == "moe":
        return InteractionMoE(width, hidden, out, config.num_experts, config.activation, config.dropout)
    return MLP(width, hidden, out, config.activation, config.dropout)


def zero_init_(*layers: nn.Linear | None) -> None:
    """Sets all weights to 0, so that the layers contribute nothing to the score at first."""
    for layer in layers:
        if layer is not None:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)


def last_own_events(mask: Tensor, received: Tensor | None, max_events: int | None) -> tuple[Tensor, Tensor]:
    """Rows and columns, int64[P] each, of the last `max_events` events (None: all) in which the history's user acted.

    mask, received: bool[B, N]: which columns hold an event, and in which of them the other user acted (None: in none).
    """
    selected = mask.bool() if received is None else mask.bool() & ~received
    if max_events is not None:
        selected = selected & (selected.flip(1).cumsum(1).flip(1) <= max_events)  # counts from the end of the history
    row, column = selected.nonzero(as_tuple=True)
    return row, column


def shared_dot(query: Tensor, users: Tensor, grad_mask: Tensor | None) -> Tensor:
    """float32[P, C]: inner products of query, float32[P, D], and users, float32[C, D].

    `users` gets gradients only from positions where grad_mask, bool[P], is True; None: from all.
    """
    if grad_mask is None:
        return query @ users.T
    return torch.where(grad_mask[:, None], query @ users.T, query @ users.detach().T)


def detach_unless(values: Tensor, mask: Tensor | None) -> Tensor:
    """float32[P, ...]: the same values, detached in the rows where mask, bool[P], is False; None: nowhere."""
    if mask is None:
        return values
    return torch.where(mask.view(-1, *[1] * (values.dim() - 1)), values, values.detach())
