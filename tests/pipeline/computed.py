"""Prints a digest of a computation with each numeric library that the stages use, one a line."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import lightgbm
import numpy as np
import polars as pl
import torch
from scipy.sparse import csr_array  # type: ignore[import-untyped]
from scipy.sparse.linalg import svds  # type: ignore[import-untyped]
from sklearn.cluster import KMeans  # type: ignore[import-untyped]
from torch.nn import functional as F

from befriend.text.text_encoder import OneDnnLinear

torch.manual_seed(0)
rng = np.random.default_rng(0)
matrix = rng.random((301, 211))
single = torch.from_numpy(matrix).float()


def train() -> torch.Tensor:
    """Weights of a causal transformer layer and a softmax over inner products after a few steps."""
    layer = torch.nn.TransformerEncoderLayer(32, 4, 64, activation="gelu", batch_first=True, dropout=0.1)
    table = torch.nn.Embedding(97, 32)
    weights = [*layer.parameters(), *table.parameters()]
    moments = [[torch.zeros_like(weight) for weight in weights] for _ in range(2)]
    steps = [torch.zeros(()) for _ in weights]
    for _ in range(3):
        history = torch.randint(97, (6, 21))
        mask = torch.nn.Transformer.generate_square_subsequent_mask(20)
        state = layer(table(history[:, :-1]), mask, is_causal=True)
        loss = F.cross_entropy((state @ table.weight.T).flatten(0, 1), history[:, 1:].flatten())
        gradients = list(torch.autograd.grad(loss, weights))
        with torch.no_grad():  # AdamW without its class, which takes half a minute to import in an emulator
            torch._foreach_add_(steps, 1)
            torch._fused_adamw_(
                weights,
                gradients,
                *moments,
                [],
                steps,
                lr=0.01,
                beta1=0.9,
                beta2=0.999,
                weight_decay=0.01,
                eps=1e-8,
                amsgrad=False,
                maximize=False,
            )
    return torch.cat([weight.detach().flatten() for weight in weights])


def encode() -> torch.Tensor:
    """Products in the two shapes of a text encoder's feed-forward layer."""
    wide, narrow = OneDnnLinear(384, 1536), OneDnnLinear(1536, 384)
    with torch.no_grad():
        return narrow(wide(torch.randn(16, 384)))


def boost() -> Any:
    """Predictions of gradient-boosted trees."""
    settings = {
        "objective": "lambdarank",
        "num_threads": 1,
        "deterministic": True,
        "force_row_wise": True,
        "verbose": -1,
    }
    data = lightgbm.Dataset(matrix, (matrix[:, 0] > 0.5).astype(int), group=[43] * 7)
    return lightgbm.train(settings, data, 5).predict(matrix)


COMPUTATIONS: dict[str, Callable[[], Any]] = {
    "training": train,
    "torch, functions": lambda: torch.cat([f(single) for f in (torch.exp, torch.log, torch.log1p, torch.erf, F.gelu)]),
    "torch, sums": lambda: torch.stack([single.logsumexp(1), single.var(1), single.cumsum(1)[:, -1], single.sum(1)]),
    "torch, shares": lambda: single.softmax(1),
    "torch, products of doubles": lambda: single.double() @ single.double().T,
    "torch, small products": lambda: torch.stack(
        [single[:7, :16] @ single[:16, :5], single[7:14, :16] @ single[16:32, :5]]
    ),
    "torch, products with vectors": lambda: single @ single[0],
    "torch, norms": lambda: torch.cat([single.norm(dim=1), F.normalize(single, dim=1)[0], single.rsqrt()[0]]),
    "oneDNN": encode,
    "torch, factors": lambda: torch.linalg.svd(single)[1],
    "numpy, functions": lambda: np.stack([f(matrix) for f in (np.exp, np.log, np.log1p, np.exp2, np.arctan)]),
    "numpy, functions in single": lambda: np.stack(
        [f(matrix.astype("f")) for f in (np.exp, np.log, np.log1p, np.exp2)]
    ),
    "numpy, powers": lambda: np.stack([matrix**-0.37, 0.5**matrix]),
    "numpy, products": lambda: matrix @ matrix.T,
    "numpy, factors": lambda: np.linalg.svd(matrix[:60, :60])[1],
    "scipy": lambda: svds(csr_array(np.where(matrix > 0.9, matrix, 0)), 8, random_state=0)[1],
    "scikit-learn": lambda: KMeans(8, n_init=1, random_state=0).fit(matrix).cluster_centers_,
    "polars": lambda: pl.Series(matrix.flatten()).log().to_numpy(),
    "lightgbm": boost,
}
for name, compute in COMPUTATIONS.items():
    print(name, hashlib.sha256(np.ascontiguousarray(compute()).tobytes()).hexdigest())
