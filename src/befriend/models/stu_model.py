"""The STU model: predicts the next target token by token.

A user is a few tokens, and its probability is the product of theirs: p(t0 | query) p(t1 | query, t0) ... On each level
a tower scores the next token by a sum of two parts, query scores (from the query alone) and prefix scores (from the
tokens before). So the softmax denominators of all prefixes are one matrix product, and the probabilities of all users
cost about as much as inner products with all users. Tokens that lead to no existing user have probability 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from befriend.data.regimes import REGIMES
from befriend.models.interaction import InteractionMoE
from befriend.models.model_inputs import NextTargetPredictionBatch, Positions, Query, Targets
from befriend.models.model_settings import TowerName
from befriend.models.prefix_tree import PrefixTree
from befriend.models.query_tower import QueryTower, QueryTowerConfig, last_own_events
from befriend.models.user_embedding import EmbeddingRows, StuEmbedding, UserEmbedding
from befriend.nn.layers import MLP
from befriend.nn.tensors import TensorBatch

DAILY = REGIMES.index("daily")
MIN_EXP_SUM = 1e-30  # smallest sum of exponentials, so that its logarithm is finite
MIN_SCORE = -1e30  # smallest maximum of a row of scores: if all are -inf, subtracting it still gives -inf, not nan


@dataclass(frozen=True)
class STUBatch(TensorBatch):
    """Histories of B actors as STUs of L tokens, and for each actor the event that came next. None: not known."""

    actor_stu: Tensor
    """int64[B, L]"""
    actor_history_actions: Tensor
    """int64[B, N]"""
    actor_history_targets: Tensor
    """int64[B, L * N], the L tokens of the other user of each event, one event after the other"""
    actor_history_mask: Tensor
    """bool[B, N], True where there is an event; histories are padded at the beginning"""
    example_action: Tensor
    """int64[B]"""
    example_target_stu: Tensor
    """int64[B, L]"""
    actor_history_received: Tensor | None = None
    """bool[B, N], True where the other user acted"""
    actor_history_timestamps: Tensor | None = None
    """int64[B, N], UTC seconds"""


class TokenTower(nn.Module):
    """The two heads that score the tokens of one level: one reads the query, the other the tokens before."""

    def __init__(self, kind: TowerName, hidden_dim: int, prefix_dim: int, out: int, num_experts: int, dropout: float):
        """prefix_dim: width of the concatenated embeddings of the tokens before, 0 on the first level."""
        super().__init__()
        self.query_head = (
            nn.Linear(hidden_dim, out)
            if kind == "linear"
            else MLP(hidden_dim, hidden_dim, out, dropout=dropout)
            if kind == "mlp"
            else InteractionMoE(hidden_dim, hidden_dim, out, num_experts, "gelu", dropout)
        )
        self.prefix_head = nn.Linear(prefix_dim, out, bias=False) if prefix_dim else None
        # Output layers begin at 0, so that all tokens score alike: random preferences would have to be unlearned.
        outs: list[nn.Module] = [module.out for module in self.query_head.modules() if isinstance(module, MLP)]
        last = outs or [self.query_head]
        for layer in last if self.prefix_head is None else [*last, self.prefix_head]:
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)


class NextTargetPredictionSTU(QueryTower):
    """Predicts the tokens of the next target, level by level.

    Args:
        num_actions, num_codebooks: Number of action labels; L, number of tokens of an STU.
        vocab_size: V, number of codes of each level, or L numbers.
        embedding_dim: D, width of a token embedding; a user is the mean of its tokens.
        hidden_dim: H, width of hidden layers and of the query vectors that the towers read.
        device: Device of the parameters.
        stus: int64[N, L], the STUs of the existing users; None: any combination of tokens may be a user.
        tower_type: linear, mlp, or moe (with `num_experts`): the query head of a tower.
        tied: Score tokens by their embeddings, instead of by separate output weights.
        sibling_smoothing: Label smoothing: share of a token's weight spread over all tokens possible after its prefix.
        token_dropout: Share of users to whom a training step gives uniform probability, whatever their tokens, in
            queries of the daily regime.
        categories, numeric: Sizes of the users' categorical attributes, and number of numeric ones.
        temporal_weight: Weight of a position inside a history; that of the example itself is 1.
        temporal_positions: How many positions of a history predict their next target; None for all.
        tower: Fields of `QueryTowerConfig`; history_encoder_type is mean_pooling by default here.
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
        **tower: Any,
    ):
        sizes = (vocab_size,) * num_codebooks if isinstance(vocab_size, int) else vocab_size
        embedding = StuEmbedding(sizes, embedding_dim, stus)
        users = UserEmbedding(len(embedding.stus), embedding, categories, numeric)
        config = QueryTowerConfig(**{"history_encoder_type": "mean_pooling"} | tower)
        super().__init__(users, num_actions, hidden_dim, hidden_dim, config)
        self.num_codebooks, self.vocabulary, self.tied = num_codebooks, sizes, tied
        self.sibling_smoothing, self.token_dropout = sibling_smoothing, token_dropout
        self.temporal_weight, self.temporal_positions = temporal_weight, temporal_positions
        self.tower_layers = nn.ModuleList(
            TokenTower(
                tower_type,
                hidden_dim,
                level * embedding_dim,
                embedding_dim if tied else size,
                config.num_experts,
                config.dropout,
            )
            for level, size in enumerate(sizes)
        )
        self._paths = PrefixTree.of(embedding.stus, sizes)
        self.to(device)

    @property
    def tokens(self) -> StuEmbedding:
        """The token embeddings and the STUs of all users."""
        assert isinstance(self.users.id_embedding, StuEmbedding)
        return self.users.id_embedding

    def set_users(self, stus: Tensor, eligible: Tensor | None = None) -> None:
        """Sets the STUs of all users, int64[N, L]: those of the users trained with, and later users after them.

        eligible: bool[N], the users whose probabilities sum to 1; None: all users.
        """
        has_embedding = self.users.has_embedding
        self.tokens.stus = stus.to(self.device)
        self.users.has_embedding = F.pad(has_embedding, (0, len(stus) - len(has_embedding)), value=True)
        self._paths = PrefixTree.of(self.tokens.stus, self.vocabulary, eligible)

    @property
    def paths(self) -> PrefixTree:
        """The prefix tree of all users, on the device of the model."""
        if self._paths.nodes[0].device != self.device:
            self._paths = self._paths.to(self.device)
        return self._paths

    def predict_token(self, user_action_repr: Tensor, previous_tokens: Tensor, token_idx: int) -> Tensor:
        """float32[..., V]: logits of the token on level `token_idx`.

        user_action_repr: float32[..., H]; previous_tokens: int64[..., token_idx].
        """
        return self.query_scores(token_idx, user_action_repr) + self._prefix_scores(token_idx, previous_tokens)

    def _tower(self, level: int) -> TokenTower:
        tower = self.tower_layers[level]
        assert isinstance(tower, TokenTower)
        return tower

    def query_scores(self, level: int, query: Tensor, fixed: bool = False) -> Tensor:
        """float32[..., V]: the part of the tokens' scores that depends on the query, float32[..., H].

        fixed: gradients reach the query only, not the tower.
        """
        head = self._tower(level).query_head
        if fixed:
            out = functional_call(head, {name: value.detach() for name, value in head.named_parameters()}, (query,))
        else:
            out = head(query)
        return self._scores(level, out, fixed)

    def _prefix_scores(self, level: int, previous_tokens: Tensor) -> Tensor:
        """float32[..., V]: the part of the tokens' scores that depends on the tokens before; 0 on the first level."""
        head = self._tower(level).prefix_head
        if head is None:
            return self.empty.new_zeros(())
        return self._scores(level, head(self.tokens.tokens(previous_tokens).flatten(-2)), False)

    def _scores(self, level: int, out: Tensor, fixed: bool) -> Tensor:
        """Scores from the output of a head: tied to the token embeddings if so set, weighted at inference."""
        if self.tied:
            table = self.tokens.table(level)
            out = out @ (table.detach() if fixed else table).T
        return out if self.training else self.static_score_weight * out

    def query(
        self, batch: NextTargetPredictionBatch, positions: Positions, states: Tensor, rows: EmbeddingRows | None = None
    ) -> Query:
        query = super().query(batch, positions, states, rows)
        if not (self.token_dropout and self.training) or positions.regime is None:
            return query
        # Streaming and live queries train the tokens, and frozen ones depend on them. In daily queries, tokens would
        # learn who is popular on that day. The dynamic term says so as well, and is still right when weights are old.
        dropped_targets = torch.rand(len(self.tokens.stus), device=self.device) < self.token_dropout
        return replace(query, dropped_targets=dropped_targets & (positions.regime == DAILY)[:, None])

    def static_per_query(self, query: Query, targets: Targets, rows: EmbeddingRows) -> Tensor:
        static = self.log_probs(query.static, targets.users, query.grad_mask)
        if query.dropped_targets is None:
            return static
        is_dropped = query.dropped_targets.gather(1, targets.users.expand(len(static), -1))
        return torch.where(is_dropped, -math.log(query.dropped_targets.shape[1]), static)

    def static_shared(self, query: Query, targets: Targets, rows: EmbeddingRows) -> Tensor:
        return self.static_per_query(query, targets, rows)

    def log_probs(
        self, query: Tensor, users: Tensor, grad_mask: Tensor | None = None, paths: PrefixTree | None = None
    ) -> Tensor:
        """float32[P, C] or [P, K]: log-probabilities of users; the probabilities of all counted users sum to 1.

        query: float32[P, H], static query vectors; users: int64[C] for all rows, or int64[P, K]; grad_mask: bool[P],
        whether a row trains tokens and towers, None: all do; paths: prefix tree whose `sizes` count the eligible users,
        None: that of `set_users`. -inf for users not counted.
        """
        paths = self.paths if paths is None else paths
        if grad_mask is None:
            return self._log_probs(query, users, paths, fixed=False)
        order = grad_mask.long().argsort(stable=True)  # rows without gradients first
        split = int(len(order) - grad_mask.sum())
        log_probs = [
            self._log_probs(query[rows], users if users.dim() == 1 else users[rows], paths, fixed)
            for rows, fixed in ((order[:split], True), (order[split:], False))
        ]
        return torch.cat(log_probs)[order.argsort()]

    def _log_probs(self, query: Tensor, users: Tensor, paths: PrefixTree, fixed: bool) -> Tensor:
        """As `log_probs`; fixed: no row trains tokens and towers."""
        total = query.new_zeros(())
        for level in range(self.num_codebooks):
            token = self.tokens.stus[users, level]
            node, index = paths.parents(level)[users].unique(return_inverse=True)
            query_scores = self.query_scores(level, query, fixed)  # (P, V)
            prefix_scores = self.prefix_scores(level, node, paths)  # (U, V)
            if fixed:
                prefix_scores = prefix_scores.detach()
            log_sum = log_sum_products(query_scores, prefix_scores)  # (P, U)
            if users.dim() == 1:
                total = total + query_scores[:, token] + prefix_scores[index, token] - log_sum[:, index]
            else:
                total = total + query_scores.gather(1, token) + prefix_scores[index, token] - log_sum.gather(1, index)
        return total

    def prefix_scores(self, level: int, nodes: Tensor, paths: PrefixTree) -> Tensor:
        """float32[U, V]: the part of the tokens' scores that depends on a prefix. nodes: int64[U], on the level above.

        Includes the log of the number of counted users beneath each token, so that before training all users are
        equally probable; -inf for tokens that lead to no counted user.
        """
        return self._prefix_scores(level, paths.prefixes[level][nodes]) + paths.sizes[level][nodes]

    def token_losses(
        self, query: Tensor, users: Tensor, paths: PrefixTree | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Cross-entropy, float32[P], and whether the best token is right, bool[P], for each level.

        Teacher forcing: each level is given the true tokens before. query: float32[P, H]; users: int64[P], all of them
        counted in the prefix tree; paths: as of `log_probs`.
        """
        paths = self.paths if paths is None else paths
        losses, right = [], []
        for level in range(self.num_codebooks):
            parent = paths.parents(level)[users]
            scores = self.query_scores(level, query) + self.prefix_scores(level, parent, paths)
            token = self.tokens.stus[users, level]
            losses.append(self._smoothed(scores, token))
            right.append(scores.argmax(1) == token)
        return losses, right

    def _smoothed(self, scores: Tensor, token: Tensor) -> Tensor:
        """float32[P]: cross-entropy, smoothed over possible tokens. scores: float32[P, V], -inf for impossible ones."""
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
        """float32[B, H]: query vectors that the towers read. Shapes as in `STUBatch`."""
        unused = example_action.new_zeros(len(example_action), self.num_codebooks)
        return self(STUBatch(actor_stu, history_actions, history_targets, history_mask, example_action, unused))

    def forward(self, batch: STUBatch) -> Tensor:
        """float32[B, H]: the query vector of each example, which the towers read."""
        states = self._states(batch)
        b, n = batch.actor_history_mask.shape
        row = torch.arange(b, device=states.device)
        return self._query_vectors(batch, states, row, torch.full_like(row, n), batch.example_action)

    def train_forward_with_target(self, batch: STUBatch) -> dict[str, Tensor]:
        """Loss of the examples alone, over the whole vocabulary, with teacher forcing.

        Keys: `loss`, the sum of the levels' `loss_i`; `accuracy_i`; `overall_accuracy`, where all tokens are right.
        """
        return self._metrics(self(batch), batch.example_target_stu)

    def temporal_pretraining_loss(self, batch: STUBatch) -> Tensor:
        """Mean loss of the positions inside the histories: predicts each event's target from the events before it."""
        return self._inside(batch, self._states(batch))["loss"]

    def train_forward(self, batch: STUBatch) -> dict[str, Tensor]:
        """Losses of the examples and of the positions inside the histories, from one pass over each history.

        Keys: those of `train_forward_with_target`, for the examples, and `temporal_loss`, for the positions inside.
        `loss` is the weighted mean over all positions, in which those inside weigh `temporal_weight` each.
        """
        states = self._states(batch)
        b, n = batch.actor_history_mask.shape
        row = torch.arange(b, device=states.device)
        query = self._query_vectors(batch, states, row, torch.full_like(row, n), batch.example_action)
        metrics, temporal = self._metrics(query, batch.example_target_stu), self._inside(batch, states)
        weight = self.temporal_weight * float(temporal["positions"])
        metrics["loss"] = (b * metrics["loss"] + weight * temporal["loss"]) / (b + weight)
        return metrics | {"temporal_loss": temporal["loss"]}

    def _states(self, batch: STUBatch) -> Tensor:
        """float32[B, N + 1, S]: as `encode_history`, of histories as STUs."""
        b, n = batch.actor_history_mask.shape
        unused = batch.example_action.new_zeros(b)
        histories = NextTargetPredictionBatch(
            actor_id=unused,
            actor_history_actions=batch.actor_history_actions,
            actor_history_targets=batch.actor_history_actions,
            actor_history_mask=batch.actor_history_mask.bool(),
            example_action=batch.example_action,
            example_target=unused,
            actor_history_received=batch.actor_history_received,
            actor_history_timestamps=batch.actor_history_timestamps,
        )
        return self.encode(histories, self.tokens.mean(batch.actor_history_targets.view(b, n, self.num_codebooks)))

    def _query_vectors(self, batch: STUBatch, states: Tensor, row: Tensor, state: Tensor, action: Tensor) -> Tensor:
        """float32[P, H]: static query vectors. row, state, action: int64[P], as in `Positions`."""
        actor = self.tokens.mean(batch.actor_stu)[row]
        return self.query_from_actor_vectors(Positions(row, state, action, row), states, actor).static

    def _inside(self, batch: STUBatch, states: Tensor) -> dict[str, Tensor]:
        """Mean losses and accuracies of the positions inside the histories, and their number, `positions`."""
        row, column = last_own_events(batch.actor_history_mask, batch.actor_history_received, self.temporal_positions)
        if not len(row):
            return {"loss": states.new_zeros(()), "positions": states.new_zeros(())}
        query = self._query_vectors(batch, states, row, column, batch.actor_history_actions[row, column])
        b, n = batch.actor_history_mask.shape
        metrics = self._metrics(query, batch.actor_history_targets.view(b, n, self.num_codebooks)[row, column])
        return metrics | {"positions": states.new_tensor(len(row))}

    def _metrics(self, query: Tensor, stus: Tensor) -> dict[str, Tensor]:
        """Mean losses and accuracies of queries, float32[P, H], and their targets, int64[P, L]."""
        metrics, right = {}, []
        for level in range(self.num_codebooks):
            scores = self.predict_token(query, stus[:, :level], level)
            metrics[f"loss_{level}"] = self._smoothed(scores, stus[:, level]).mean()
            right.append(scores.argmax(1) == stus[:, level])
            metrics[f"accuracy_{level}"] = right[-1].float().mean()
        loss = torch.stack([metrics[f"loss_{level}"] for level in range(self.num_codebooks)]).sum()
        return metrics | {"loss": loss, "overall_accuracy": torch.stack(right).all(0).float().mean()}


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
