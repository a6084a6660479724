"""RQ-VAE: an encoder, codebooks on what it makes of the vectors, and a decoder, trained together.

Zeghidour et al. 2021 (residual quantisation in an autoencoder), Lee et al. 2022. Encoder and decoder begin as the
projection on the principal axes and its transpose, and the codebooks as residual k-means of real latents, level by
level: training starts where residual k-means ends, and no code starts out dead. Squared errors are summed over
dimensions, so that reconstruction and commitment are on one scale whatever the widths.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from befriend.models.layers import MLP
from befriend.tokens import residual_kmeans
from befriend.tokens.quantizer import Quantizer
from befriend.tokens.settings import TokenizeSettings
from befriend.training.trainee import Losses

ROWS = 1024  # users a step
DEAD = 0.02  # a code whose fading count of users falls below this share of the mean is given to one of them
FADE = 0.95  # of codes and counts, a step


class Coder(nn.Module):
    """A linear map and what a small network adds to it, nothing at first."""

    def __init__(self, width: int, hidden: int, out: int):
        super().__init__()
        self.linear = nn.Linear(width, out)
        self.more = MLP(width, hidden, out)
        nn.init.zeros_(self.more.out.weight)
        nn.init.zeros_(self.more.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: float[..., width]. Returns float[..., out]."""
        return self.linear(x) + self.more(x)


class RqVae(nn.Module):
    """Encoder, residual quantizer and decoder."""

    def __init__(self, vectors: Tensor, sizes: Sequence[int], settings: TokenizeSettings):
        """vectors: float32[n, D], on whose latents the codebooks begin."""
        from vector_quantize_pytorch import ResidualVQ  # type: ignore[import-untyped]

        super().__init__()
        width, latent = vectors.shape[1], min(settings.latent_dim, vectors.shape[1])
        self.encoder = Coder(width, settings.encoder_dim, latent)
        self.decoder = Coder(latent, settings.encoder_dim, width)
        self.quantizer = ResidualVQ(
            dim=latent,
            num_quantizers=len(sizes),
            codebook_size=tuple(sizes),
            decay=FADE,
            threshold_ema_dead_code=DEAD * ROWS / max(sizes),
            commitment_weight=settings.commitment_weight,
        )
        self._begin(vectors, sizes, settings)

    @torch.no_grad()
    def _begin(self, vectors: Tensor, sizes: Sequence[int], settings: TokenizeSettings) -> None:
        mean = vectors.mean(0)
        axes = torch.linalg.eigh((vectors - mean).T @ (vectors - mean)).eigenvectors.flip(1)
        axes = axes[:, : self.encoder.linear.out_features]
        axes = axes * torch.where(axes.gather(0, axes.abs().argmax(0, keepdim=True)) < 0, -1, 1)  # no sign by chance
        self.encoder.linear.weight.copy_(axes.T)
        self.encoder.linear.bias.copy_(-mean @ axes)
        self.decoder.linear.weight.copy_(axes)
        self.decoder.linear.bias.copy_(mean)
        latents = self.encoder(vectors)
        begun = residual_kmeans.fit(latents, sizes, settings.iterations, settings.seed, settings.threads)
        codes = begun.codes(latents)
        for layer, codebook, code in zip(self.quantizer.layers, begun.codebooks, codes.T, strict=True):
            share = code.bincount(minlength=len(codebook)) / len(code)
            layer.codebook = codebook
            layer._codebook.cluster_size.copy_(share * ROWS)
            layer._codebook.embed_avg.copy_(share[:, None] * ROWS * codebook)

    def codebooks(self) -> tuple[Tensor, ...]:
        return tuple(layer.codebook.detach().clone() for layer in self.quantizer.layers)

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """vectors: float32[n, D]. Returns reconstruction error and weighted commitment, float32[], and int64[n, L]."""
        latents = self.encoder(vectors)
        quantised, codes, commitment = self.quantizer(latents)
        again = self.decoder(quantised)
        return (vectors - again).square().sum(1).mean(), commitment.sum() * latents.shape[1], codes


@dataclass(frozen=True)
class Rows:
    """Vectors of some users."""

    vectors: Tensor
    """float32[n, D]"""

    def to(self, device: torch.device | str) -> Rows:
        return Rows(self.vectors.to(device))


class Batches(Sequence[Rows]):
    def __init__(self, vectors: Tensor, seed: Sequence[int]):
        self.vectors = vectors
        self.order = torch.from_numpy(np.random.default_rng(seed).permutation(len(vectors)))

    def __len__(self) -> int:
        return -(-len(self.vectors) // ROWS)

    def __getitem__(self, number: int) -> Rows:  # type: ignore[override]
        return Rows(self.vectors[self.order[number * ROWS : (number + 1) * ROWS]])


class RqVaeTrainee:
    """All users are there to be coded: what counts is how well they are, so they validate as well."""

    metric = "explained"

    def __init__(self, vectors: Tensor, sizes: Sequence[int], settings: TokenizeSettings):
        self.vectors, self.seed = vectors, settings.seed
        torch.manual_seed(settings.seed)
        self.model = RqVae(vectors, sizes, settings)

    def scale(self, name: str) -> float:
        return 1.0

    def batches(self, epoch: int) -> Batches:
        return Batches(self.vectors, [self.seed, epoch])

    def loss(self, batch: Rows) -> Losses:
        reconstruction, commitment, codes = self.model(batch.vectors)
        used = torch.stack([len(column.unique()) / codes.new_tensor(len(column)) for column in codes.T]).mean()
        figures = {"reconstruction": reconstruction, "commitment": commitment, "distinct": used}
        return Losses(
            reconstruction + commitment, len(batch.vectors), {name: value.detach() for name, value in figures.items()}
        )

    def validate(self) -> dict[str, float]:
        """The share of the vectors' variance that codes keep, after all levels."""
        quantizer = self.quantizer()
        return {self.metric: 1 - quantizer.errors(self.vectors, quantizer.codes(self.vectors))[-1]}

    def quantizer(self) -> Quantizer:
        on_cpu = next(self.model.parameters()).device.type == "cpu"
        model = (self.model if on_cpu else copy.deepcopy(self.model).cpu()).eval()  # the one in training stays
        return Quantizer(model.codebooks(), model.encoder, model.decoder)
