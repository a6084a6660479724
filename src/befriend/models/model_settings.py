"""Settings of the models: the architecture of the two-tower model and of the STU model, and the search by clusters.

STU stands for social tokenized user id: the semantic ID of a user, a few tokens of a residual quantizer. The score of a
target is a sum of terms (static, neighbor, dynamic, pointer, two-hop), which `models.query_tower` explains.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from befriend.nn.activation import ActivationName
from befriend.settings import Settings, Share

HistoryEncoderName = Literal["transformer", "simple_attention", "mean_pooling"]
NegativesName = Literal["in_batch", "mixed", "random"]
TowerName = Literal["linear", "mlp", "moe"]
Count = Annotated[int, Field(ge=0)]
Width = Annotated[int, Field(ge=4)]


class ModelSettings(Settings):
    """Architecture that both models share: the query tower, and the terms of the score that change with time."""

    former_names = {
        "partners": "recent_neighbors",
        "user_weight": "static_score_weight",
        "own_contacts": "history_candidates",
        "moment_rate": "dynamic_lr_mult",
    }

    embedding_dim: Width = 64
    """width of a user embedding"""
    hidden_dim: Width = 128
    """width of the hidden layers"""
    history_encoder: HistoryEncoderName = "transformer"
    """transformer (causal self-attention), simple_attention (pooled multi-head attention) or mean_pooling"""
    history_length: Annotated[int, Field(ge=1)] = 50
    """number of a user's latest events that the history encoder reads"""
    layers: Annotated[int, Field(ge=1)] = 2
    """layers of the transformer"""
    heads: Annotated[int, Field(ge=1)] = 4
    """attention heads; their number has to divide 2 * embedding_dim"""
    history_projection: bool = True
    """project the output of the history encoder, of width 2 * embedding_dim, to embedding_dim by a small MLP"""
    received_events: bool = True
    """the history encoder reads events that the user received, as well as those that the user did"""
    interaction: Literal["mlp", "moe"] = "mlp"
    """how history, actor and action are combined into a query: by an MLP, or by a mixture of expert MLPs (moe)"""
    num_experts: Annotated[int, Field(ge=2)] = 4
    """number of experts of a mixture"""
    shortcut: bool = False
    """add a linear layer in parallel to the interaction"""
    history_scale: Annotated[float, Field(gt=0)] = 1.0
    """factor on user embeddings in a history; above 1, small embeddings are learned faster"""
    latent_cross: bool = True
    """add the elementwise products actor x history and actor x action to the inputs of the interaction"""
    activation: ActivationName = "gelu"
    """activation of the feed-forward layers"""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """share of hidden units dropped in training"""
    id_dropout: Share = 0.3
    """share of users without their own embedding in a training step, so that the model also works for unseen users"""
    static_score_weight: Annotated[float, Field(gt=0, le=1)] = 0.5
    """weight at inference of the static term, the score of a target by its embedding or tokens (in training: 1); below
    1, because these are up to date in training and old afterwards, while the other terms stay up to date"""
    freshness: bool = True
    """score targets by how recently and how often they acted and were acted on (dynamic term)"""
    texts: bool = True
    """query and dynamic term also use the texts of users, if there are any; no effect without freshness"""
    recent_neighbors: Count = 4
    """number of a target's latest events whose other users describe it, even if it joined after training (neighbor
    term); 0: none"""
    pointer: bool = True
    """add a score for users in the actor's history, from when and how often the two had events (pointer term)"""
    history_candidates: Annotated[int, Field(ge=1)] = 100
    """number of an actor's latest events whose other users get the pointer term and are negatives in training"""
    two_hop_candidates: Count = 48
    """number of other users, those with the most common contacts of late, who are negatives in training, where all
    users with common contacts get a score from these (two-hop term); 0: no such term"""


class TwoTowerModelSettings(ModelSettings):
    """Architecture of the two-tower model."""

    id_embedding: bool = True
    """users of the training part have their own embedding; false: only attributes and events describe users"""
    clusters: Count = 0
    """number of soft clusters learned in the model, whose mixture of centres is added to a user's embedding; 0: none"""


class StuModelSettings(ModelSettings):
    """Architecture of the STU model, which predicts a target token by token."""

    towers: TowerName = "linear"
    """network that scores the tokens of a level from the query: linear, mlp, or moe (with num_experts)"""
    tied_tokens: bool = False
    """score tokens by the token embeddings that histories use, instead of by separate output weights"""
    token_dropout: Share = 0.7
    """share of users whose static score a training step replaces by that of a uniform choice, in queries of the daily
    regime, so that these learn to score users by their recent activity"""
    sibling_smoothing: Share = 0.0
    """label smoothing of the loss that token_loss weighs: share of a token's weight spread over all tokens possible
    after the same prefix"""


class ClusterSearchSettings(Settings):
    """Search for users by their soft clusters, instead of scoring all users."""

    former_names = {"entries": "history_entries", "share": "probe_share", "fresh": "recently_active"}

    history_entries: Annotated[int, Field(ge=1)] = 100
    """number of a user's latest events whose other users determine the user's cluster"""
    probe_share: Annotated[float, Field(gt=0, le=1)] = 0.05
    """share of the eligible users that a search scores, from the best clusters down"""
    recently_active: Annotated[int, Field(ge=0)] = 500
    """number of the most recently active users, whom every search scores as well"""
