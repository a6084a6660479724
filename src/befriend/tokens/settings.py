"""Settings of stage tokenize: what the vectors are made of, how they become codes, and how codes become STUs."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from befriend.settings import Settings, Share

MOST_CODES = 10_000
ROOM = 8  # STUs a user, where the number of codes is chosen from the number of users


class VectorSettings(Settings):
    """User vectors: a spectral embedding of the interaction graph, what users wrote, another table beside it."""

    source: Literal["auto", "graph", "text", "both"] = "auto"
    """graph: who was in contact with whom; text: what users wrote; both; auto: both, where there are texts"""
    text_weight: Share = 0.5
    """both: share of what users wrote in the squared length of a user's vector"""
    dimensions: Annotated[int, Field(ge=2)] = 64
    """width of the spectral embedding"""
    half_life: Annotated[float, Field(gt=0)] = 91.0
    """days after which an event ties two users half as much"""
    action_weights: dict[str, Annotated[float, Field(ge=0)]] = {}
    """action -> how much an event of it ties; 1 for those not named"""
    vectors: str | None = None
    """Parquet table of more vectors, columns user_id and vector; null: none"""
    vectors_weight: Share = 0.5
    """share of that table in the squared length of a user's vector"""


class QuantizerSettings(Settings):
    """From vectors to codes."""

    quantizer: Literal["residual_kmeans", "rqvae"] = "residual_kmeans"
    """residual_kmeans (on the vectors themselves) or rqvae (on what an encoder makes of them)"""
    num_codebooks: Annotated[int, Field(ge=1, le=8)] = 3
    """levels of codes"""
    codes: Literal["auto"] | Annotated[int, Field(ge=2, le=MOST_CODES)] = "auto"
    """codes of each level; auto: the smallest power of two that leaves eight STUs a user"""
    iterations: Annotated[int, Field(ge=1)] = 10
    """iterations of k-means"""
    latent_dim: Annotated[int, Field(ge=2)] = 64
    """rqvae: width of the space that is quantised, at most that of the vectors"""
    encoder_dim: Annotated[int, Field(ge=4)] = 256
    """rqvae: width of the hidden layers of encoder and decoder"""
    commitment_weight: Annotated[float, Field(ge=0)] = 0.25
    """rqvae: weight of the distance between latents and their codes, beside the squared error of reconstruction"""
    epochs: Annotated[int, Field(ge=1)] = 30
    """rqvae: passes over the users"""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """rqvae: AdamW's learning rate at its peak"""

    def sizes(self, users: int) -> tuple[int, ...]:
        """Codes of each level, for so many users."""
        if self.codes != "auto":
            return (self.codes,) * self.num_codebooks
        enough = (ROOM * max(users, 1)) ** (1 / self.num_codebooks)
        return (min(MOST_CODES, max(4, 2 ** math.ceil(math.log2(enough) - 1e-9))),) * self.num_codebooks


class TokenizeSettings(VectorSettings, QuantizerSettings):
    """Stage tokenize: user vectors, their codes, and the table that gives every user an STU."""

    collisions: Literal["reassign", "digit"] = "reassign"
    """reassign: who collides moves to the nearest free code; digit: one more token tells them apart"""
    digits: Annotated[int, Field(ge=2, le=MOST_CODES)] = 256
    """digit: values of the extra token"""
    balance: Annotated[float, Field(ge=1)] | None = None
    """reassign: most users beneath a code, as a multiple of the mean; null: only as many as there are STUs"""
    previous: str | None = None
    """folder of an earlier run (models/tokens) whose users keep their STUs; null: all are made anew"""
    seed: Annotated[int, Field(ge=0)] = 0
    """seed of every random choice"""
    threads: Annotated[int, Field(ge=1)] = 2
    """CPU threads; equal inputs give equal bytes only for equal threads"""
