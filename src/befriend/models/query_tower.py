"""The query tower, the base class of both models: makes a query from actor, action and history, and scores candidates.

A query predicts the target of an actor's next event, as of a *cutoff*, the UTC second before which events are visible.
This module sees only tensors: the code that builds a batch selects the visible events. A candidate, the true target or
another user, is scored as a target. The score is the sum of up to five terms (`model_inputs.Query` has a vector for
each):

term      what it scores                                                                  changes with new events
static    the target itself: its embedding (two-tower model), or its tokens (STU model)   no
neighbor  the other users of the target's latest events, its `recent_neighbors`           yes
dynamic   how recently and how often the target was active, and its texts                 yes
pointer   past events between actor and target, if the target is in the actor's history   yes
two-hop   common contacts of actor and target, if the target is not in the history        yes

The STU model predicts the target's STU (social tokenized user id: the semantic ID of a user, as in TIGER). A *position*
is a place in a history at which a target is predicted. There, the history encoder has a *state*: its output after the
visible events. A *regime* says how recent the visible events are, and is an input of the query.

Shapes: B histories of N events; P positions; K candidates of each position, or C candidates shared by all; m recent
neighbors; D, width of a user embedding; S, of a state; F, of activity features, with texts also of statistics of the
posts; E, of a text vector; T, of the dynamic term.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from befriend.data.regimes import REGIMES, UNKNOWN_ACTION
from befriend.models.history_encoders import MeanPooling, SimpleAttention, Transformer
from befriend.models.interaction import InteractionMoE
from befriend.models.model_inputs import CandidateInputs, CandidatePairs, NextTargetPredictionBatch, Positions, Query
from befriend.models.model_settings import HistoryEncoderName
from befriend.models.score_terms import DynamicTargetFeatures, PairTerm
from befriend.models.user_embedding import EmbeddingLookup, UserEmbedding
from befriend.nn.layers import MLP, ActivationName
from befriend.nn.tensors import used_rows


@dataclass(frozen=True)
class QueryTowerConfig:
    """Architecture of a query tower, apart from its users, its actions and the widths of its layers."""

    recent_neighbors: bool = False
    """whether the score has a neighbor term"""
    dropout: float = 0.1
    """share of hidden units dropped in training"""
    history_encoder_type: HistoryEncoderName = "transformer"
    """transformer, simple_attention or mean_pooling"""
    interaction_type: Literal["mlp", "moe"] = "mlp"
    """the layer that combines history, actor and action: mlp, or moe, a mixture of `num_experts` expert MLPs"""
    num_experts: int = 4
    """number of experts of a mixture (moe)"""
    activation: ActivationName = "gelu"
    """activation of the feed-forward layers"""
    layers: int = 2
    """number of layers of the transformer"""
    heads: int = 4
    """number of attention heads"""
    history_projection: bool = True
    """project the encoder's output, of width 2 D, to width D"""
    shortcut: bool = False
    """add a linear layer in parallel to the interaction (wide and deep: Cheng et al. 2016)"""
    history_scale: float = 1.0
    """factor on user embeddings in a history; above 1, small embeddings are learned faster"""
    latent_cross: bool = True
    """add the elementwise products actor x history and actor x action to the inputs of the interaction (latent cross:
    Beutel et al. 2018)"""
    num_user_features: int = 0
    """F + E, number of features of a user as of a cutoff: activity features, then the text vector; 0: no dynamic
    term"""
    num_pair_features: int = 0
    """number of features of the past events between two users; 0: no pointer term"""
    num_two_hop_features: int = 0
    """number of features of the common contacts of two users; 0: no two-hop term"""
    text_width: int = 0
    """E, width of a user's text vector, which is the last columns of its features; 0: no texts"""
    id_dropout: float = 0.0
    """share of users without their own embedding in a training step"""
    static_score_weight: float = 1.0
    """weight of the static term at inference (STU model: of token scores, before their softmax); 1 in training.
    Embeddings are up to date in training and old afterwards, so a weight below 1 lets the other terms decide more"""


class QueryTower(nn.Module):
    """Makes the query for the next target from an actor, its history and its next action, and scores candidates."""

    def __init__(
        self, users: UserEmbedding, num_actions: int, hidden_dim: int, static_dim: int, config: QueryTowerConfig
    ):
        """users: static vectors of users, of width D; num_actions: number of action labels; hidden_dim: width of the
        interaction's hidden layers; static_dim: width of the static query vector.

        Do not reorder the layers: each draws its initial weights from torch's global generator, so another order gives
        other weights for the same seed.
        """
        super().__init__()
        d, self.config, self.users = users.id_embedding.embedding_dim, config, users
        self.id_dropout, self.static_score_weight = config.id_dropout, config.static_score_weight
        self.text_width = config.text_width
        self.actions = nn.Embedding(num_actions + 1, d)  # the last row: unknown action
        self.directions = nn.Embedding(2, d)  # 0: the user acted, 1: the user was acted on
        self.gap = nn.Linear(2, d)  # reads the time since the previous event
        self.encoder = _history_encoder(2 * d, config)
        self.projection = (
            MLP(2 * d, d, d, config.activation, config.dropout) if config.history_projection else nn.Identity()
        )
        state_width = d if config.history_projection else 2 * d
        self.empty = nn.Parameter(torch.zeros(state_width))  # the state of an empty history
        self.cross = nn.Linear(state_width, d) if config.latent_cross and state_width != d else nn.Identity()
        self.regime = nn.Embedding(len(REGIMES), d)
        num_activity_features = config.num_user_features - config.text_width
        self.dynamic = DynamicTargetFeatures(num_activity_features) if num_activity_features else None
        # Inputs of the interaction: state, actor, action; then, if any, the two products, the actor's activity and
        # text.
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
        # Edge types of a pair's last event: 0 for no event, then one for each action, the unknown one included, and
        # direction.
        num_edge_types = 1 + 2 * (num_actions + 1)
        self.pointer = PairTerm(config.num_pair_features, d, num_edge_types) if config.num_pair_features else None
        self.two_hop = PairTerm(config.num_two_hop_features, d) if config.num_two_hop_features else None
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

    def encode_history(self, batch: NextTargetPredictionBatch, lookup: EmbeddingLookup | None = None) -> Tensor:
        """float32[B, N + 1, S]: the states of each history, all from one causal pass of the encoder.

        State 0 is that of the empty history, and state i is the state after the first i columns. A position reads the
        state after its last visible event. lookup: the embeddings of users in this training step; None:
        `users.lookup()` without dropout. For a history of two events:

            column              0           1
                             event 1     event 2
            state        0           1           2
                       empty   event 1   events 1 and 2
        """
        lookup = self.users.lookup() if lookup is None else lookup
        return self.encode(batch, self.users(batch.actor_history_targets, lookup))

    def encode(self, batch: NextTargetPredictionBatch, other_vectors: Tensor) -> Tensor:
        """As `encode_history`. other_vectors: float32[B, N, D], the static vector of the other user of each event.

        State i is the encoder's projected output in column i - 1. Where that column is padding, the state is the
        learned vector `empty`, like state 0.
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
        self,
        batch: NextTargetPredictionBatch,
        positions: Positions,
        states: Tensor,
        lookup: EmbeddingLookup | None = None,
    ) -> Query:
        """The query of each position, from the actor, the action and the state that the position reads.

        states: float32[B, N + 1, S], from `encode_history`; lookup: as there. With a history of two events, a position
        that reads state 0 sees no event, with state 1 the first, with state 2 both.
        """
        lookup = self.users.lookup() if lookup is None else lookup
        return self.query_from_actor_vectors(positions, states, self.users(batch.actor_id[positions.row], lookup))

    def query_from_actor_vectors(self, positions: Positions, states: Tensor, actor: Tensor) -> Query:
        """As `query`. actor: float32[P, D], the static vectors of the actors.

        Positions outside `grad_mask` train neither user embeddings nor history encoder.
        """
        history = detach_unless(states[positions.row, positions.state], positions.grad_mask)
        actor = detach_unless(actor, positions.grad_mask)
        unknown = self.actions.num_embeddings - 1
        action = self.actions(torch.where(positions.action == UNKNOWN_ACTION, unknown, positions.action))
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
                activity, text = self._split_features(positions.features)
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
        """float32[P, T]: the query vectors of the dynamic term, None for a model without it.

        Scores are inner products with `dynamic_vectors`. hidden: float32[P, D], output of the interaction; text:
        float32[P, E], the text vectors of the actors.
        """
        if self.to_dynamic is None:
            return None
        activity_query = self.to_dynamic(hidden)
        if not self.text_width:
            return activity_query
        return torch.cat([activity_query, self.to_text(hidden) + self.likeness(hidden) * text], -1)

    @property
    def dynamic_width(self) -> int:
        """T, the width of `dynamic_vectors`; 0 without a dynamic term."""
        return self.dynamic.width + self.text_width if self.dynamic is not None else 0

    def _split_features(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Splits float32[..., F + E] into activity features, float32[..., F], and text vectors, float32[..., E]."""
        width = features.shape[-1] - self.text_width
        return features[..., :width], features[..., width:]

    def dynamic_vectors(self, targets: CandidateInputs) -> Tensor:
        """float32[..., T]: the vectors of targets for the dynamic term, from activity and texts; 0 where unknown."""
        features, text_vectors = targets.features, targets.text_vectors
        if self.dynamic is None or features is None:
            return self.empty.new_zeros(*targets.users.shape, self.dynamic_width)
        dynamic = self.dynamic(features)
        if not self.text_width:
            return dynamic
        no_text = dynamic.new_zeros(*dynamic.shape[:-1], self.text_width)
        return torch.cat([dynamic, no_text if text_vectors is None else text_vectors.vectors[text_vectors.index]], -1)

    def dynamic_scores(self, query: Tensor, targets: CandidateInputs) -> Tensor:
        """float32[P, K]: dynamic scores, the inner products of queries with the `dynamic_vectors` of K targets each.

        query: float32[P, T].
        """
        assert self.dynamic is not None and targets.features is not None
        activity_query, text_query = query.split([self.dynamic.width, self.text_width], -1)
        score = self.dynamic.scores(activity_query, targets.features)
        return score if targets.text_vectors is None else score + targets.text_vectors.scores(text_query)

    def neighbor_vectors(self, recent_neighbors: Tensor, lookup: EmbeddingLookup) -> Tensor:
        """float32[..., D]: the mean embedding of the recent neighbors of each target; 0 without any.

        recent_neighbors: int64[..., m], the other users of the target's latest events, -1 where there are fewer.
        """
        mask = recent_neighbors >= 0
        weight = mask.to(lookup.table.dtype) / mask.sum(-1, keepdim=True).clamp(min=1)
        m = recent_neighbors.shape[-1]
        neighbor_rows = lookup.row_index(recent_neighbors.clamp(min=0)).view(-1, m)
        bags = F.embedding_bag(neighbor_rows, lookup.table, mode="sum", per_sample_weights=weight.view(-1, m))
        return bags.view(*recent_neighbors.shape[:-1], bags.shape[1])

    def neighbor_scores(
        self, query: Tensor, recent_neighbors: Tensor, lookup: EmbeddingLookup, grad_mask: Tensor | None = None
    ) -> Tensor:
        """float32[P, K]: neighbor scores, the inner products of queries with the `neighbor_vectors` of K targets each.

        query: float32[P, D]; recent_neighbors: int64[P, K, m], as of the cutoff of each query; grad_mask: bool[P], as
        in `Positions`. Multiplies each distinct embedding with the queries once, then gathers the products. That is
        much less work than to sum the embeddings for each query and target.
        """
        mask = recent_neighbors >= 0
        distinct, index = used_rows(lookup.row_index(recent_neighbors.clamp(min=0)), len(lookup.table))
        products = shared_dot(query, F.embedding(distinct, lookup.table), grad_mask)  # (P, distinct)
        scores = products.gather(1, index.flatten(1)).view(index.shape)
        return (scores * mask).sum(-1) / mask.sum(-1).clamp(min=1)

    def static_scores(self, query: Query, users: Tensor, lookup: EmbeddingLookup) -> Tensor:
        """float32[P, C]: static scores of users, int64[C], for each query."""
        raise NotImplementedError

    def score_candidates(
        self, query: Query, targets: CandidateInputs, pairs: CandidatePairs | None, lookup: EmbeddingLookup
    ) -> Tensor:
        """float32[P, K]: scores with all terms that model and targets have, of the K targets of each query.

        targets: shape [P, K]; pairs: which of them have had events with the actor of their query, or common contacts.
        The static term is computed once for each distinct user and query, then gathered: the queries of a batch share
        many of their targets.
        """
        distinct, index = used_rows(targets.users, int(targets.users.max()) + 1)
        score = self.static_scores(query, distinct, lookup).gather(1, index)
        if query.neighbor is not None and targets.recent_neighbors is not None:
            score = score + self.neighbor_scores(query.neighbor, targets.recent_neighbors, lookup, query.grad_mask)
        if query.dynamic is not None and targets.features is not None:
            score = score + self.dynamic_scores(query.dynamic, targets)
        if pairs is not None:
            for term, pair in ((self.pointer, pairs.history), (self.two_hop, pairs.two_hop)):
                if term is not None:
                    pair_scores = term(query.hidden, pair.features, pair.edge_types, pair.row).to(score.dtype)
                    score = score.index_put((pair.row, pair.column), pair_scores, accumulate=True)
        return score


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
    """Sets weights and biases to 0, so that the layers add nothing to the score before training."""
    for layer in layers:
        if layer is not None:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)


def last_own_events(mask: Tensor, received: Tensor | None, max_events: int | None) -> tuple[Tensor, Tensor]:
    """Rows and columns, int64[P] each, of the last `max_events` events (None: all) in which the history's user acted.

    mask: bool[B, N], the columns with an event; received: bool[B, N], those in which the other user acted, None: none.
    """
    is_own_event = mask.bool() if received is None else mask.bool() & ~received
    if max_events is not None:
        num_from_column = is_own_event.flip(1).cumsum(1).flip(1)  # own events from this column to the end
        is_own_event = is_own_event & (num_from_column <= max_events)
    row, column = is_own_event.nonzero(as_tuple=True)
    return row, column


def shared_dot(query: Tensor, users: Tensor, grad_mask: Tensor | None) -> Tensor:
    """float32[P, C]: inner products of queries and users. query: float32[P, D]; users: float32[C, D].

    grad_mask: bool[P], the queries from which gradients flow to `users`; None: from all.
    """
    if grad_mask is None:
        return query @ users.T
    return torch.where(grad_mask[:, None], query @ users.T, query @ users.detach().T)


def detach_unless(values: Tensor, mask: Tensor | None) -> Tensor:
    """The same values; gradients flow only through the rows where `mask` is True.

    values: float32[P, ...]; mask: bool[P], None: gradients flow through all rows.
    """
    if mask is None:
        return values
    return torch.where(mask.view(-1, *[1] * (values.dim() - 1)), values, values.detach())
