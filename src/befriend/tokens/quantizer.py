"""Residual quantizer: encodes vectors as codes and decodes them; each level quantises the residual of those above.

Residual k-means quantises the vectors themselves, an RQ-VAE the latents of its encoder; both give a `Quantizer`.

A *code* is a row of a codebook, given by its number. The codes of a user's vector become the *tokens* of the user's STU
(social tokenized user id, the semantic ID of a user, as in TIGER) after `collisions` has made them unique.

Tensors are float32 in training. The float64 copy that `Quantizer.double` returns takes and returns float64 instead.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

BLOCK = 2**24  # distances per block: 64 MiB in single precision, twice that in double


@dataclass(frozen=True)
class Quantizer:
    """L codebooks in a latent space of width d, with an encoder into it and a decoder."""

    codebooks: tuple[Tensor, ...]
    """one float32[K, d] for each level, with a K of its own: row k is the vector of code k"""
    encoder: nn.Module
    """float32[n, D] -> float32[n, d]"""
    decoder: nn.Module
    """float32[n, d] -> float32[n, D]"""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of codes of each level."""
        return tuple(len(codebook) for codebook in self.codebooks)

    @torch.no_grad()
    def latents(self, vectors: Tensor) -> Tensor:
        """float32[n, d]: the encoder's output for vectors, float32[n, D]; this is what the codebooks quantise."""
        return torch.cat([self.encoder(block) for block in vectors.split(2**16)])

    def codes(self, vectors: Tensor) -> Tensor:
        """int64[n, L]: the nearest codes of vectors, float32[n, D]. Several vectors may have the same L codes."""
        return encode(self.latents(vectors), self.codebooks)

    def double(self) -> Quantizer:
        """The same quantizer in double precision, for vectors float64[n, D]."""
        coders = (copy.deepcopy(coder).double() for coder in (self.encoder, self.decoder))
        return Quantizer(tuple(codebook.double() for codebook in self.codebooks), *coders)

    @torch.no_grad()
    def reconstruct(self, codes: Tensor) -> Tensor:
        """float32[n, D]: vectors reconstructed from codes of the first l levels, int64[n, l]."""
        return self.decoder(decode(codes, self.codebooks))

    def errors(self, vectors: Tensor, codes: Tensor) -> list[float]:
        """Share of the vectors' variance that is unexplained after each level; above 1 if worse than the mean.

        vectors: float32[n, D]; codes: int64[n, L].
        """
        total = float((vectors - vectors.mean(0)).square().sum())
        unexplained = []
        for level in range(1, len(self.codebooks) + 1):
            unexplained.append(float((vectors - self.reconstruct(codes[:, :level])).square().sum()) / max(total, 1e-12))
        return unexplained


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """int64[n]: the code nearest to each vector. vectors: float32[n, d]; codebook: float32[K, d]."""
    codes = [distances(block, codebook).argmin(1) for block in vectors.split(max(1, BLOCK // len(codebook)))]
    return torch.cat(codes) if codes else torch.zeros(0, dtype=torch.long, device=vectors.device)


def distances(vectors: Tensor, codebook: Tensor) -> Tensor:
    """float32[n, K]: squared distances minus the squared length of the vector, which is constant within a row.

    The last bits of a matrix product depend on its shape. With float64 inputs, the result is rounded to float32, which
    hides them in practice, so the distances of a vector do not depend on the n - 1 others. With float32 inputs they do.
    """
    return torch.addmm(codebook.square().sum(1), vectors, codebook.T, alpha=-2).float()


def encode(latents: Tensor, codebooks: Sequence[Tensor]) -> Tensor:
    """int64[n, L]: on each level, the code nearest to the residual of the levels above. latents: float32[n, d]."""
    residual, codes = latents, []
    for codebook in codebooks:
        codes.append(nearest(residual, codebook))
        residual = residual - codebook[codes[-1]]
    return torch.stack(codes, 1)


def decode(codes: Tensor, codebooks: Sequence[Tensor]) -> Tensor:
    """float32[n, d]: the sum of the codes' vectors. codes: int64[n, l], of the first l levels."""
    latents = codebooks[0].new_zeros(len(codes), codebooks[0].shape[1])
    for code, codebook in zip(codes.T, codebooks, strict=False):
        latents = latents + codebook[code]
    return latents
