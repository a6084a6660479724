"""The two towers: a user from the chunks they wrote, a statement from its words; each to a shared space.

No weight is shared. Both begin at the same place, the principal axes of what the encoder says, and each learns an
update of low rank on top (Hu et al. 2021), so that a few hundred users are enough to gain something and none are
needed to begin with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from befriend.models.batch import Batch
from befriend.models.layers import MLP, Standardise
from befriend.text import encoder as encoding

if TYPE_CHECKING:
    from befriend.text.settings import ModelConfig

LOWEST, HIGHEST = 0.01, 1.0  # temperature
DENSE = 0.3  # share of what the encoder says beside words, to begin with: rare words tell people apart


@dataclass(frozen=True)
class Passages(Batch):
    """T distinct texts, as an encoder reads them or as it has read them."""

    dense: Tensor | None
    """float32[T, W], of length 1; None where the encoder is to read"""
    ids: Tensor | None = None
    """int64[T, L]"""
    mask: Tensor | None = None
    """int64[T, L], 1 where there is a token"""


@dataclass(frozen=True)
class Users(Batch):
    """B users by their chunks."""

    chunks: Tensor
    """int64[B, C], places among the passages"""
    mask: Tensor
    """bool[B, C], which of them there are"""
    age: Tensor
    """float32[B, C], log(1 + days) from a chunk to the newest one of the user"""
    words: Tensor
    """float32[B, X], of all chunks together, of length 1"""
    numbers: Tensor
    """float32[B, M]"""


@dataclass(frozen=True)
class Statements(Batch):
    """S statements."""

    text: Tensor
    """int64[S], places among the passages"""
    context: Tensor
    """int64[S], likewise, -1 for none"""
    words: Tensor
    """float32[S, X], of both together, of length 1"""
    numbers: Tensor
    """float32[S, M]"""


class AttentionPooling(nn.Module):
    """The weighted mean of a user's chunks; each head weighs its own part of their vectors.

    Before it has learned anything it is the plain mean. Chunks are a set: what counts of their order is their age.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.score = nn.Parameter(torch.zeros(heads, width // heads))
        self.recency = nn.Parameter(torch.zeros(heads))

    def forward(self, chunks: Tensor, mask: Tensor, age: Tensor) -> Tensor:
        """chunks: float32[B, C, W]; mask: bool[B, C]; age: float32[B, C]. Returns float32[B, W], 0 without chunks."""
        b, c, w = chunks.shape
        parts = chunks.view(b, c, self.heads, w // self.heads)
        score = torch.einsum("bchd,hd->bch", parts, self.score) - age[..., None] * self.recency
        score = score.masked_fill(~mask[..., None], torch.finfo(score.dtype).min)
        weight = score.softmax(1) * mask[..., None]  # somebody without chunks has no weight at all
        return torch.einsum("bch,bchd->bhd", weight, parts).reshape(b, w)


class Head(nn.Module):
    """From what was read to the shared space: principal axes, and an update that is learned."""

    def __init__(self, dense: int, lexical: int, out: int, rank: int, dropout: float, numbers: int, hidden: int):
        super().__init__()
        self.dense = dense
        self.register_buffer("mean", torch.zeros(dense))
        self.out = out
        # Where all fits, the plain axes do, and nothing has to be turned.
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

    def balanced(self, read: Tensor) -> Tensor:
        """Both parts of length 1 together, whatever their own lengths were."""
        share = self.balance.softmax(0).sqrt()
        parts = read.split([self.dense, read.shape[-1] - self.dense], -1)
        return torch.cat([factor * F.normalize(part, dim=-1) for factor, part in zip(share, parts, strict=True)], -1)

    def turned(self, read: Tensor) -> Tensor:
        """float32[n, E]: rows, float32[n, W + X], along the axes; columns beyond what is read are 0."""
        return F.pad(read, (0, self.out - read.shape[1])) if self.axes is None else read @ self.axes

    def forward(self, read: Tensor, numbers: Tensor) -> Tensor:
        """read: float32[n, W + X]; numbers: float32[n, M]. Returns float32[n, E], of length 1."""
        learned = read + self.up(self.dropout(self.down(read)))
        found = self.turned(self.balanced(learned))
        if self.numbers is not None and self.standardise is not None:
            found = found + self.numbers(self.standardise(numbers))
        return F.normalize(found, dim=-1)


class Tower(nn.Module):
    """What both have: an encoder, where it is trained, and a head."""

    def __init__(self, name: str, dense: int, config: ModelConfig, numbers: int, hidden: int):
        super().__init__()
        self.head = Head(dense, config.lexical_dim, config.embedding_dim, config.rank, config.dropout, numbers, hidden)
        self.encoder: nn.Module | None = None
        if config.tuned_layers:
            self.encoder = encoding.load(name, config.max_chunk_length)
            _thaw(self.encoder, config.tuned_layers)

    def read(self, passages: Passages) -> Tensor:
        """float32[T, W]: the passages as the encoder has read them, without what all texts have in common."""
        dense = passages.dense
        if dense is None:
            assert self.encoder is not None and passages.ids is not None and passages.mask is not None
            features = {"input_ids": passages.ids, "attention_mask": passages.mask}
            dense = encoding.encode(self.encoder, features)  # type: ignore[arg-type]
        return dense - self.head.mean


class UserTower(Tower):
    """A user from chunks and numbers."""

    def __init__(self, dense: int, config: ModelConfig, numbers: int):
        super().__init__(config.user_model_name, dense, config, numbers, config.metadata_dim)
        self.pooling = AttentionPooling(dense, config.attention_heads) if config.use_attention_pooling else None

    def forward(self, passages: Passages, users: Users) -> Tensor:
        """float32[B, E], of length 1; 0 for a user without chunks."""
        return self.pooled(self.read(passages), users)

    def pooled(self, read: Tensor, users: Users) -> Tensor:
        """As `forward`, of passages that have been read: float32[T, W]."""
        chunks = read[users.chunks.clamp(min=0)]
        if self.pooling is None:
            weight = users.mask.float() / users.mask.sum(1, keepdim=True).clamp(min=1)
            pooled = torch.einsum("bc,bcw->bw", weight, chunks)
        else:
            pooled = self.pooling(chunks, users.mask, users.age)
        return self.head(torch.cat([pooled, users.words], 1), users.numbers) * users.mask.any(1, keepdim=True)


class ItemTower(Tower):
    """A statement from its words, the words of its context, and numbers."""

    def __init__(self, dense: int, config: ModelConfig, numbers: int):
        super().__init__(config.item_model_name, dense, config, numbers, config.item_metadata_dim)
        self.context = nn.Parameter(torch.tensor(0.5))

    def forward(self, passages: Passages, statements: Statements) -> Tensor:
        """float32[S, E], of length 1."""
        read = self.read(passages)
        beside = read[statements.context.clamp(min=0)] * (statements.context >= 0)[:, None]
        meant = read[statements.text] + self.context * beside
        return self.head(torch.cat([meant, statements.words], 1), statements.numbers)


class Temperature(nn.Module):
    """Learned, and always between LOWEST and HIGHEST."""

    def __init__(self, begin: float):
        super().__init__()
        place = math.log(begin / LOWEST) / math.log(HIGHEST / LOWEST)
        self.place = nn.Parameter(torch.tensor(math.log(place / (1 - place))))

    def forward(self) -> Tensor:
        """float32[]."""
        return LOWEST * (HIGHEST / LOWEST) ** self.place.sigmoid()


class UniversalUserEmbedding(nn.Module):
    """Both towers, and the temperature of their softmax."""

    def __init__(self, config: ModelConfig, dense: tuple[int, int], numbers: tuple[int, int]):
        """dense: widths of the encoders of users and of statements; numbers: how many numbers each has."""
        super().__init__()
        self.user = UserTower(dense[0], config, numbers[0])
        self.item = ItemTower(dense[1], config, numbers[1])
        self.temperature = Temperature(config.temperature)

    @torch.no_grad()
    def begin(self, users: Tensor, statements: Tensor) -> None:
        """Where both begin, from texts of training, float32[n, W + X] each: what the encoders say of them, and words.

        Users' texts and statements have means of their own, which say only which of the two a text is. Encoders of
        different width have no axes in common: then each has its own.
        """
        found = []
        tower: Tower
        for tower, read in ((self.user, users), (self.item, statements if len(statements) else users)):
            dense, words = read.split([tower.head.dense, read.shape[1] - tower.head.dense], 1)
            if len(read):
                tower.head.mean.copy_(dense.mean(0))
            found.append(tower.head.balanced(torch.cat([dense - tower.head.mean, words], 1)))
        common = torch.cat(found) if found[0].shape[1] == found[1].shape[1] else None
        for tower, read in zip((self.user, self.item), found, strict=True):
            if tower.head.axes is not None:
                tower.head.axes.copy_(principal_axes(read if common is None else common, tower.head.out))


def principal_axes(read: Tensor, out: int) -> Tensor:
    """float32[D, out]: the leading principal axes of rows, float32[n, D], out < D; plain axes where n is 0."""
    if not len(read):
        return torch.eye(read.shape[1], out)
    _, _, v = torch.linalg.svd(read.double().T @ read.double())
    axes = v[:out].T
    axes = axes * torch.where(axes.gather(0, axes.abs().argmax(0, keepdim=True)) < 0, -1, 1)  # no sign by chance
    return axes.float()


def _thaw(encoder: nn.Module, layers: int | str) -> None:
    """Lets the last layers learn, and nothing before them; "all": everything."""
    encoder.requires_grad_(layers == "all")
    if layers == "all":
        return
    stack = max((module for module in encoder.modules() if isinstance(module, nn.ModuleList)), key=len)
    assert isinstance(layers, int)
    for block in list(stack)[-layers:]:
        block.requires_grad_(True)
