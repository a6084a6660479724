"""The two-tower model over user ids: a query from actor, action and history; a vector for every target.

The score of a target is the inner product of the two, plus a term for people of one's own history. Knows tensors
only: what was visible when is the business of who makes the batch.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from befriend.evaluation.regimes import HIDDEN, REGIMES
from befriend.models.batch import NextTargetPredictionBatch, Pairs, Positions, Query, Targets
from befriend.models.history import SimpleAttention, Transformer
from befriend.models.interaction import InteractionMoE
from befriend.models.layers import MLP
from befriend.models.settings import ActivationName, NegativesName
from befriend.models.terms import Pointer, TargetMoment
from befriend.training.losses import SoftmaxLoss, softmax_loss
from befriend.training.negatives import draw

NEUTRAL = 0.01  # deviation of fresh embeddings of users: most have few events, and are to start out as nobody special


class UserEmbedding(nn.Module):
    """What a user is: an embedding of its own where it was seen in training, and its attributes."""

    def __init__(self, num_users: int, width: int, categories: tuple[int, ...], numeric: int, own: bool):
        super().__init__()
        self.own = nn.Embedding(num_users + 1 if own else 1, width)  # the last row: somebody without one
        self.register_buffer("known", torch.full((num_users,), own))
        self.categories = nn.ModuleList(nn.Embedding(size, width) for size in categories)
        self.numeric = nn.Linear(numeric, width, bias=False) if numeric else None
        self.register_buffer("categorical", torch.zeros(1, len(categories), dtype=torch.long), persistent=False)
        self.register_buffer("numbers", torch.zeros(1, numeric), persistent=False)
        self.known: Tensor
        self.categorical: Tensor
        self.numbers: Tensor
        for table in (self.own, *self.categories):
            nn.init.normal_(table.weight, std=NEUTRAL)

    def rows(self, dropout: float = 0.0) -> Tensor:
        """int64[num_users + 1]: the row of each user; some are left out in training. One draw serves a whole step."""
        nobody = self.own.num_embeddings - 1
        known = self.known
        if dropout and self.training:
            known = known & (torch.rand(len(known), device=known.device) >= dropout)
        rows = torch.where(known, torch.arange(len(known), device=known.device), nobody)
        return torch.cat([rows, rows.new_tensor([nobody])])

    def describe(self, categorical: Tensor, numeric: Tensor) -> None:
        """Sets the attributes of N users: int64[N, C], 0 for unknown; float32[N, M], standardised."""
        self.categorical = F.pad(categorical, (0, 0, 0, 1)).to(self.known.device)  # the last row: nothing known
        self.numbers = F.pad(numeric, (0, 0, 0, 1)).to(self.known.device)

    def forward(self, users: Tensor, rows: Tensor) -> Tensor:
        """users: int64[...], anybody beyond the table joined later; rows: from `rows`. Returns float32[..., width]."""
        out = self.own(rows[users.clamp(max=len(rows) - 1)])
        if self.categories or self.numeric is not None:
            described = users.clamp(max=len(self.categorical) - 1)
            for k, table in enumerate(self.categories):
                out = out + table(self.categorical[described, k])
            if self.numeric is not None:
                out = out + self.numeric(self.numbers[described])
        return out


class NextTargetPredictionUserIDs(nn.Module):
    """Two towers over user ids, histories, attributes and moments.

    Args:
        num_users: Rows of the embedding table; users with a larger number are represented without one.
        num_actions: Labels of actions.
        embedding_dim: D, width of a user's embedding.
        hidden_dim: Width of hidden layers.
        dropout: Share of hidden units left out in training.
        device: Where the parameters lie.
        history_encoder_type: `transformer` or `simple_attention`.
        interaction_type: `mlp` or `moe`, with `num_experts`.
        history_projection: Project the encoder's output of width 2 D to D.
        shortcut: Add a linear layer beside the interaction (wide and deep: Cheng et al. 2016).
        history_scale: Factor of the users' embeddings as parts of a history; > 1 lets small ones be learned faster.
        latent_cross: Add actor x history and actor x action to the query's parts (Beutel et al. 2018).
        id_embedding, id_dropout: Whether users have an embedding of their own, and how often it is left out.
        partners: Whether targets are described by their latest contacts too.
        user_features: Width of the activity features of users; 0 turns the freshness term off.
        pair_features: Width of the features of pairs; 0 turns the pointer term off.
        categories, numeric: Sizes of the users' categorical attributes, and number of numeric ones.
        temporal_weight: Weight of a position inside a history beside the example's own.
        temporal_positions: How many positions of a history predict their next target; None for all.
        negatives, log_q: Kind of negatives, and whether they are corrected for how often they are drawn.
    """

    def __init__(
        self,
        num_users: int,
        num_actions: int,
        embedding_dim: int = 128,
        hidden_dim: int = 256,
        dropout: float = 0.1,
        device: torch.device | str = "cpu",
        history_encoder_type: Literal["transformer", "simple_attention"] = "transformer",
        interaction_type: Literal["mlp", "moe"] = "mlp",
        num_experts: int = 4,
        activation: ActivationName = "gelu",
        layers: int = 2,
        heads: int = 4,
        history_projection: bool = True,
        shortcut: bool = False,
        history_scale: float = 1.0,
        latent_cross: bool = True,
        id_embedding: bool = True,
        id_dropout: float = 0.0,
        partners: bool = False,
        user_features: int = 0,
        pair_features: int = 0,
        categories: tuple[int, ...] = (),
        numeric: int = 0,
        temporal_weight: float = 1.0,
        temporal_positions: int | None = None,
        negatives: NegativesName = "mixed",
        log_q: bool = True,
    ):
        super().__init__()
        d, wide = embedding_dim, 2 * embedding_dim
        self.num_users, self.id_dropout = num_users, id_dropout
        self.latent_cross, self.history_scale = latent_cross, history_scale
        self.temporal_weight, self.temporal_positions = temporal_weight, temporal_positions
        self.negatives, self.log_q = negatives, log_q

        self.users = UserEmbedding(num_users, d, categories, numeric, id_embedding)
        self.actions = nn.Embedding(num_actions + 1, d)  # the last row: an action that is not known
        self.directions = nn.Embedding(2, d)
        self.gap = nn.Linear(2, d)
        self.encoder = (
            Transformer(wide, heads, layers, activation, dropout)
            if history_encoder_type == "transformer"
            else SimpleAttention(wide, heads, dropout)
        )
        state = d if history_projection else wide
        self.projection = MLP(wide, d, d, activation, dropout) if history_projection else nn.Identity()
        self.empty = nn.Parameter(torch.zeros(state))
        self.cross = nn.Linear(state, d) if latent_cross and state != d else nn.Identity()
        self.refresh = nn.Embedding(len(REGIMES), d)
        parts = state + 2 * d + (2 * d if latent_cross else 0)
        self.moment = TargetMoment(user_features) if user_features else None
        if self.moment is not None:
            self.own_activity = nn.Linear(user_features, d)
            parts += d
        self.interaction = (
            InteractionMoE(parts, hidden_dim, d, num_experts, activation, dropout)
            if interaction_type == "moe"
            else MLP(parts, hidden_dim, d, activation, dropout)
        )
        self.shortcut = nn.Linear(parts, d) if shortcut else None
        self.to_static = nn.Linear(d, d)
        self.to_social = nn.Linear(d, d) if partners else None
        self.to_moment = nn.Linear(d, self.moment.width) if self.moment is not None else None
        self.pointer = Pointer(pair_features, 3 + 2 * num_actions, d) if pair_features else None
        for table in (self.actions, self.directions, self.refresh):
            nn.init.normal_(table.weight, std=d**-0.5)
        if self.to_moment is not None:
            nn.init.zeros_(self.to_moment.weight)
            nn.init.zeros_(self.to_moment.bias)
        self.register_buffer("popularity", torch.full((num_users,), 1 / num_users))
        self.popularity: Tensor
        self.to(device)

    @property
    def device(self) -> torch.device:
        return self.empty.device

    def encode_history(self, batch: NextTargetPredictionBatch, rows: Tensor | None = None) -> Tensor:
        """float32[B, N + 1, S]: the state after the first 0 to N columns of each history, all in one causal pass."""
        rows = self.users.rows() if rows is None else rows
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
            happened = happened + self.gap(torch.stack([gap.float().log1p() / 10, (gap > 0).float()], -1))
        other = self.history_scale * self.users(batch.actor_history_targets, rows)
        tokens = torch.cat([other, happened], -1) * mask[..., None]
        after = self.projection(self.encoder(tokens, mask, timestamp))
        after = torch.where(mask[..., None], after, self.empty)
        return torch.cat([self.empty.expand(b, 1, -1), after], 1)

    def query(
        self, batch: NextTargetPredictionBatch, positions: Positions, states: Tensor, rows: Tensor | None = None
    ) -> Query:
        """What is asked for at each position. states: float32[B, N + 1, S], from `encode_history`."""
        rows = self.users.rows() if rows is None else rows
        history = _taught(states[positions.row, positions.state], positions.learns)
        actor = _taught(self.users(batch.actor_id[positions.row], rows), positions.learns)
        unknown = self.actions.num_embeddings - 1
        action = self.actions(torch.where(positions.action == HIDDEN, unknown, positions.action))
        if positions.refresh is not None:
            action = action + self.refresh(positions.refresh)
        parts = [history, actor, action]
        if self.latent_cross:
            parts += [actor * self.cross(history), actor * action]
        if self.moment is not None:
            width = self.own_activity.in_features
            own = positions.features
            own = history.new_zeros(len(history), width) if own is None else self.moment.standardise(own)
            parts.append(self.own_activity(own))
        known = torch.cat(parts, -1)
        hidden = self.interaction(known)
        if self.shortcut is not None:
            hidden = hidden + self.shortcut(known)
        return Query(
            static=self.to_static(hidden),
            social=self.to_social(hidden) if self.to_social is not None else None,
            moment=self.to_moment(hidden) if self.to_moment is not None else None,
            hidden=hidden,
            learns=positions.learns,
        )

    def social(self, partners: Tensor, rows: Tensor) -> Tensor:
        """float32[..., D]: the mean embedding of the users with whom a target was last in contact.

        partners: int64[..., m], -1 for nobody.
        """
        mask = partners >= 0
        table = self.users.own.weight
        weight = mask.to(table.dtype) / mask.sum(-1, keepdim=True).clamp(min=1)
        m = partners.shape[-1]
        known = rows[partners.clamp(0, len(rows) - 1)].view(-1, m)
        bags = F.embedding_bag(known, table, mode="sum", per_sample_weights=weight.view(-1, m))
        return bags.view(*partners.shape[:-1], -1)

    def target_vectors(self, targets: Targets, rows: Tensor | None = None) -> Tensor:
        """float32[..., W]: vectors of the users as targets; what is not known of them is 0."""
        rows = self.users.rows() if rows is None else rows
        parts = [self.users(targets.users, rows)]
        shape = targets.users.shape
        if self.to_social is not None:
            none = parts[0].new_zeros(*shape, self.to_social.out_features)
            parts.append(none if targets.partners is None else self.social(targets.partners, rows))
        if self.moment is not None:
            parts.append(self.moments(targets))
        return torch.cat(parts, -1)

    def moments(self, targets: Targets) -> Tensor:
        """float32[..., T]: what the users have been doing lately; 0 where it is not known."""
        assert self.moment is not None
        if targets.features is None:
            return self.empty.new_zeros(*targets.users.shape, self.moment.width)
        return self.moment(targets.features)

    def social_scores(self, query: Tensor, partners: Tensor, rows: Tensor, learns: Tensor | None = None) -> Tensor:
        """float32[P, K]: inner products of queries, float32[P, D], with what `social` says of partners, int64[P, K, m].

        Every target's partners are those at the moment of its own query. Distinct embeddings are multiplied once, and
        the products gathered: that is much less work than to add up the embeddings of each pair.
        """
        mask = partners >= 0
        known = rows[partners.clamp(0, len(rows) - 1)]
        used = torch.zeros(self.users.own.num_embeddings, dtype=torch.bool, device=known.device)
        used[known] = True
        product = _products(query, self.users.own(used.nonzero().squeeze(1)), learns)  # (P, distinct)
        found = product.gather(1, (used.cumsum(0) - 1)[known].flatten(1)).view(known.shape)
        return (found * mask).sum(-1) / mask.sum(-1).clamp(min=1)

    def score_each(self, query: Query, targets: Targets, pairs: Pairs | None, rows: Tensor) -> Tensor:
        """float32[P, K]: scores of K users for each position. targets, pairs: shape [P, K]."""
        users = _taught(self.users(targets.users, rows), query.learns)
        static = torch.einsum("pd,pkd->pk", query.static, users)
        score = self._add_terms(static, query, targets, rows)
        if self.pointer is not None and pairs is not None:
            score = score + self.pointer(query.hidden[:, None], pairs.features, pairs.kinds) * pairs.met
        return score

    def score_columns(self, query: Query, targets: Targets, rows: Tensor) -> Tensor:
        """float32[P, C]: scores of C users for all positions. users [C]; partners [P, C, m]; features [P, C, F]."""
        static = _products(query.static, self.users(targets.users, rows), query.learns)
        return self._add_terms(static, query, targets, rows)

    def _add_terms(self, score: Tensor, query: Query, targets: Targets, rows: Tensor) -> Tensor:
        if query.social is not None and targets.partners is not None:
            score = score + self.social_scores(query.social, targets.partners, rows, query.learns)
        if query.moment is not None and targets.features is not None:
            score = score + torch.einsum("pd,pkd->pk", query.moment, self.moments(targets))
        return score

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
        asked = batch.actor_history_mask.bool()
        if batch.actor_history_received is not None:
            asked = asked & ~batch.actor_history_received
        if self.temporal_positions is not None:
            later = asked.flip(1).cumsum(1).flip(1)  # how many from here on
            asked = asked & (later <= self.temporal_positions)
        row, column = asked.nonzero(as_tuple=True)
        return Positions(
            row, column, batch.actor_history_actions[row, column], batch.actor_history_targets[row, column]
        )

    def _softmax(
        self, batch: NextTargetPredictionBatch, positions: Positions, states: Tensor, rows: Tensor, num_rand_negs: int
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


def _taught(values: Tensor, learns: Tensor | None) -> Tensor:
    """float32[P, ...]: the values, whose gradient is that of the positions that learn."""
    if learns is None:
        return values
    return torch.where(learns.view(-1, *[1] * (values.dim() - 1)), values, values.detach())


def _products(query: Tensor, users: Tensor, learns: Tensor | None) -> Tensor:
    """float32[P, C]: inner products; `users`, float32[C, D], have the gradient of the positions that learn."""
    if learns is None:
        return query @ users.T
    return torch.where(learns[:, None], query @ users.T, query @ users.detach().T)


def _figures(result: SoftmaxLoss, loss: Tensor) -> dict[str, Tensor]:
    return {"loss": loss, "accuracy": (result.rank == 1).float().mean(), "mean_rank": result.rank.mean()}
