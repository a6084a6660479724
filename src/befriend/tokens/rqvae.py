"""RQ-VAE: an encoder, residual codebooks on its latents, and a decoder, trained together.

Residual quantisation in an autoencoder: Zeghidour et al. 2021, Lee et al. 2022. Encoder and decoder are initialised as
the projection onto the principal axes and its transpose, the codebooks by residual k-means of the latents: training
starts from the result of residual k-means, and no code starts dead. Squared errors are summed over dimensions, so that
reconstruction error and commitment are on the same scale for all widths.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from befriend.nn.layers import MLP
from befriend.tokens import residual_kmeans
from befriend.tokens.quantizer import Quantizer
from befriend.tokens.token_settings import TokenizeSettings
from befriend.training.objective import BatchLoss

BATCH_SIZE = 1024  # users
DEAD_CODE_SHARE = 0.02  # a code is reset to a vector of the batch if its moving count is below this share of the mean
EMA_DECAY = 0.95  # of the exponential moving averages of codes and counts, per step


class LinearPlusMLP(nn.Module):
    """A linear layer plus a small MLP, which initially returns 0."""

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
        """vectors: float32[n, D], to initialise encoder, decoder and codebooks; sizes: number of codes per level."""
        from vector_quantize_pytorch import ResidualVQ  # type: ignore[import-untyped]

        super().__init__()
        width, latent = vectors.shape[1], min(settings.latent_dim, vectors.shape[1])
        self.encoder = LinearPlusMLP(width, settings.encoder_dim, latent)
        self.decoder = LinearPlusMLP(latent, settings.encoder_dim, width)
        self.quantizer = ResidualVQ(
            dim=latent,
            num_quantizers=len(sizes),
            codebook_size=tuple(sizes),
            decay=EMA_DECAY,
            threshold_ema_dead_code=DEAD_CODE_SHARE * BATCH_SIZE / max(sizes),
            commitment_weight=settings.commitment_weight,
        )
        self._initialise(vectors, sizes, settings)

    @torch.no_grad()
    def _initialise(self, vectors: Tensor, sizes: Sequence[int], settings: TokenizeSettings) -> None:
        """Sets encoder and decoder to the principal axes, and the codebooks to residual k-means of the latents."""
        mean = vectors.mean(0)
        axes = torch.linalg.eigh((vectors - mean).T @ (vectors - mean)).eigenvectors.flip(1)
        axes = axes[:, : self.encoder.linear.out_features]
        axes = axes * torch.where(axes.gather(0, axes.abs().argmax(0, keepdim=True)) < 0, -1, 1)  # deterministic signs
        self.encoder.linear.weight.copy_(axes.T)
        self.encoder.linear.bias.copy_(-mean @ axes)
        self.decoder.linear.weight.copy_(axes)
        self.decoder.linear.bias.copy_(mean)
        latents = self.encoder(vectors)
        initial = residual_kmeans.fit_residual_kmeans(
            latents, sizes, settings.iterations, settings.seed, settings.threads
        )
        codes = initial.codes(latents)
        for layer, codebook, code in zip(self.quantizer.layers, initial.codebooks, codes.T, strict=True):
            share = code.bincount(minlength=len(codebook)) / len(code)
            layer.codebook = codebook
            layer._codebook.cluster_size.copy_(share * BATCH_SIZE)
            layer._codebook.embed_avg.copy_(share[:, None] * BATCH_SIZE * codebook)

    def codebooks(self) -> tuple[Tensor, ...]:
        """L times float32[K, d], copies of the current codebooks."""
        return tuple(layer.codebook.detach().clone() for layer in self.quantizer.layers)

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction error and weighted commitment loss, float32[] each, and codes, int64[n, L].

        vectors: float32[n, D]. The commitment loss is the squared distance of latents to their codes.
        """
        latents = self.encoder(vectors)
        quantised, codes, commitment = self.quantizer(latents)
        reconstructed = self.decoder(quantised)
        return (vectors - reconstructed).square().sum(1).mean(), commitment.sum() * latents.shape[1], codes


@dataclass(frozen=True)
class VectorBatch:
    """Vectors of the users of one training step."""

    vectors: Tensor
    """float32[n, D]"""

    def to(self, device: torch.device | str) -> VectorBatch:
        return VectorBatch(self.vectors.to(device))


class VectorBatches(Sequence[VectorBatch]):
    """All vectors in random order, in batches of BATCH_SIZE."""

    def __init__(self, vectors: Tensor, seed: Sequence[int]):
        self.vectors = vectors
        self.order = torch.from_numpy(np.random.default_rng(seed).permutation(len(vectors)))

    def __len__(self) -> int:
        return -(-len(self.vectors) // BATCH_SIZE)

    def __getitem__(self, batch_index: int) -> VectorBatch:  # type: ignore[override]
        return VectorBatch(self.vectors[self.order[batch_index * BATCH_SIZE : (batch_index + 1) * BATCH_SIZE]])


class RqVaeObjective:
    """Trains an RQ-VAE on all vectors, and validates on the same ones, because these are the users to be encoded."""

    metric = "explained"

    def __init__(self, vectors: Tensor, sizes: Sequence[int], settings: TokenizeSettings):
        self.vectors, self.seed = vectors, settings.seed
        torch.manual_seed(settings.seed)
        self.model = RqVae(vectors, sizes, settings)

    def lr_multiplier(self, name: str) -> float:
        return 1.0

    def batches(self, epoch: int) -> VectorBatches:
        return VectorBatches(self.vectors, [self.seed, epoch])

    def loss(self, batch: VectorBatch) -> BatchLoss:
        """Reconstruction error plus commitment. Metrics: both, and `distinct`, the number of distinct codes in a batch
        divided by its size, as the mean over levels."""
        reconstruction, commitment, codes = self.model(batch.vectors)
        used_share = torch.stack([len(column.unique()) / codes.new_tensor(len(column)) for column in codes.T]).mean()
        metrics = {"reconstruction": reconstruction, "commitment": commitment, "distinct": used_share}
        return BatchLoss(
            reconstruction + commitment, len(batch.vectors), {name: value.detach() for name, value in metrics.items()}
        )

    def validate(self) -> dict[str, float]:
        """`explained`: share of the vectors' variance explained by the codes of all levels."""
        quantizer = self.quantizer()
        return {self.metric: 1 - quantizer.errors(self.vectors, quantizer.codes(self.vectors))[-1]}

    def quantizer(self) -> Quantizer:
        """The current encoder, codebooks and decoder, on the CPU."""
        on_cpu = next(self.model.parameters()).device.type == "cpu"
        # Copied, so that the trained model stays on its device.
        model = (self.model if on_cpu else copy.deepcopy(self.model).cpu()).eval()
        return Quantizer(model.codebooks(), model.encoder, model.decoder)
