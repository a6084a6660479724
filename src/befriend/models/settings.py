"""Settings of the models: what they are made of, and what their training asks them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from befriend.evaluation.regimes import REGIMES, Regime
from befriend.settings import Settings, Share
from befriend.training.settings import TrainingSettings

ActivationName = Literal["gelu", "swiglu"]
HistoryEncoderName = Literal["transformer", "simple_attention", "mean_pooling"]
NegativesName = Literal["in_batch", "mixed", "random"]
TowerName = Literal["linear", "mlp", "moe"]
Count = Annotated[int, Field(ge=0)]
Width = Annotated[int, Field(ge=4)]


class QuerySettings(Settings):
    """What a query is made of, and the terms of the score that change with time."""

    embedding_dim: Width = 64
    """width of a user's embedding"""
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
    """project what the encoder says to embedding_dim by a small MLP, instead of passing on its double width"""
    received_events: bool = True
    """events received are part of a history, not only events done"""
    interaction: Literal["mlp", "moe"] = "mlp"
    """how history, actor and action become a query: an MLP, or a mixture of expert MLPs"""
    num_experts: Annotated[int, Field(ge=2)] = 4
    """experts of the mixture"""
    shortcut: bool = False
    """add a linear layer beside the interaction"""
    history_scale: Annotated[float, Field(gt=0)] = 1.0
    """factor of users' embeddings as parts of a history; above 1 lets small ones be learned faster"""
    latent_cross: bool = True
    """add the products actor x history and actor x action to the query's parts"""
    activation: ActivationName = "gelu"
    """activation of the feed-forward layers"""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """share of hidden units left out in training"""
    id_dropout: Share = 0.3
    """share of users who are nobody in particular in a training step, so that the model can do without"""
    user_weight: Annotated[float, Field(gt=0, le=1)] = 0.5
    """how much it counts who somebody is, once training is over, beside what they have been doing lately: what was
    learned of people gets old then, as it never was before"""
    freshness: bool = True
    """how recently and how often somebody acted and was acted on enters the score"""
    texts: bool = True
    """what users wrote, where the log has texts, enters query and score, beside freshness"""
    partners: Count = 4
    """latest contacts of a target that describe it, also when nothing was learned of itself; 0 for none"""
    pointer: bool = True
    """people in one's own history get a score of their own, from when and how often one was in contact"""
    own_contacts: Annotated[int, Field(ge=1)] = 100
    """latest events of one's history whose people get that score, and stand against every target in training"""


class TowerSettings(QuerySettings):
    """What the two towers are made of."""

    id_embedding: bool = True
    """users seen in training have an embedding of their own; off, a user is only what is known of them"""
    clusters: Count = 0
    """learned clusters inside the model, whose mixture is part of a user, learned with the rest; 0 for none"""


class StuTowerSettings(QuerySettings):
    """What the STU model is made of."""

    towers: TowerName = "linear"
    """how the tower of a level reads the query: linear, mlp, or moe (with num_experts)"""
    tied_tokens: bool = False
    """score tokens by the embeddings that stand for them in histories, instead of by rows of their own"""
    token_dropout: Share = 0.7
    """share of users who are as likely as anybody where training asks for nightly lists, whatever their tokens, so that
    these learn to go by what everybody has been doing lately"""
    sibling_smoothing: Share = 0.0
    """share of a token's weight in token_loss that goes to the others that might stand in its place"""


class AskSettings(Settings):
    """What training asks the model: at which moments, with what visible, against whom."""

    regimes: Annotated[list[Regime], Field(min_length=1)] = list(REGIMES)
    """what is visible when a training event is asked for; each event is asked for once an epoch in each of them, and in
    live, which sees what streaming sees, every fourth beside it"""
    positions_per_batch: Annotated[int, Field(ge=2)] = 128
    """training events asked for in one step"""
    temporal_positions: Annotated[int, Field(ge=1)] = 25
    """events of a history predicted in one causal pass; 1: each history is encoded for one event only"""
    temporal_weight: Annotated[float, Field(ge=0)] = 1.0
    """weight of an event inside an encoded history, beside the last one"""
    order: Literal["chronological", "shuffled"] = "chronological"
    """chronological: as time went by, embeddings of users learning from the freshest regime alone; or shuffled"""
    negatives: NegativesName = "mixed"
    """targets of the same batch, random users, or both (mixed)"""
    num_rand_negs: Count = 1
    """random negatives a position, shared by the batch"""
    log_q: bool = True
    """correct negatives for how often they are drawn"""
    softmax: Literal["sampled", "full"] = "sampled"
    """full: everyone is a negative of everyone, for small networks"""
    recent_events: Count = 32
    """the two users of each of the last so many events stand against every target"""
    hard_negatives: Count = 0
    """users whom the index ranks first for a position stand against its target"""
    new_weight: Annotated[float, Field(ge=0)] = 1.0
    """weight of a second loss for first contacts, in which existing contacts are no candidates"""


class RetrievalSettings(QuerySettings, AskSettings, TrainingSettings):
    """What training a model of people needs to know, whatever it makes of users."""

    epochs: Annotated[int, Field(ge=1)] = 1
    """passes over the training events, at most; in chronological order, the second already knows how it went on"""
    final_learning_rate: Share = 1.0
    """share of the peak that is left at the end of the cosine decay; below 1, the latest events are learned least"""
    moment_rate: Annotated[float, Field(gt=0)] = 3.0
    """how many times as fast as the rest the model learns what recent activity is worth, which changes as a network
    grows and slows down"""
    validation_events: Annotated[int, Field(ge=1)] = 1000
    """events of the validation part, evenly spaced, by which the best epoch is chosen"""


class TwoTowerSettings(TowerSettings, RetrievalSettings):
    """Stage train_two_tower: the model, what its training asks it, and the training itself."""

    cluster_weight: Annotated[float, Field(ge=0)] = 0.1
    """with clusters: weight of the loss of the next cluster beside that of the next person"""


class StuSettings(StuTowerSettings, RetrievalSettings):
    """Stage train_stu: the model, what its training asks it, and the training itself."""

    token_loss: Annotated[float, Field(ge=0)] = 0.0
    """weight of the loss of the tokens alone, level by level, beside that of the whole score"""
