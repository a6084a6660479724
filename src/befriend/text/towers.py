"""The two towers: a user from the chunks they wrote, a statement from its words; both map into one shared space.

No weight is shared. Both start from the same principal axes of the encoders' vectors, and each learns an update of low
rank on top (Hu et al. 2021), so that a few hundred users are enough for a gain, and the towers work without any
training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from befriend.nn.layers import MLP, Standardise
from befriend.nn.tensors import TensorBatch
from befriend.text import text_encoder as encoding

if TYPE_CHECKING:
    from befriend.text.text_settings import ModelConfig

LOWEST, HIGHEST = 0.01, 1.0  # temperature
DENSE = 0.3  # initial weight of the encoder's vector; words have the rest: rare words tell users apart


@dataclass(frozen=True)
class PassageBatch(TensorBatch):
    """T distinct texts: their encoder vectors, or the tokens for an encoder to read."""

    dense: Tensor | None
    """float32[T, W], of length 1; None where the encoder is still to run"""
    ids: Tensor | None = None
    """int64[T, L]"""
    mask: Tensor | None = None
    """int64[T, L], 1 where there is a token"""


@dataclass(frozen=True)
class UserBatch(TensorBatch):
    """B users by their chunks."""

    chunks: Tensor
    """int64[B, C], indices into the passages"""
    mask: Tensor
    """bool[B, C], which of them exist"""
    age: Tensor
    """float32[B, C], log(1 + days) from a chunk to the newest one of the user"""
    words: Tensor
    """float32[B, X], word vector of all chunks together, of length 1"""
    numbers: Tensor
    """float32[B, M]"""


@dataclass(frozen=True)
class StatementBatch(TensorBatch):
    """S statements."""

    text: Tensor
    """int64[S], indices into the passages"""
    context: Tensor
    """int64[S], likewise, -1 for none"""
    words: Tensor
    """float32[S, X], word vector of text and context together, of length 1"""
    numbers: Tensor
    """float32[S, M]"""


class AttentionPooling(nn.Module):
    """The weighted mean of a user's chunks; each head weighs its own slice of their vectors.

    Untrained, it is the plain mean. Chunks are a set: their order counts only through their age.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.score = nn.Parameter(torch.zeros(heads, width // heads))
        self.recency = nn.Parameter(torch.zeros(heads))

    def forward(self, chunks: Tensor, mask: Tensor, age: Tensor) -> Tensor:
        """chunks: float32[B, C, W]; mask: bool[B, C]; age: float32[B, C]. Returns float32[B, W], 0 without chunks."""
        b, c, w = chunks.shape
        slices = chunks.view(b, c, self.heads, w // self.heads)
        score = torch.einsum("bchd,hd->bch", slices, self.score) - age[..., None] * self.recency
        score = score.masked_fill(~mask[..., None], torch.finfo(score.dtype).min)
        weight = score.softmax(1) * mask[..., None]  # 0 everywhere for a user without chunks
        return torch.einsum("bch,bchd->bhd", weight, slices).reshape(b, w)


class ProjectionHead(nn.Module):
    """Projects encoder and word vectors into the shared space: onto principal axes, after a learned update."""

    def __init__(self, dense: int, lexical: int, out: int, rank: int, dropout: float, numbers: int, hidden: int):
        super().__init__()
        self.dense = dense
        self.register_buffer("mean", torch.zeros(dense))
        self.out = out
        # An input that fits into the space needs no rotation.
        self.register_buffer("axes", torch.eye(dense + lexical, out) if out < dense + lexical else None)
        self.balance = nn.Parameter(torch.tensor([DENSE, 1 - DENSE]).log())
        self.down = nn.Linear(dense + lexical, rank, bias=False)
        self.up = nn.Linear(rank, dense + lexical, bias=False)
        nn.init.zeros_(self.up.weight)
        self.dropout = nn.Dropout(dropout)
        self.standardise = Standardise(numbers) if numbers else None
        self.numbers = MLP(numbers, hidden, out, dropout=dropout) if numbers else None
        if self.numbers is not None:
            nn.init.zeros_(self.numbers.out.weight)
            nn.init.zeros_(self.numbers.out.bias)
        self.mean: Tensor
        self.axes: Tensor | None

    def balanced(self, inputs: Tensor) -> Tensor:
        """Encoder and word vectors, each scaled to length 1 and weighted so that both together have length 1."""
        weights = self.balance.softmax(0).sqrt()
        blocks = inputs.split([self.dense, inputs.shape[-1] - self.dense], -1)
        return torch.cat(
            [weight * F.normalize(block, dim=-1) for weight, block in zip(weights, blocks, strict=True)], -1
        )

    def turned(self, inputs: Tensor) -> Tensor:
        """float32[n, E]: rows, float32[n, W + X], projected onto the axes; columns beyond W + X are 0."""
        return F.pad(inputs, (0, self.out - inputs.shape[1])) if self.axes is None else inputs @ self.axes

    def forward(self, inputs: Tensor, numbers: Tensor) -> Tensor:
        """inputs: float32[n, W + X], encoder and word vectors; numbers: float32[n, M]. Returns float32[n, E], of
        length 1."""
        updated = inputs + self.up(self.dropout(self.down(inputs)))
        out = self.turned(self.balanced(updated))
        if self.numbers is not None and self.standardise is not None:
            out = out + self.numbers(self.standardise(numbers))
        return F.normalize(out, dim=-1)


class TextTower(nn.Module):
    """What both towers have: an encoder, if it is trained, and a projection head."""

    def __init__(self, name: str, dense: int, config: ModelConfig, numbers: int, hidden: int):
        super().__init__()
        self.head = ProjectionHead(
            dense, config.lexical_dim, config.embedding_dim, config.rank, config.dropout, numbers, hidden
        )
        self.encoder: nn.Module | None = None
        if config.tuned_layers:
            self.encoder = encoding.load_encoder(name, config.max_chunk_length)
            _unfreeze(self.encoder, config.tuned_layers)

    def read(self, passages: PassageBatch) -> Tensor:
        """float32[T, W]: encoder vectors of the passages, without the mean that all texts have in common."""
        dense = passages.dense
        if dense is None:
            assert self.encoder is not None and passages.ids is not None and passages.mask is not None
            features = {"input_ids": passages.ids, "attention_mask": passages.mask}
            dense = encoding.encode_batch(self.encoder, features)  # type: ignore[arg-type]
        return dense - self.head.mean


class UserTower(TextTower):
    """A user from chunks and numbers."""

    def __init__(self, dense: int, config: ModelConfig, numbers: int):
        super().__init__(config.user_model_name, dense, config, numbers, config.metadata_dim)
        self.pooling = AttentionPooling(dense, config.attention_heads) if config.use_attention_pooling else None

    def forward(self, passages: PassageBatch, users: UserBatch) -> Tensor:
        """float32[B, E], of length 1; 0 for a user without chunks."""
        return self.pooled(self.read(passages), users)

    def pooled(self, encoded: Tensor, users: UserBatch) -> Tensor:
        """As `forward`, from passages that `read` has encoded: float32[T, W]."""
        chunks = encoded[users.chunks.clamp(min=0)]
        if self.pooling is None:
            weight = users.mask.float() / users.mask.sum(1, keepdim=True).clamp(min=1)
            pooled = torch.einsum("bc,bcw->bw", weight, chunks)
        else:
            pooled = self.pooling(chunks, users.mask, users.age)
        return self.head(torch.cat([pooled, users.words], 1), users.numbers) * users.mask.any(1, keepdim=True)


class ItemTower(TextTower):
    """A statement from its text, its context, and numbers."""

    def __init__(self, dense: int, config: ModelConfig, numbers: int):
        super().__init__(config.item_model_name, dense, config, numbers, config.item_metadata_dim)
        self.context = nn.Parameter(torch.tensor(0.5))

    def forward(self, passages: PassageBatch, statements: StatementBatch) -> Tensor:
        """float32[S, E], of length 1."""
        encoded = self.read(passages)
        context = encoded[statements.context.clamp(min=0)] * (statements.context >= 0)[:, None]
        text_and_context = encoded[statements.text] + self.context * context
        return self.head(torch.cat([text_and_context, statements.words], 1), statements.numbers)


class Temperature(nn.Module):
    """Learned, and always between LOWEST and HIGHEST: a sigmoid on the logarithmic scale."""

    def __init__(self, initial: float):
        super().__init__()
        fraction = math.log(initial / LOWEST) / math.log(HIGHEST / LOWEST)
        self.logit = nn.Parameter(torch.tensor(math.log(fraction / (1 - fraction))))

    def forward(self) -> Tensor:
        """float32[]."""
        return LOWEST * (HIGHEST / LOWEST) ** self.logit.sigmoid()


class UniversalUserEmbedding(nn.Module):
    """Both towers, and the temperature of their softmax."""

    def __init__(self, config: ModelConfig, dense: tuple[int, int], numbers: tuple[int, int]):
        """dense: widths of the encoders of users and of statements; numbers: how many numbers each side has."""
        super().__init__()
        self.user = UserTower(dense[0], config, numbers[0])
        self.item = ItemTower(dense[1], config, numbers[1])
        self.temperature = Temperature(config.temperature)

    @torch.no_grad()
    def begin(self, users: Tensor, statements: Tensor) -> None:
        """Sets the initial means and axes of both heads. users, statements: float32[n, W + X] each, encoder and word
        vectors of training texts.

        Users' texts and statements each have their own mean, which says only which of the two a text is. Encoders of
        different width have no axes in common: then each tower gets its own.
        """
        balanced = []
        tower: TextTower
        for tower, inputs in ((self.user, users), (self.item, statements if len(statements) else users)):
            dense, words = inputs.split([tower.head.dense, inputs.shape[1] - tower.head.dense], 1)
            if len(inputs):
                tower.head.mean.copy_(dense.mean(0))
            balanced.append(tower.head.balanced(torch.cat([dense - tower.head.mean, words], 1)))
        common = torch.cat(balanced) if balanced[0].shape[1] == balanced[1].shape[1] else None
        for tower, inputs in zip((self.user, self.item), balanced, strict=True):
            if tower.head.axes is not None:
                tower.head.axes.copy_(principal_axes(inputs if common is None else common, tower.head.out))


def principal_axes(rows: Tensor, out: int) -> Tensor:
    """float32[D, out]: the leading principal axes of rows, float32[n, D], out < D; the unit axes where n is 0."""
    if not len(rows):
        return torch.eye(rows.shape[1], out)
    _, _, v = torch.linalg.svd(rows.double().T @ rows.double())
    axes = v[:out].T
    axes = axes * torch.where(axes.gather(0, axes.abs().argmax(0, keepdim=True)) < 0, -1, 1)  # a sign that is fixed
    return axes.float()


def _unfreeze(encoder: nn.Module, layers: int | str) -> None:
    """Makes only the last `layers` layers trainable; "all": everything."""
    encoder.requires_grad_(layers == "all")
    if layers == "all":
        return
    stack = max((module for module in encoder.modules() if isinstance(module, nn.ModuleList)), key=len)
    assert isinstance(layers, int)
    for block in list(stack)[-layers:]:
        block.requires_grad_(True)
