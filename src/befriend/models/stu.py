"""The STU model: who comes next, token by token.

A user is a few tokens, and the probability of a user is the product of theirs: p(t0 | query) p(t1 | query, t0) ...
A tower a level scores the next token by two parts that are added, what the query wants and what may follow the tokens
so far. So the sum of probabilities behind each prefix is one matrix product, and everyone's probability costs about
as much as an inner product with everyone would. Given the users that there are, tokens that lead to nobody have none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from befriend.evaluation.regimes import REGIMES
from befriend.models.batch import Batch, NextTargetPredictionBatch, Positions, Query, Targets
from befriend.models.interaction import InteractionMoE
from befriend.models.layers import MLP
from befriend.models.paths import Paths
from befriend.models.query_tower import QueryTower, TowerArguments, inside
from befriend.models.settings import TowerName
from befriend.models.users import Rows, StuEmbedding, UserEmbedding

DAILY = REGIMES.index("daily")
FLOOR = 1e-30  # of a sum of probabilities, so that its logarithm is finite
LEAST = -1e30  # for the largest score of what leads to nobody, so that no difference of two is none


@dataclass(frozen=True)
class STUBatch(Batch):
    """Histories of B actors as STUs of L tokens, and for each the event that came next. What is None is not known."""

    actor_stu: Tensor
    """int64[B, L]"""
    actor_history_actions: Tensor
    """int64[B, N]"""
    actor_history_targets: Tensor
    """int64[B, L * N], the L tokens of each user on the other side, one user after the other"""
    actor_history_mask: Tensor
    """bool[B, N], True where there is an event; valid entries at the end"""
    example_action: Tensor
    """int64[B]"""
    example_target_stu: Tensor
    """int64[B, L]"""
    actor_history_received: Tensor | None = None
    """bool[B, N], True where the other side acted"""
    actor_history_timestamps: Tensor | None = None
    """int64[B, N], UTC seconds"""


class TokenTower(nn.Module):
    """Scores of the tokens of one level: what the query wants, plus what may follow the tokens so far."""

    def __init__(self, kind: TowerName, hidden_dim: int, before: int, out: int, num_experts: int, dropout: float):
        """before: width of the embeddings of the tokens so far, 0 on the first level."""
        super().__init__()
        self.wanted = (
            nn.Linear(hidden_dim, out)
            if kind == "linear"
            else MLP(hidden_dim, hidden_dim, out, dropout=dropout)
            if kind == "mlp"
            else InteractionMoE(hidden_dim, hidden_dim, out, num_experts, "gelu", dropout)
        )
        self.following = nn.Linear(before, out, bias=False) if before else None
        # At first all tokens are alike: what a random beginning prefers would have to be unlearned.
        outs: list[nn.Module] = [part.out for part in self.wanted.modules() if isinstance(part, MLP)]
        last = outs or [self.wanted]
        for layer in last if self.following is None else [*last, self.following]:
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)


class NextTargetPredictionSTU(QueryTower):
    """Predicts the tokens of the next target one after the other.

    Args:
        num_actions: Labels of actions.
        num_codebooks: L, tokens of an STU.
        vocab_size: Codes of each level, or L sizes.
        embedding_dim: D, width of a token's embedding; a user is the mean of its tokens.
        hidden_dim: H, width of hidden layers and of what the towers read.
        device: Where the parameters lie.
        stus: int64[N, L], the users that there are; without them every combination of tokens is somebody.
        tower_type: `linear`, `mlp` or `moe` with `num_experts`: how a tower reads the query.
        tied: Score tokens by their embeddings, instead of by rows of their own.
        sibling_smoothing: Share of a target's weight that goes to the other tokens that might stand in its place.
        token_dropout: Share of users who are as probable as anybody where a training step asks for nightly lists,
            whatever their tokens.
        categories, numeric: Sizes of the users' categorical attributes, and number of numeric ones.
        temporal_weight: Weight of a position inside a history beside the example's own.
        temporal_positions: How many positions of a history predict their next target; None for all.
        tower: Of the query tower: dropout, history_encoder_type (here mean_pooling by default) and so on.
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
        **tower: Unpack[TowerArguments],
    ):
        sizes = (vocab_size,) * num_codebooks if isinstance(vocab_size, int) else vocab_size
        own = StuEmbedding(sizes, embedding_dim, stus)
        users = UserEmbedding(len(own.stus), own, categories, numeric)
        tower.setdefault("history_encoder_type", "mean_pooling")
        super().__init__(users, num_actions, hidden_dim, hidden_dim, **tower)
        self.num_codebooks, self.vocabulary, self.tied = num_codebooks, sizes, tied
        self.sibling_smoothing, self.token_dropout = sibling_smoothing, token_dropout
        self.temporal_weight, self.temporal_positions = temporal_weight, temporal_positions
        experts, dropout = tower.get("num_experts", 4), tower.get("dropout", 0.1)
        self.tower_layers = nn.ModuleList(
            TokenTower(tower_type, hidden_dim, level * embedding_dim, embedding_dim if tied else size, experts, dropout)
            for level, size in enumerate(sizes)
        )
        self._paths = Paths.of(own.stus, sizes)
        self.to(device)

    @property
    def tokens(self) -> StuEmbedding:
        assert isinstance(self.users.own, StuEmbedding)
        return self.users.own

    def with_users(self, stus: Tensor, there: Tensor | None = None) -> None:
        """Tells the model of the users that there are, int64[N, L]: those it was trained with, and more behind them.

        there: bool[N], those among whom probabilities are shared; None: everybody.
        """
        known = self.users.known
        self.tokens.stus = stus.to(self.device)
        self.users.known = F.pad(known, (0, len(stus) - len(known)), value=True)
        self._paths = Paths.of(self.tokens.stus, self.vocabulary, there)

    @property
    def paths(self) -> Paths:
        """Of the users that there are."""
        if self._paths.nodes[0].device != self.device:
            self._paths = self._paths.to(self.device)
        return self._paths

    def predict_token(self, user_action_repr: Tensor, previous_tokens: Tensor, token_idx: int) -> Tensor:
        """float32[..., V]: scores of the token at place `token_idx`, to be put through a softmax.

        user_action_repr: float32[..., H]; previous_tokens: int64[..., token_idx].
        """
        return self.wanted(token_idx, user_action_repr) + self._following(token_idx, previous_tokens)

    def _tower(self, level: int) -> TokenTower:
        tower = self.tower_layers[level]
        assert isinstance(tower, TokenTower)
        return tower

    def wanted(self, level: int, asked: Tensor, fixed: bool = False) -> Tensor:
        """float32[..., V]; fixed: the tower learns nothing from it, only who asks."""
        wanted = self._tower(level).wanted
        if fixed:
            out = functional_call(wanted, {name: value.detach() for name, value in wanted.named_parameters()}, (asked,))
        else:
            out = wanted(asked)
        return self._scores(level, out, fixed)

    def _following(self, level: int, previous_tokens: Tensor) -> Tensor:
        """float32[..., V], 0 on the first level."""
        following = self._tower(level).following
        if following is None:
            return self.empty.new_zeros(())
        return self._scores(level, following(self.tokens.tokens(previous_tokens).flatten(-2)), False)

    def _scores(self, level: int, out: Tensor, fixed: bool) -> Tensor:
        if self.tied:
            table = self.tokens.table(level)
            out = out @ (table.detach() if fixed else table).T
        return out if self.training else self.user_weight * out

    def query(
        self, batch: NextTargetPredictionBatch, positions: Positions, states: Tensor, rows: Rows | None = None
    ) -> Query:
        query = super().query(batch, positions, states, rows)
        if not (self.token_dropout and self.training) or positions.refresh is None:
            return query
        # Live asks teach what tokens mean, and lists for weeks have little else to go by. In nightly ones tokens would
        # stand in for the attention of the day, which is there still when what was learned of users has become old.
        plain = torch.rand(len(self.tokens.stus), device=self.device) < self.token_dropout
        return replace(query, plain=plain & (positions.refresh == DAILY)[:, None])

    def static_each(self, query: Query, targets: Targets, rows: Rows) -> Tensor:
        static = self.log_probs(query.static, targets.users, query.learns)
        if query.plain is None:
            return static
        plain = query.plain.gather(1, targets.users.expand(len(static), -1))
        return torch.where(plain, -math.log(query.plain.shape[1]), static)

    def static_columns(self, query: Query, targets: Targets, rows: Rows) -> Tensor:
        return self.static_each(query, targets, rows)

    def log_probs(
        self, asked: Tensor, users: Tensor, learns: Tensor | None = None, paths: Paths | None = None
    ) -> Tensor:
        """float32[P, C] or [P, K]: log-probabilities of users among all that there are, who sum to one.

        asked: float32[P, H], from a query; users: int64[C] for all rows, or int64[P, K]; learns: bool[P], whether what
        tokens are is learned from a row, None: from all; paths: of those who are there, None: of everybody whom the
        model was told of. -inf for users who are not there.
        """
        paths = self.paths if paths is None else paths
        if learns is None:
            return self._log_probs(asked, users, paths, fixed=False)
        order = learns.long().argsort(stable=True)  # those that teach nothing first
        split = int(len(order) - learns.sum())
        found = [
            self._log_probs(asked[rows], users if users.dim() == 1 else users[rows], paths, fixed)
            for rows, fixed in ((order[:split], True), (order[split:], False))
        ]
        return torch.cat(found)[order.argsort()]

    def _log_probs(self, asked: Tensor, users: Tensor, paths: Paths, fixed: bool) -> Tensor:
        total = asked.new_zeros(())
        for level in range(self.num_codebooks):
            token = self.tokens.stus[users, level]
            node, place = paths.parents(level)[users].unique(return_inverse=True)
            wanted = self.wanted(level, asked, fixed)  # (P, V)
            following = self.following(level, node, paths)  # (U, V)
            if fixed:
                following = following.detach()
            behind = log_sums(wanted, following)  # (P, U)
            if users.dim() == 1:
                total = total + wanted[:, token] + following[place, token] - behind[:, place]
            else:
                total = total + wanted.gather(1, token) + following[place, token] - behind.gather(1, place)
        return total

    def following(self, level: int, nodes: Tensor, paths: Paths) -> Tensor:
        """float32[U, V]: what may follow some nodes of the level above, int64[U]; -inf for what leads to nobody.

        What nothing is known of is as probable as it has users: before anything was learned, all users are alike.
        """
        return self._following(level, paths.prefixes[level][nodes]) + paths.sizes[level][nodes]

    def token_losses(
        self, asked: Tensor, users: Tensor, paths: Paths | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Cross-entropy, float32[P], and whether the best token is right, bool[P], for each level.

        Teacher forcing: each level is given the true tokens before. asked: float32[P, H]; users: int64[P], who are
        there; paths: as of `log_probs`.
        """
        paths = self.paths if paths is None else paths
        losses, right = [], []
        for level in range(self.num_codebooks):
            above = paths.parents(level)[users]
            scores = self.wanted(level, asked) + self.following(level, above, paths)
            token = self.tokens.stus[users, level]
            losses.append(self._smoothed(scores, token))
            right.append(scores.argmax(1) == token)
        return losses, right

    def _smoothed(self, scores: Tensor, token: Tensor) -> Tensor:
        """float32[P]: cross-entropy with part of the weight on siblings. scores: float32[P, V], -inf for nobody."""
        log = scores.log_softmax(1)
        loss = -log.gather(1, token[:, None]).squeeze(1)
        if not (self.sibling_smoothing and self.training):
            return loss
        real = scores > -torch.inf
        mean = -torch.where(real, log, 0).sum(1) / real.sum(1)
        return (1 - self.sibling_smoothing) * loss + self.sibling_smoothing * mean

    def get_user_action_repr(
        self,
        actor_stu: Tensor,
        history_actions: Tensor,
        history_targets: Tensor,
        history_mask: Tensor,
        example_action: Tensor,
    ) -> Tensor:
        """float32[B, H]: what the towers read. Shapes as in `STUBatch`."""
        example = example_action.new_zeros(len(example_action), self.num_codebooks)
        return self(STUBatch(actor_stu, history_actions, history_targets, history_mask, example_action, example))

    def forward(self, batch: STUBatch) -> Tensor:
        """float32[B, H]: what the towers read of each example."""
        states = self._states(batch)
        b, n = batch.actor_history_mask.shape
        row = torch.arange(b, device=states.device)
        return self._asked(batch, states, row, torch.full_like(row, n), batch.example_action)

    def train_forward_with_target(self, batch: STUBatch) -> dict[str, Tensor]:
        """`loss`, the sum of the levels' `loss_i`; `accuracy_i` and `overall_accuracy`, all tokens right.

        Over the whole vocabulary, with teacher forcing.
        """
        return self._figures(self(batch), batch.example_target_stu)

    def temporal_pretraining_loss(self, batch: STUBatch) -> Tensor:
        """Mean loss of the positions inside the histories: each predicts its own target from what came before."""
        return self._inside(batch, self._states(batch))["loss"]

    def train_forward(self, batch: STUBatch) -> dict[str, Tensor]:
        """Examples and positions inside the histories, from one pass over each history.

        Keys as of `train_forward_with_target`, of the examples, with `temporal_loss` beside. With weight w of
        `temporal_weight`, `loss` is the mean over all positions, of which those inside count w each.
        """
        states = self._states(batch)
        b, n = batch.actor_history_mask.shape
        row = torch.arange(b, device=states.device)
        asked = self._asked(batch, states, row, torch.full_like(row, n), batch.example_action)
        figures, temporal = self._figures(asked, batch.example_target_stu), self._inside(batch, states)
        weight = self.temporal_weight * float(temporal["positions"])
        figures["loss"] = (b * figures["loss"] + weight * temporal["loss"]) / (b + weight)
        return figures | {"temporal_loss": temporal["loss"]}

    def _states(self, batch: STUBatch) -> Tensor:
        b, n = batch.actor_history_mask.shape
        nobody = batch.example_action.new_zeros(b)
        histories = NextTargetPredictionBatch(
            actor_id=nobody,
            actor_history_actions=batch.actor_history_actions,
            actor_history_targets=batch.actor_history_actions,
            actor_history_mask=batch.actor_history_mask.bool(),
            example_action=batch.example_action,
            example_target=nobody,
            actor_history_received=batch.actor_history_received,
            actor_history_timestamps=batch.actor_history_timestamps,
        )
        return self.encode(histories, self.tokens.mean(batch.actor_history_targets.view(b, n, self.num_codebooks)))

    def _asked(self, batch: STUBatch, states: Tensor, row: Tensor, state: Tensor, action: Tensor) -> Tensor:
        actor = self.tokens.mean(batch.actor_stu)[row]
        return self.ask(Positions(row, state, action, row), states, actor).static

    def _inside(self, batch: STUBatch, states: Tensor) -> dict[str, Tensor]:
        row, column = inside(batch.actor_history_mask, batch.actor_history_received, self.temporal_positions)
        if not len(row):
            return {"loss": states.new_zeros(()), "positions": states.new_zeros(())}
        asked = self._asked(batch, states, row, column, batch.actor_history_actions[row, column])
        b, n = batch.actor_history_mask.shape
        figures = self._figures(asked, batch.actor_history_targets.view(b, n, self.num_codebooks)[row, column])
        return figures | {"positions": states.new_tensor(len(row))}

    def _figures(self, asked: Tensor, stus: Tensor) -> dict[str, Tensor]:
        figures, right = {}, []
        for level in range(self.num_codebooks):
            scores = self.predict_token(asked, stus[:, :level], level)
            figures[f"loss_{level}"] = self._smoothed(scores, stus[:, level]).mean()
            right.append(scores.argmax(1) == stus[:, level])
            figures[f"accuracy_{level}"] = right[-1].float().mean()
        loss = torch.stack([figures[f"loss_{level}"] for level in range(self.num_codebooks)]).sum()
        return figures | {"loss": loss, "overall_accuracy": torch.stack(right).all(0).float().mean()}


def log_sums(wanted: Tensor, following: Tensor) -> Tensor:
    """float32[P, U]: log of the sum over v of exp(wanted[p, v] + following[u, v]), as one matrix product.

    wanted: float32[P, V]; following: float32[U, V], -inf for what leads to nobody.
    """
    high = wanted.detach().amax(1, keepdim=True)
    most = following.detach().amax(1, keepdim=True).clamp(min=LEAST)
    precise = torch.promote_types(torch.promote_types(wanted.dtype, following.dtype), torch.float32)
    with torch.autocast(wanted.device.type, enabled=False):
        sums = (wanted - high).to(precise).exp() @ (following - most).to(precise).exp().T
    return sums.clamp(min=FLOOR).log() + high + most.T
