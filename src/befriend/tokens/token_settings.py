"""Settings of stage tokenize: sources of the user vectors, quantisation into codes, and collisions of codes."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from befriend.settings import Settings, Share

MAX_CODES = 10_000
STUS_PER_USER = 8  # with codes: auto, which chooses the number of codes from the number of users


class VectorSettings(Settings):
    """Sources of the user vectors: a spectral embedding of the interaction graph, texts, and a table of your own."""

    source: Literal["auto", "graph", "text", "both"] = "auto"
    """graph: spectral embedding of the interaction graph; text: text vectors; both; auto: both if there are texts"""
    text_weight: Share = 0.5
    """both: share of the text vector in the squared length of a user's vector"""
    dimensions: Annotated[int, Field(ge=2)] = 64
    """width of the spectral embedding"""
    half_life: Annotated[float, Field(gt=0)] = 91.0
    """days after which an event has half its weight in the interaction graph"""
    action_weights: dict[str, Annotated[float, Field(ge=0)]] = {}
    """action -> weight of its events in the interaction graph; 1 for actions not listed"""
    vectors: str | None = None
    """Parquet table of additional user vectors, columns user_id and vector; null: none"""
    vectors_weight: Share = 0.5
    """share of that table's vector in the squared length of a user's vector"""


class QuantizerSettings(Settings):
    """Quantisation of user vectors into codes."""

    quantizer: Literal["residual_kmeans", "rqvae"] = "residual_kmeans"
    """residual_kmeans (of the vectors themselves) or rqvae (of latents of a trained encoder)"""
    num_codebooks: Annotated[int, Field(ge=1, le=8)] = 3
    """number of levels: one codebook, and one token of the STU, each"""
    codes: Literal["auto"] | Annotated[int, Field(ge=2, le=MAX_CODES)] = "auto"
    """codes of each level; auto: the smallest power of two that gives at least eight STUs per user"""
    iterations: Annotated[int, Field(ge=1)] = 10
    """iterations of k-means"""
    latent_dim: Annotated[int, Field(ge=2)] = 64
    """rqvae: width of the latents, at most that of the vectors"""
    encoder_dim: Annotated[int, Field(ge=4)] = 256
    """rqvae: width of the hidden layers of encoder and decoder"""
    commitment_weight: Annotated[float, Field(ge=0)] = 0.25
    """rqvae: weight of the commitment loss (squared distance of latents to codes); reconstruction error weighs 1"""
    epochs: Annotated[int, Field(ge=1)] = 30
    """rqvae: passes over the users"""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """rqvae: peak learning rate of AdamW"""

    def sizes(self, users: int) -> tuple[int, ...]:
        """Number of codes of each level, for a number of users."""
        if self.codes != "auto":
            return (self.codes,) * self.num_codebooks
        min_codes_per_level = (STUS_PER_USER * max(users, 1)) ** (1 / self.num_codebooks)
        return (min(MAX_CODES, max(4, 2 ** math.ceil(math.log2(min_codes_per_level) - 1e-9))),) * self.num_codebooks


class TokenizeSettings(VectorSettings, QuantizerSettings):
    """Stage tokenize: user vectors, their codes, and the table of STUs."""

    collisions: Literal["reassign", "digit"] = "reassign"
    """reassign: users with the same codes move to the nearest free code; digit: an extra token tells them apart"""
    digits: Annotated[int, Field(ge=2, le=MAX_CODES)] = 256
    """digit: number of values of the extra token"""
    balance: Annotated[float, Field(ge=1)] | None = None
    """reassign: most users of a prefix, as a multiple of the mean; null: as many as there are STUs with that prefix"""
    previous: str | None = None
    """folder of an earlier run (models/tokens) whose users keep their STUs; null: all STUs are new"""
    seed: Annotated[int, Field(ge=0)] = 0
    """seed of every random choice"""
    threads: Annotated[int, Field(ge=1)] = 2
    """number of CPU threads; equal inputs give equal bytes only with the same number"""
