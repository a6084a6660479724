"""What turns a vector into codes and back: codebooks, level by level, each on what the levels above left over.

Residual k-means quantises the vectors themselves, the RQ-VAE what its encoder makes of them; the rest of the house sees
one `Quantizer`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

BLOCK = 2**24  # distances at a time: 64 MiB


@dataclass(frozen=True)
class Quantizer:
    """L codebooks over a latent space of width d, and the way there and back."""

    codebooks: tuple[Tensor, ...]
    """L times float32[K, d]"""
    encoder: nn.Module
    """float32[n, D] -> float32[n, d]"""
    decoder: nn.Module
    """float32[n, d] -> float32[n, D]"""

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(len(codebook) for codebook in self.codebooks)

    @torch.no_grad()
    def latents(self, vectors: Tensor) -> Tensor:
        """float32[n, d]: where vectors, float32[n, D], are quantised."""
        return torch.cat([self.encoder(part) for part in vectors.split(2**16)]) if len(vectors) else vectors

    def codes(self, vectors: Tensor) -> Tensor:
        """int64[n, L]: the plain codes of vectors, float32[n, D]; users may share them."""
        return encode(self.latents(vectors), self.codebooks)

    def double(self) -> Quantizer:
        """The same in double precision, for vectors, float64[n, D]."""
        coders = (copy.deepcopy(coder).double() for coder in (self.encoder, self.decoder))
        return Quantizer(tuple(codebook.double() for codebook in self.codebooks), *coders)

    @torch.no_grad()
    def decoded(self, codes: Tensor) -> Tensor:
        """float32[n, D]: what codes of the first l levels, int64[n, l], say of vectors."""
        return self.decoder(decode(codes, self.codebooks))

    def errors(self, vectors: Tensor, codes: Tensor) -> list[float]:
        """The share of the vectors' variance that is left after each level, 0 to 1 (above 1: worse than their mean).

        vectors: float32[n, D]; codes: int64[n, L], theirs.
        """
        total = float((vectors - vectors.mean(0)).square().sum())
        left = []
        for level in range(1, len(self.codebooks) + 1):
            left.append(float((vectors - self.decoded(codes[:, :level])).square().sum()) / max(total, 1e-12))
        return left


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """int64[n]: the code nearest to each vector. vectors: float32[n, d]; codebook: float32[K, d]."""
    found = [distances(part, codebook).argmin(1) for part in vectors.split(max(1, BLOCK // len(codebook)))]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.long, device=vectors.device)


def distances(vectors: Tensor, codebook: Tensor) -> Tensor:
    """float32[n, K]: squared distances, less the squared length of the vector, which changes no order in a row.

    In double precision, float64[n, d] and [K, d], they do not hang on how many vectors are asked for at once, as the
    last bits of a product of matrices do.
    """
    return torch.addmm(codebook.square().sum(1), vectors, codebook.T, alpha=-2).float()


def encode(latents: Tensor, codebooks: Sequence[Tensor]) -> Tensor:
    """int64[n, L]: on each level the code nearest to what the levels above have left over."""
    left, codes = latents, []
    for codebook in codebooks:
        codes.append(nearest(left, codebook))
        left = left - codebook[codes[-1]]
    return torch.stack(codes, 1)


def decode(codes: Tensor, codebooks: Sequence[Tensor]) -> Tensor:
    """float32[n, d]: the sum of the codes' vectors. codes: int64[n, l], of the first l levels."""
    latents = codebooks[0].new_zeros(len(codes), codebooks[0].shape[1])
    for code, codebook in zip(codes.T, codebooks, strict=False):
        latents = latents + codebook[code]
    return latents
