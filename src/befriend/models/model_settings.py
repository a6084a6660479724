"""Settings of the models: the architecture of the query tower, of both models, and how clusters are searched."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from befriend.nn.layers import ActivationName
from befriend.settings import Settings, Share

HistoryEncoderName = Literal["transformer", "simple_attention", "mean_pooling"]
NegativesName = Literal["in_batch", "mixed", "random"]
TowerName = Literal["linear", "mlp", "moe"]
Count = Annotated[int, Field(ge=0)]
Width = Annotated[int, Field(ge=4)]


class QuerySettings(Settings):
    """Architecture shared by both models: the query tower and the terms of the score that change with time."""

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
    """events of a user that the history encoder sees"""
    layers: Annotated[int, Field(ge=1)] = 2
    """layers of the transformer"""
    heads: Annotated[int, Field(ge=1)] = 4
    """attention heads; must divide twice the embedding_dim"""
    history_projection: bool = True
    """project the output of the history encoder, of width 2 * embedding_dim, to embedding_dim by a small MLP"""
    received_events: bool = True
    """histories contain events received as well as events done"""
    interaction: Literal["mlp", "moe"] = "mlp"
    """how history, actor and action are combined into a query: by an MLP, or by a mixture of expert MLPs (moe)"""
    num_experts: Annotated[int, Field(ge=2)] = 4
    """number of experts of a mixture"""
    shortcut: bool = False
    """add a linear layer in parallel to the interaction"""
    history_scale: Annotated[float, Field(gt=0)] = 1.0
    """factor applied to user embeddings in a history; above 1, small embeddings are learned faster"""
    latent_cross: bool = True
    """add the products actor x history and actor x action to the inputs of the interaction"""
    activation: ActivationName = "gelu"
    """activation of the feed-forward layers"""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """share of hidden units dropped in training"""
    id_dropout: Share = 0.3
    """share of users without their own embedding in a training step, so that the model also works for unseen users"""
    static_score_weight: Annotated[float, Field(gt=0, le=1)] = 0.5
    """weight of the static term of the score at inference (in training: 1); below 1, because what was learned about
    users is up to date in training and grows old afterwards, while the dynamic term stays up to date"""
    freshness: bool = True
    """score targets by how recently and how often they acted and were acted on (dynamic term)"""
    texts: bool = True
    """query and dynamic term also use the texts of users, where there are any; needs freshness"""
    recent_neighbors: Count = 4
    """how many of a target's latest contacts describe it (neighbor term), also when it was not in training; 0: none"""
    pointer: bool = True
    """add a score for users in the actor's own history, by when and how often the two were in contact (pointer term)"""
    history_candidates: Annotated[int, Field(ge=1)] = 100
    """latest events of an actor whose users get the pointer term, and are candidates of the actor in training"""


class TowerSettings(QuerySettings):
    """Architecture of the two-tower model."""

    id_embedding: bool = True
    """users seen in training have their own embedding; off: users are described by attributes and events alone"""
    clusters: Count = 0
    """number of clusters learned inside the model, whose mixture is added to a user's embedding; 0: none"""


class StuTowerSettings(QuerySettings):
    """Architecture of the STU model."""

    towers: TowerName = "linear"
    """network that scores the tokens of a level from the query: linear, mlp, or moe (with num_experts)"""
    tied_tokens: bool = False
    """score tokens by the token embeddings that histories use, instead of by separate output weights"""
    token_dropout: Share = 0.7
    """share of users to whom a training step gives uniform probability, whatever their tokens, in queries of the daily
    regime; these then learn to score users by their recent activity"""
    sibling_smoothing: Share = 0.0
    """label smoothing of token_loss: share of a token's weight spread over all tokens possible after the same prefix"""


class ClusterSearchSettings(Settings):
    """How a cluster search works."""

    former_names = {"entries": "history_entries", "share": "probe_share", "fresh": "recently_active"}

    history_entries: Annotated[int, Field(ge=1)] = 100
    """latest events of a user whose other users determine the user's cluster"""
    probe_share: Annotated[float, Field(gt=0, le=1)] = 0.05
    """share of all users that a search scores, cluster by cluster"""
    recently_active: Annotated[int, Field(ge=0)] = 500
    """number of most recently active users that every search scores as well"""
