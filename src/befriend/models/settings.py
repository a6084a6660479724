"""Settings of the two-tower model: what it is made of, and what its training asks it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from befriend.evaluation.regimes import Regime
from befriend.settings import Settings, Share
from befriend.training.settings import TrainingSettings

ActivationName = Literal["gelu", "swiglu"]
NegativesName = Literal["in_batch", "mixed", "random"]
Count = Annotated[int, Field(ge=0)]
Width = Annotated[int, Field(ge=4)]


class TowerSettings(Settings):
    """What the two towers are made of."""

    embedding_dim: Width = 64
    """width of a user's embedding"""
    hidden_dim: Width = 128
    """width of the hidden layers"""
    history_encoder: Literal["transformer", "simple_attention"] = "transformer"
    """transformer (causal self-attention) or simple_attention (pooled multi-head attention)"""
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
    id_embedding: bool = True
    """users seen in training have an embedding of their own; off, a user is only what is known of them"""
    id_dropout: Share = 0.3
    """share of users who go without their embedding in a training step, so that the model can do without"""
    partners: Count = 0
    """latest contacts of a target whose embeddings describe it, also when it has none itself; 0 for none"""
    freshness: bool = True
    """how recently and how often somebody acted and was acted on enters the score"""
    pointer: bool = True
    """people in one's own history get a score of their own, from when and how often one was in contact"""
    own_contacts: Annotated[int, Field(ge=1)] = 100
    """latest events of one's history whose people get that score, and stand against every target in training"""


class AskSettings(Settings):
    """What training asks the model: at which moments, with what visible, against whom."""

    regimes: Annotated[list[Regime], Field(min_length=1)] = ["streaming", "daily", "frozen"]
    """what is visible when a training event is asked for; each event is asked for once in each regime an epoch"""
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


class TwoTowerSettings(TowerSettings, AskSettings, TrainingSettings):
    """Stage train_two_tower: the model, what its training asks it, and the training itself."""

    epochs: Annotated[int, Field(ge=1)] = 1
    """passes over the training events, at most; in chronological order, the second already knows how it went on"""
    final_learning_rate: Share = 1.0
    """share of the peak that is left at the end of the cosine decay; below 1, the latest events are learned least"""
    validation_events: Annotated[int, Field(ge=1)] = 1000
    """events of the validation part, evenly spaced, by which the best epoch is chosen"""
