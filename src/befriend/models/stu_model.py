"""The STU model: predicts the next target, the user that an actor contacts next, token by token.

STU stands for social tokenized user id: the semantic ID of a user, L tokens from the L levels of a residual quantizer,
as in TIGER (Rajput et al. 2023). The probability of a user is the product of those of its tokens: p(t0 | query)
p(t1 | query, t0) ... On each level a tower (two small networks) scores the next token by a sum of two parts: the query
scores depend on the query alone, the prefix scores on the tokens before. So the softmax denominators of all prefixes
are one matrix product, and the probabilities of all users cost about as much as inner products with all users. Tokens
that lead to no eligible user (one who may be recommended) have probability 0.

The log-probability is the static term of a user's score: new events do not change a user's tokens. The base class
`QueryTower` makes the query of each position (a place in an actor's history at which a target is predicted), and adds
the other terms.

Shapes: B histories of N events; P positions and their queries; K candidates of one query, C shared by all; L levels of
V tokens; U distinct prefixes; D, width of an embedding; H, width of a static query; S, width of an encoder state.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from befriend.data.regimes import REGIMES
from befriend.models.model_inputs import NextTargetPredictionBatch, Positions, Query, STUBatch
from befriend.models.model_settings import TowerName
from befriend.models.prefix_tree import PrefixTree
from befriend.models.query_tower import QueryTower, QueryTowerConfig, last_own_events
from befriend.models.token_tower import TokenTower
from befriend.models.user_embedding import EmbeddingLookup, StuEmbedding, UserEmbedding

DAILY = REGIMES.index("daily")  # the regime of lists made once a day, from the events before that day
MIN_EXP_SUM = 1e-30  # lower bound of a sum of exponentials, so that its logarithm is finite
MIN_SCORE = -1e30  # lower bound of the maximum of a row: if all scores are -inf, -inf minus it is -inf, not nan


class NextTargetPredictionSTU(QueryTower):
    """Predicts the tokens of the next target, level by level. See the module's docstring.

    Args:
        num_actions, num_codebooks: Number of action labels; L, number of tokens of an STU.
        vocab_size: V, number of tokens of each level, or L numbers, one per level.
        embedding_dim: D, width of a token embedding; the embedding of a user is the mean of those of its tokens.
        hidden_dim: H, width of hidden layers and of the static query vectors that the towers read.
        device: Device of the parameters.
        stus: int64[users, L], the STUs of the users by internal id; None: none, only methods with `STUBatch` work.
        tower_type: linear, mlp, or moe (with `num_experts`): the query head of a tower.
        tied: Score tokens by inner products with their embeddings, instead of by separate output weights.
        sibling_smoothing: Label smoothing: share of a token's weight spread over all tokens possible after its prefix.
        token_dropout: Share of users whose static score a training step replaces by that of a uniform choice, in
            queries of the daily regime.
        categories, numeric: Numbers of labels of the users' categorical attributes; number of numeric inputs.
        temporal_weight: Weight in the loss of a position inside a history; the example itself has weight 1.
        temporal_positions: Number of an actor's latest own events whose targets are predicted; None for all.
        query_tower_options: Fields of `QueryTowerConfig`; history_encoder_type is mean_pooling by default here.

    The temporal parameters are for methods with `STUBatch`. The example is the event after the history, and positions
    inside a history predict the targets of events of the history.
    """

    def __init__(
        self,
        num_actions: int,
        num_codebooks: int = 3,
        vocab_size: int | tuple[int, ...] = 10_000,
        embedding_dim: int = 128,
        hidden_dim: int = 256,
        device: torch.device | str = "cpu",
        stus: Tensor | None = None,
        tower_type: TowerName = "linear",
        tied: bool = False,
        sibling_smoothing: float = 0.0,
        token_dropout: float = 0.0,
        categories: tuple[int, ...] = (),
        numeric: int = 0,
        temporal_weight: float = 1.0,
        temporal_positions: int | None = None,
        **query_tower_options: Any,
    ):
        vocabulary = (vocab_size,) * num_codebooks if isinstance(vocab_size, int) else vocab_size
        embedding = StuEmbedding(vocabulary, embedding_dim, stus)
        users = UserEmbedding(len(embedding.stus), embedding, categories, numeric)
        config = QueryTowerConfig(**{"history_encoder_type": "mean_pooling"} | query_tower_options)
        super().__init__(users, num_actions, hidden_dim, hidden_dim, config)
        self.num_codebooks, self.vocabulary, self.tied = num_codebooks, vocabulary, tied
        self.sibling_smoothing, self.token_dropout = sibling_smoothing, token_dropout
        self.temporal_weight, self.temporal_positions = temporal_weight, temporal_positions
        self.tower_layers = nn.ModuleList(
            TokenTower(
                tower_type,
                hidden_dim,
                level * embedding_dim,
                embedding_dim if tied else num_tokens,
                config.num_experts,
                config.dropout,
            )
            for level, num_tokens in enumerate(vocabulary)
        )
        self._prefix_tree = PrefixTree.of(embedding.stus, vocabulary)
        self.to(device)

    @property
    def tokens(self) -> StuEmbedding:
        """The token embeddings and the STUs of all users."""
        assert isinstance(self.users.id_embedding, StuEmbedding)
        return self.users.id_embedding

    def set_users(self, stus: Tensor, eligible: Tensor | None = None) -> None:
        """Sets the STUs of all users, by internal id. Users who joined after training follow those of the training.

        stus: int64[users, L]; eligible: bool[users], the users whose probabilities sum to 1, None: all users.
        """
        has_embedding = self.users.has_embedding
        self.tokens.stus = stus.to(self.device)
        self.users.has_embedding = F.pad(has_embedding, (0, len(stus) - len(has_embedding)), value=True)
        self._prefix_tree = PrefixTree.of(self.tokens.stus, self.vocabulary, eligible)

    @property
    def prefix_tree(self) -> PrefixTree:
        """The prefix tree of all users, on the device of the model."""
        if self._prefix_tree.user_nodes[0].device != self.device:
            self._prefix_tree = self._prefix_tree.to(self.device)
        return self._prefix_tree

    def predict_token(self, user_action_repr: Tensor, previous_tokens: Tensor, token_idx: int) -> Tensor:
        """float32[..., V]: logits of all V tokens on level `token_idx`, whether or not they lead to a user.

        user_action_repr: float32[..., H], static query vectors; previous_tokens: int64[..., token_idx].
        """
        return self.query_scores(token_idx, user_action_repr) + self._previous_token_scores(token_idx, previous_tokens)

    def _token_tower(self, level: int) -> TokenTower:
        token_tower = self.tower_layers[level]
        assert isinstance(token_tower, TokenTower)
        return token_tower

    def query_scores(self, level: int, query: Tensor, detach_tower: bool = False) -> Tensor:
        """float32[..., V]: the part of the tokens' scores that depends on the query.

        query: float32[..., H]; detach_tower: gradients flow to the query only, not to the tower.
        """
        head = self._token_tower(level).query_head
        if detach_tower:
            out = functional_call(head, {name: value.detach() for name, value in head.named_parameters()}, (query,))
        else:
            out = head(query)
        return self._head_scores(level, out, detach_tower)

    def _previous_token_scores(self, level: int, previous_tokens: Tensor) -> Tensor:
        """float32[..., V]: the part of the tokens' scores that depends on the tokens before; 0 on the first level.

        previous_tokens: int64[..., level].
        """
        head = self._token_tower(level).prefix_head
        if head is None:
            return self.empty.new_zeros(())
        return self._head_scores(level, head(self.tokens.tokens(previous_tokens).flatten(-2)), False)

    def _head_scores(self, level: int, out: Tensor, detach_tower: bool) -> Tensor:
        """float32[..., V]: token scores from the output of a head, float32[..., V], or float32[..., D] if tied.

        At inference they are multiplied by `static_score_weight`.
        """
        if self.tied:
            table = self.tokens.table(level)
            out = out @ (table.detach() if detach_tower else table).T
        return out if self.training else self.static_score_weight * out

    def query(
        self,
        batch: NextTargetPredictionBatch,
        positions: Positions,
        states: Tensor,
        lookup: EmbeddingLookup | None = None,
    ) -> Query:
        """As `QueryTower.query`; in training also draws the users whose static score is dropped (`token_dropout`)."""
        query = super().query(batch, positions, states, lookup)
        if not (self.token_dropout and self.training) or positions.regime is None:
            return query
        # In training, token scores know who is popular today; when the weights grow old, they no longer do. Without the
        # static score, daily queries learn this from recent activity (the dynamic term), which stays up to date. Other
        # queries keep it: streaming and live ones train the tokens, and frozen ones see no recent activity.
        dropped_targets = torch.rand(len(self.tokens.stus), device=self.device) < self.token_dropout
        return replace(query, dropped_targets=dropped_targets & (positions.regime == DAILY)[:, None])

    def static_scores(self, query: Query, users: Tensor, lookup: EmbeddingLookup) -> Tensor:
        static = self.log_probs(query.static, users, query.grad_mask)
        if query.dropped_targets is None:
            return static
        return torch.where(query.dropped_targets[:, users], -math.log(query.dropped_targets.shape[1]), static)

    def log_probs(
        self, query: Tensor, users: Tensor, grad_mask: Tensor | None = None, prefix_tree: PrefixTree | None = None
    ) -> Tensor:
        """float32[P, C] or [P, K]: log-probabilities of users; -inf for users who are not eligible.

        The probabilities of all eligible users sum to 1. query: float32[P, H], static query vectors; users: int64[C]
        for all queries, or int64[P, K]; grad_mask: bool[P], the queries that train tokens and towers, None: all;
        prefix_tree: the tree whose `log_num_users` counts the eligible users, None: that of `set_users`.
        """
        prefix_tree = self.prefix_tree if prefix_tree is None else prefix_tree
        if grad_mask is None:
            return self._log_probs(query, users, prefix_tree, detach_tower=False)
        order = grad_mask.long().argsort(stable=True)  # queries without gradients first
        split = int(len(order) - grad_mask.sum())
        log_probs = [
            self._log_probs(query[part], users if users.dim() == 1 else users[part], prefix_tree, detach_tower)
            for part, detach_tower in ((order[:split], True), (order[split:], False))
        ]
        return torch.cat(log_probs)[order.argsort()]

    def _log_probs(self, query: Tensor, users: Tensor, prefix_tree: PrefixTree, detach_tower: bool) -> Tensor:
        """As `log_probs`. detach_tower: whether tokens and towers are detached, so that no query trains them."""
        total = query.new_zeros(())
        for level in range(self.num_codebooks):
            token = self.tokens.stus[users, level]
            node, index = prefix_tree.parents(level)[users].unique(return_inverse=True)
            query_scores = self.query_scores(level, query, detach_tower)  # (P, V)
            prefix_scores = self.prefix_scores(level, node, prefix_tree)  # (U, V)
            if detach_tower:
                prefix_scores = prefix_scores.detach()
            log_sum = log_sum_products(query_scores, prefix_scores)  # (P, U)
            if users.dim() == 1:
                total = total + query_scores[:, token] + prefix_scores[index, token] - log_sum[:, index]
            else:
                total = total + query_scores.gather(1, token) + prefix_scores[index, token] - log_sum.gather(1, index)
        return total

    def prefix_scores(self, level: int, nodes: Tensor, prefix_tree: PrefixTree) -> Tensor:
        """float32[U, V]: the part of the tokens' scores on a level that depends on the prefix.

        nodes: int64[U], prefixes as nodes of the level above. Includes the log of the number of counted users that each
        token leads to, so that all users are equally probable before training; -inf for tokens that lead to none.
        """
        return (
            self._previous_token_scores(level, prefix_tree.prefixes[level][nodes])
            + prefix_tree.log_num_users[level][nodes]
        )

    def token_losses(
        self, query: Tensor, users: Tensor, prefix_tree: PrefixTree | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """For each level: cross-entropy, float32[P], and whether the best-scored token is correct, bool[P].

        Teacher forcing: the tokens before are the true ones. query: float32[P, H]; users: int64[P], the targets, all of
        them counted in the prefix tree; prefix_tree: as in `log_probs`.
        """
        prefix_tree = self.prefix_tree if prefix_tree is None else prefix_tree
        losses, is_correct = [], []
        for level in range(self.num_codebooks):
            parent = prefix_tree.parents(level)[users]
            scores = self.query_scores(level, query) + self.prefix_scores(level, parent, prefix_tree)
            token = self.tokens.stus[users, level]
            losses.append(self._smoothed_cross_entropy(scores, token))
            is_correct.append(scores.argmax(1) == token)
        return losses, is_correct

    def _smoothed_cross_entropy(self, scores: Tensor, token: Tensor) -> Tensor:
        """float32[P]: cross-entropy with label smoothing over the possible tokens (`sibling_smoothing`).

        scores: float32[P, V], -inf for impossible tokens; token: int64[P], the true ones.
        """
        log_probs = scores.log_softmax(1)
        loss = -log_probs.gather(1, token[:, None]).squeeze(1)
        if not (self.sibling_smoothing and self.training):
            return loss
        is_possible = scores > -torch.inf
        mean = -torch.where(is_possible, log_probs, 0).sum(1) / is_possible.sum(1)
        return (1 - self.sibling_smoothing) * loss + self.sibling_smoothing * mean

    def get_user_action_repr(
        self,
        actor_stu: Tensor,
        history_actions: Tensor,
        history_targets: Tensor,
        history_mask: Tensor,
        example_action: Tensor,
    ) -> Tensor:
        """float32[B, H]: the static query vector of each example, which the towers read. Shapes as in `STUBatch`."""
        unused = example_action.new_zeros(len(example_action), self.num_codebooks)
        return self(STUBatch(actor_stu, history_actions, history_targets, history_mask, example_action, unused))

    def forward(self, batch: STUBatch) -> Tensor:
        """float32[B, H]: the static query vector of each example, which the towers read."""
        states = self._states(batch)
        b, n = batch.actor_history_mask.shape
        row = torch.arange(b, device=states.device)
        return self._query_vectors(batch, states, row, torch.full_like(row, n), batch.example_action)

    def train_forward_with_target(self, batch: STUBatch) -> dict[str, Tensor]:
        """Loss of the examples alone, over all V tokens of each level; the tokens before are the true ones.

        Keys: `loss_i` and `accuracy_i` of each level i; `loss`, the sum of the `loss_i`; `overall_accuracy`, the share
        of targets with all tokens correct.
        """
        return self._token_metrics(self(batch), batch.example_target_stu)

    def temporal_pretraining_loss(self, batch: STUBatch) -> Tensor:
        """Mean loss of the positions inside the histories, each predicted from the events before it; 0 if none."""
        return self._inner_metrics(batch, self._states(batch))["loss"]

    def train_forward(self, batch: STUBatch) -> dict[str, Tensor]:
        """Losses of the examples and of the positions inside the histories, from one pass over each history.

        Keys: those of `train_forward_with_target`, of the examples; `temporal_loss`, of the positions inside; `loss`,
        the weighted mean over all positions: examples have weight 1, positions inside `temporal_weight`.
        """
        states = self._states(batch)
        b, n = batch.actor_history_mask.shape
        row = torch.arange(b, device=states.device)
        query = self._query_vectors(batch, states, row, torch.full_like(row, n), batch.example_action)
        metrics, inner = self._token_metrics(query, batch.example_target_stu), self._inner_metrics(batch, states)
        weight = self.temporal_weight * float(inner["positions"])
        metrics["loss"] = (b * metrics["loss"] + weight * inner["loss"]) / (b + weight)
        return metrics | {"temporal_loss": inner["loss"]}

    def _states(self, batch: STUBatch) -> Tensor:
        """float32[B, N + 1, S]: as `encode_history`, for histories with users as STUs."""
        b, n = batch.actor_history_mask.shape
        unused = batch.example_action.new_zeros(b)
        histories = NextTargetPredictionBatch(
            actor_id=unused,
            actor_history_actions=batch.actor_history_actions,
            actor_history_targets=batch.actor_history_actions,  # not read: `encode` takes vectors of the other users
            actor_history_mask=batch.actor_history_mask.bool(),
            example_action=batch.example_action,
            example_target=unused,
            actor_history_received=batch.actor_history_received,
            actor_history_timestamps=batch.actor_history_timestamps,
        )
        return self.encode(histories, self.tokens.mean(batch.actor_history_targets.view(b, n, self.num_codebooks)))

    def _query_vectors(self, batch: STUBatch, states: Tensor, row: Tensor, state: Tensor, action: Tensor) -> Tensor:
        """float32[P, H]: static query vectors of positions. row, state, action: int64[P], as in `Positions`."""
        actor = self.tokens.mean(batch.actor_stu)[row]
        positions = Positions(row, state, action, target=row)  # a placeholder: the query does not read the target
        return self.query_from_actor_vectors(positions, states, actor).static

    def _inner_metrics(self, batch: STUBatch, states: Tensor) -> dict[str, Tensor]:
        """Mean losses and accuracies of the positions inside the histories; `positions`: how many there are."""
        row, column = last_own_events(batch.actor_history_mask, batch.actor_history_received, self.temporal_positions)
        if not len(row):
            return {"loss": states.new_zeros(()), "positions": states.new_zeros(())}
        query = self._query_vectors(batch, states, row, column, batch.actor_history_actions[row, column])
        b, n = batch.actor_history_mask.shape
        metrics = self._token_metrics(query, batch.actor_history_targets.view(b, n, self.num_codebooks)[row, column])
        return metrics | {"positions": states.new_tensor(len(row))}

    def _token_metrics(self, query: Tensor, stus: Tensor) -> dict[str, Tensor]:
        """Mean losses and accuracies of queries, float32[P, H], and their targets, int64[P, L]."""
        metrics, is_correct = {}, []
        for level in range(self.num_codebooks):
            scores = self.predict_token(query, stus[:, :level], level)
            metrics[f"loss_{level}"] = self._smoothed_cross_entropy(scores, stus[:, level]).mean()
            is_correct.append(scores.argmax(1) == stus[:, level])
            metrics[f"accuracy_{level}"] = is_correct[-1].float().mean()
        loss = torch.stack([metrics[f"loss_{level}"] for level in range(self.num_codebooks)]).sum()
        return metrics | {"loss": loss, "overall_accuracy": torch.stack(is_correct).all(0).float().mean()}


def log_sum_products(query_scores: Tensor, prefix_scores: Tensor) -> Tensor:
    """float32[P, U]: log of the sum over v of exp(query_scores[p, v] + prefix_scores[u, v]), as one matrix product.

    query_scores: float32[P, V]; prefix_scores: float32[U, V], -inf for tokens that lead to no user.

    >>> query_scores = torch.tensor([[1.0, 2.0]]).log()  # one query, two tokens
    >>> prefix_scores = torch.tensor([[3.0, 4.0], [5.0, 0.0]]).log()  # two prefixes; log 0 is -inf
    >>> sums = log_sum_products(query_scores, prefix_scores).exp()  # 1 * 3 + 2 * 4 and 1 * 5 + 2 * 0
    >>> [[round(value, 4) for value in row] for row in sums.tolist()]
    [[11.0, 5.0]]
    """
    query_max = query_scores.detach().amax(1, keepdim=True)
    prefix_max = prefix_scores.detach().amax(1, keepdim=True).clamp(min=MIN_SCORE)
    precise = torch.promote_types(torch.promote_types(query_scores.dtype, prefix_scores.dtype), torch.float32)
    with torch.autocast(query_scores.device.type, enabled=False):
        sums = (query_scores - query_max).to(precise).exp() @ (prefix_scores - prefix_max).to(precise).exp().T
    return sums.clamp(min=MIN_EXP_SUM).log() + query_max + prefix_max.T
