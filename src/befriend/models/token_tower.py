"""The tower of the STU model that scores the tokens of one level."""

from __future__ import annotations

from torch import nn

from befriend.models.interaction import InteractionMoE
from befriend.models.model_settings import TowerName
from befriend.nn.layers import MLP


class TokenTower(nn.Module):
    """The two heads that score the tokens of one level: one reads the query, the other the tokens before.

    A level is one step of the residual quantizer. It gives one token of a user's STU (social tokenized user id: the
    semantic ID of a user).
    """

    def __init__(
        self, tower_type: TowerName, hidden_dim: int, prefix_dim: int, out: int, num_experts: int, dropout: float
    ):
        """tower_type: network of the query head, linear, mlp, or moe (a mixture of `num_experts` MLPs); hidden_dim:
        width of the query; prefix_dim: width of the concatenated embeddings of the tokens before, 0 on the first level;
        out: number of tokens, or width of a token embedding, if tokens are scored by their embeddings."""
        super().__init__()
        self.query_head = (
            nn.Linear(hidden_dim, out)
            if tower_type == "linear"
            else MLP(hidden_dim, hidden_dim, out, dropout=dropout)
            if tower_type == "mlp"
            else InteractionMoE(hidden_dim, hidden_dim, out, num_experts, "gelu", dropout)
        )
        self.prefix_head = nn.Linear(prefix_dim, out, bias=False) if prefix_dim else None
        # Output layers start at 0, so that all tokens score alike: random scores would have to be unlearned first.
        mlp_outputs: list[nn.Module] = [module.out for module in self.query_head.modules() if isinstance(module, MLP)]
        output_layers = mlp_outputs or [self.query_head]
        for layer in output_layers if self.prefix_head is None else [*output_layers, self.prefix_head]:
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
