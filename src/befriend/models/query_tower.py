"""The query tower: from actor, action, history and moment to what is asked for.

Both models have one, and with it the terms of the score that change with time. Knows tensors only: what was visible
when is the business of who makes the batch.
"""

from __future__ import annotations

from typing import Literal, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from befriend.evaluation.regimes import HIDDEN, REGIMES
from befriend.models.batch import NextTargetPredictionBatch, Pairs, Positions, Query, Targets, distinct
from befriend.models.history import MeanPooling, SimpleAttention, Transformer
from befriend.models.interaction import InteractionMoE
from befriend.models.layers import MLP
from befriend.models.settings import ActivationName, HistoryEncoderName
from befriend.models.terms import Pointer, TargetMoment
from befriend.models.users import Rows, UserEmbedding


class TowerArguments(TypedDict, total=False):
    """Arguments of a QueryTower that its subclasses pass on."""

    partners: bool
    dropout: float
    history_encoder_type: HistoryEncoderName
    interaction_type: Literal["mlp", "moe"]
    num_experts: int
    activation: ActivationName
    layers: int
    heads: int
    history_projection: bool
    shortcut: bool
    history_scale: float
    latent_cross: bool
    user_features: int
    pair_features: int
    text_width: int
    id_dropout: float
    user_weight: float


class QueryTower(nn.Module):
    """What somebody asks for, given who it is, what happened so far, and what is about to happen.

    Args:
        users: What a user is, of width D.
        num_actions: Labels of actions.
        hidden_dim: Width of hidden layers.
        static_dim: Width of what is asked of what a target is.
        partners: Whether it is also asked with whom a target was last in contact.
        dropout: Share of hidden units left out in training.
        history_encoder_type: `transformer`, `simple_attention` or `mean_pooling`.
        interaction_type: `mlp` or `moe`, with `num_experts`.
        history_projection: Project the encoder's output of width 2 D to D.
        shortcut: Add a linear layer beside the interaction (wide and deep: Cheng et al. 2016).
        history_scale: Factor of the users' embeddings as parts of a history; > 1 lets small ones be learned faster.
        latent_cross: Add actor x history and actor x action to the query's parts (Beutel et al. 2018).
        user_features: Width of the activity features of users; 0 turns the freshness term off.
        pair_features: Width of the features of pairs; 0 turns the pointer term off.
        text_width: Width of the vectors of what users wrote, the last columns of an actor's activity; 0 for none.
        id_dropout: Share of users who are nobody in particular in a training step.
        user_weight: How much it counts who a target is, once training is over. In training that was learned up to a
            moment ago, later it gets old; less than 1 brings all users nearer to each other.
    """

    def __init__(
        self,
        users: UserEmbedding,
        num_actions: int,
        hidden_dim: int,
        static_dim: int,
        partners: bool = False,
        dropout: float = 0.1,
        history_encoder_type: HistoryEncoderName = "transformer",
        interaction_type: Literal["mlp", "moe"] = "mlp",
        num_experts: int = 4,
        activation: ActivationName = "gelu",
        layers: int = 2,
        heads: int = 4,
        history_projection: bool = True,
        shortcut: bool = False,
        history_scale: float = 1.0,
        latent_cross: bool = True,
        user_features: int = 0,
        pair_features: int = 0,
        text_width: int = 0,
        id_dropout: float = 0.0,
        user_weight: float = 1.0,
    ):
        super().__init__()
        d = users.own.embedding_dim
        wide = 2 * d
        self.latent_cross, self.history_scale = latent_cross, history_scale
        self.id_dropout, self.user_weight = id_dropout, user_weight
        self.users = users
        self.actions = nn.Embedding(num_actions + 1, d)  # the last row: an action that is not known
        self.directions = nn.Embedding(2, d)
        self.gap = nn.Linear(2, d)
        self.encoder = (
            Transformer(wide, heads, layers, activation, dropout)
            if history_encoder_type == "transformer"
            else SimpleAttention(wide, heads, dropout)
            if history_encoder_type == "simple_attention"
            else MeanPooling(dropout)
        )
        state = d if history_projection else wide
        self.projection = MLP(wide, d, d, activation, dropout) if history_projection else nn.Identity()
        self.empty = nn.Parameter(torch.zeros(state))
        self.cross = nn.Linear(state, d) if latent_cross and state != d else nn.Identity()
        self.refresh = nn.Embedding(len(REGIMES), d)
        parts = state + 2 * d + (2 * d if latent_cross else 0)
        self.text_width = text_width
        user_features -= text_width
        self.moment = TargetMoment(user_features) if user_features else None
        if self.moment is not None:
            self.own_activity = nn.Linear(user_features, d)
            parts += d
        if text_width:
            self.own_text = nn.Linear(text_width, d, bias=False)
            parts += d
        self.interaction = (
            InteractionMoE(parts, hidden_dim, d, num_experts, activation, dropout)
            if interaction_type == "moe"
            else MLP(parts, hidden_dim, d, activation, dropout)
        )
        self.shortcut = nn.Linear(parts, d) if shortcut else None
        self.to_static = nn.Linear(d, static_dim)
        self.to_social = nn.Linear(d, d) if partners else None
        self.to_moment = nn.Linear(d, self.moment.width) if self.moment is not None else None
        self.pointer = Pointer(pair_features, 3 + 2 * num_actions, d) if pair_features else None
        for table in (self.actions, self.directions, self.refresh):
            nn.init.normal_(table.weight, std=d**-0.5)
        if self.to_moment is not None:
            nn.init.zeros_(self.to_moment.weight)
            nn.init.zeros_(self.to_moment.bias)
        if text_width:
            self.to_text = nn.Linear(d, text_width)  # what is asked of a target's texts,
            self.likeness = nn.Linear(d, 1)  # and how much they should be like one's own
            for layer in (self.to_text, self.likeness):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    @property
    def device(self) -> torch.device:
        return self.empty.device

    def encode_history(self, batch: NextTargetPredictionBatch, rows: Rows | None = None) -> Tensor:
        """float32[B, N + 1, S]: the state after the first 0 to N columns of each history, all in one causal pass."""
        rows = self.users.rows() if rows is None else rows
        return self.encode(batch, self.users(batch.actor_history_targets, rows))

    def encode(self, batch: NextTargetPredictionBatch, others: Tensor) -> Tensor:
        """As `encode_history`, of histories with these users on the other side: float32[B, N, D]."""
        mask, timestamp = batch.actor_history_mask.bool(), batch.actor_history_timestamps
        b = len(mask)
        received = batch.actor_history_received
        happened = self.actions(batch.actor_history_actions)
        happened = happened + self.directions(
            torch.zeros_like(batch.actor_history_actions) if received is None else received.long()
        )
        if timestamp is not None:
            gap = torch.zeros_like(timestamp)
            gap[:, 1:] = (timestamp[:, 1:] - timestamp[:, :-1]) * mask[:, :-1]
            seconds = gap.to(self.empty.dtype)
            happened = happened + self.gap(torch.stack([seconds.log1p() / 10, (seconds > 0).to(seconds.dtype)], -1))
        tokens = torch.cat([self.history_scale * others, happened], -1) * mask[..., None]
        after = self.projection(self.encoder(tokens, mask, timestamp))
        after = torch.where(mask[..., None], after, self.empty)
        return torch.cat([self.empty.expand(b, 1, -1), after], 1)

    def query(
        self, batch: NextTargetPredictionBatch, positions: Positions, states: Tensor, rows: Rows | None = None
    ) -> Query:
        """What is asked for at each position. states: float32[B, N + 1, S], from `encode_history`."""
        rows = self.users.rows() if rows is None else rows
        return self.ask(positions, states, self.users(batch.actor_id[positions.row], rows))

    def ask(self, positions: Positions, states: Tensor, actor: Tensor) -> Query:
        """As `query`, of these actors: float32[P, D]."""
        history = taught(states[positions.row, positions.state], positions.learns)
        actor = taught(actor, positions.learns)
        unknown = self.actions.num_embeddings - 1
        action = self.actions(torch.where(positions.action == HIDDEN, unknown, positions.action))
        if positions.refresh is not None:
            action = action + self.refresh(positions.refresh)
        parts = [history, actor, action]
        if self.latent_cross:
            parts += [actor * self.cross(history), actor * action]
        written = history.new_zeros(len(history), self.text_width)
        if self.moment is not None:
            if positions.features is None:
                told = history.new_zeros(len(history), self.own_activity.in_features)
            else:
                told, written = self._split(positions.features)
                told = self.moment.standardise(told)
            parts.append(self.own_activity(told))
        if self.text_width:
            parts.append(self.own_text(written))
        known = torch.cat(parts, -1)
        hidden = self.interaction(known)
        if self.shortcut is not None:
            hidden = hidden + self.shortcut(known)
        return Query(
            static=self.to_static(hidden),
            social=self.to_social(hidden) if self.to_social is not None else None,
            moment=self._asked_of_moment(hidden, written),
            hidden=hidden,
            learns=positions.learns,
        )

    def _asked_of_moment(self, hidden: Tensor, written: Tensor) -> Tensor | None:
        """float32[P, T]: against what a target has been doing lately, and against what it wrote."""
        if self.to_moment is None:
            return None
        asked = self.to_moment(hidden)
        if not self.text_width:
            return asked
        return torch.cat([asked, self.to_text(hidden) + self.likeness(hidden) * written], -1)

    @property
    def moment_width(self) -> int:
        """T, columns of `moments`."""
        return self.moment.width + self.text_width if self.moment is not None else 0

    def _split(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """What somebody did, float32[..., F], and what they wrote, float32[..., E]."""
        known = features.shape[-1] - self.text_width
        return features[..., :known], features[..., known:]

    def moments(self, targets: Targets) -> Tensor:
        """float32[..., T]: what the users have been doing lately, and wrote; 0 where it is not known."""
        told, written = targets.features, targets.written
        if self.moment is None or told is None:
            return self.empty.new_zeros(*targets.users.shape, self.moment_width)
        moment = self.moment(told)
        if not self.text_width:
            return moment
        nothing = moment.new_zeros(*moment.shape[:-1], self.text_width)
        return torch.cat([moment, nothing if written is None else written.vectors[written.place]], -1)

    def moment_scores(self, query: Tensor, targets: Targets) -> Tensor:
        """float32[P, K]: inner products of queries, float32[P, T], with the `moments` of K users each."""
        assert self.moment is not None and targets.features is not None
        of_moment, of_text = query.split([self.moment.width, self.text_width], -1)
        score = self.moment.scores(of_moment, targets.features)
        return score if targets.written is None else score + targets.written.scores(of_text)

    def social(self, partners: Tensor, rows: Rows) -> Tensor:
        """float32[..., D]: the mean embedding of the users with whom a target was last in contact.

        partners: int64[..., m], -1 for nobody.
        """
        mask = partners >= 0
        weight = mask.to(rows.table.dtype) / mask.sum(-1, keepdim=True).clamp(min=1)
        m = partners.shape[-1]
        known = rows.of(partners.clamp(min=0)).view(-1, m)
        bags = F.embedding_bag(known, rows.table, mode="sum", per_sample_weights=weight.view(-1, m))
        return bags.view(*partners.shape[:-1], bags.shape[1])

    def social_scores(self, query: Tensor, partners: Tensor, rows: Rows, learns: Tensor | None = None) -> Tensor:
        """float32[P, K]: inner products of queries, float32[P, D], with what `social` says of partners, int64[P, K, m].

        Every target's partners are those at the moment of its own query. Distinct embeddings are multiplied once, and
        the products gathered: that is much less work than to add up the embeddings of each pair.
        """
        mask = partners >= 0
        known, place = distinct(rows.of(partners.clamp(min=0)), len(rows.table))
        product = products(query, F.embedding(known, rows.table), learns)  # (P, distinct)
        found = product.gather(1, place.flatten(1)).view(place.shape)
        return (found * mask).sum(-1) / mask.sum(-1).clamp(min=1)

    def static_each(self, query: Query, targets: Targets, rows: Rows) -> Tensor:
        """float32[P, K]: scores of K users for each position, by what does not change. targets: shape [P, K]."""
        raise NotImplementedError

    def static_columns(self, query: Query, targets: Targets, rows: Rows) -> Tensor:
        """float32[P, C]: scores of C users for all positions, by what does not change. targets: users [C]."""
        raise NotImplementedError

    def score_each(self, query: Query, targets: Targets, pairs: Pairs | None, rows: Rows) -> Tensor:
        """float32[P, K]: scores of K users for each position. targets, pairs: shape [P, K]."""
        score = self._with_changes(self.static_each(query, targets, rows), query, targets, rows)
        if self.pointer is not None and pairs is not None:
            met = pairs.met.nonzero(as_tuple=True)  # few: most candidates are nobody's contacts
            asked = query.hidden.index_select(0, met[0])
            pointed = self.pointer(asked, pairs.features[met], pairs.kinds[met]).to(score.dtype)
            score = score.index_put(met, pointed, accumulate=True)
        return score

    def score_columns(self, query: Query, targets: Targets, rows: Rows) -> Tensor:
        """float32[P, C]: scores of C users for all positions. users [C]; partners [P, C, m]; features [P, C, F]."""
        return self._with_changes(self.static_columns(query, targets, rows), query, targets, rows)

    def _with_changes(self, score: Tensor, query: Query, targets: Targets, rows: Rows) -> Tensor:
        if query.social is not None and targets.partners is not None:
            score = score + self.social_scores(query.social, targets.partners, rows, query.learns)
        if query.moment is None or targets.features is None:
            return score
        return score + self.moment_scores(query.moment, targets)


def inside(mask: Tensor, received: Tensor | None, most: int | None) -> tuple[Tensor, Tensor]:
    """Rows and columns of the last `most` events (None: all) that each actor did. mask, received: bool[B, N]."""
    asked = mask.bool() if received is None else mask.bool() & ~received
    if most is not None:
        asked = asked & (asked.flip(1).cumsum(1).flip(1) <= most)  # how many from here on
    row, column = asked.nonzero(as_tuple=True)
    return row, column


def products(query: Tensor, users: Tensor, learns: Tensor | None) -> Tensor:
    """float32[P, C]: inner products; `users`, float32[C, D], have the gradient of the positions that learn."""
    if learns is None:
        return query @ users.T
    return torch.where(learns[:, None], query @ users.T, query @ users.detach().T)


def taught(values: Tensor, learns: Tensor | None) -> Tensor:
    """float32[P, ...]: the values, whose gradient is that of the positions that learn."""
    if learns is None:
        return values
    return torch.where(learns.view(-1, *[1] * (values.dim() - 1)), values, values.detach())
