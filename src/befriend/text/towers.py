"""The two text towers: the user tower embeds a user's texts, the statement tower a statement, in the same space.

The towers share no weights. Both start from the principal axes of the encoders' vectors, and each learns a low-rank
update on top (Hu et al. 2021). So they work without training, and improve with a few hundred users.
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

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 1.0
INITIAL_ENCODER_WEIGHT = 0.3  # the word vector has the rest, because rare words tell users apart


@dataclass(frozen=True)
class PassageBatch(TensorBatch):
    """T distinct texts: their encoder vectors, or their token ids for a trained encoder."""

    encoder_vectors: Tensor | None
    """float32[T, W], encoder vectors of length 1; None if the encoder is trained"""
    token_ids: Tensor | None = None
    """int64[T, L]"""
    mask: Tensor | None = None
    """int64[T, L], attention mask: 1 for a token, 0 for padding"""


@dataclass(frozen=True)
class UserBatch(TensorBatch):
    """B users, each with up to C chunks."""

    chunks: Tensor
    """int64[B, C], rows of the batch of passages"""
    mask: Tensor
    """bool[B, C], False for padding"""
    age: Tensor
    """float32[B, C], log(1 + days between a chunk and the user's newest chunk)"""
    words: Tensor
    """float32[B, X], word vector of all chunks together, of length 1"""
    numeric_features: Tensor
    """float32[B, M], such as the number of chunks"""


@dataclass(frozen=True)
class StatementBatch(TensorBatch):
    """S statements, each with a text and perhaps a context."""

    text: Tensor
    """int64[S], rows of the batch of passages"""
    context: Tensor
    """int64[S], rows of the batch of passages, -1 without a context"""
    words: Tensor
    """float32[S, X], word vector of text and context together, of length 1"""
    numeric_features: Tensor
    """float32[S, M], such as the number of words"""


class AttentionPooling(nn.Module):
    """Weighted mean of a user's chunks; each head weights its own slice of their vectors.

    Before training, it is the unweighted mean. The order of chunks has no effect except through their age.
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
    """Applies a learned low-rank update to encoder and word vectors, and projects them onto principal axes."""

    def __init__(
        self,
        encoder_width: int,
        word_width: int,
        out_width: int,
        rank: int,
        dropout: float,
        num_features: int,
        hidden: int,
    ):
        super().__init__()
        self.encoder_width = encoder_width
        self.register_buffer("mean", torch.zeros(encoder_width))
        self.out_width = out_width
        # An input that is no wider than the space is only padded.
        self.register_buffer(
            "axes", torch.eye(encoder_width + word_width, out_width) if out_width < encoder_width + word_width else None
        )
        self.balance = nn.Parameter(torch.tensor([INITIAL_ENCODER_WEIGHT, 1 - INITIAL_ENCODER_WEIGHT]).log())
        self.down = nn.Linear(encoder_width + word_width, rank, bias=False)
        self.up = nn.Linear(rank, encoder_width + word_width, bias=False)
        nn.init.zeros_(self.up.weight)
        self.dropout = nn.Dropout(dropout)
        self.standardise = Standardise(num_features) if num_features else None
        self.numbers = MLP(num_features, hidden, out_width, dropout=dropout) if num_features else None
        if self.numbers is not None:
            nn.init.zeros_(self.numbers.out.weight)
            nn.init.zeros_(self.numbers.out.bias)
        self.mean: Tensor
        self.axes: Tensor | None

    def normalise_blocks(self, inputs: Tensor) -> Tensor:
        """float32[n, W + X]: encoder and word vectors, each scaled to length 1, weighted to length 1 in total."""
        weights = self.balance.softmax(0).rsqrt().reciprocal()  # torch.sqrt rounds differently on AMD
        blocks = inputs.split([self.encoder_width, inputs.shape[-1] - self.encoder_width], -1)
        return torch.cat(
            [weight * F.normalize(block, dim=-1) for weight, block in zip(weights, blocks, strict=True)], -1
        )

    def project(self, inputs: Tensor) -> Tensor:
        """float32[n, E]: rows, float32[n, W + X], projected onto the axes; if E > W + X, the other columns are 0."""
        return F.pad(inputs, (0, self.out_width - inputs.shape[1])) if self.axes is None else inputs @ self.axes

    def forward(self, inputs: Tensor, numeric_features: Tensor) -> Tensor:
        """inputs: float32[n, W + X], encoder and word vectors; numeric_features:
        float32[n, M]. Returns float32[n, E], of length 1."""
        updated = inputs + self.up(self.dropout(self.down(inputs)))
        out = self.project(self.normalise_blocks(updated))
        if self.numbers is not None and self.standardise is not None:
            out = out + self.numbers(self.standardise(numeric_features))
        return F.normalize(out, dim=-1)


class TextTower(nn.Module):
    """Base of both towers: a projection head, and the encoder if it is trained."""

    def __init__(self, encoder_name: str, encoder_width: int, config: ModelConfig, num_features: int, hidden: int):
        super().__init__()
        self.head = ProjectionHead(
            encoder_width, config.lexical_dim, config.embedding_dim, config.rank, config.dropout, num_features, hidden
        )
        self.encoder: nn.Module | None = None
        if config.tuned_layers:
            self.encoder = encoding.load_encoder(encoder_name, config.max_chunk_length)
            _unfreeze(self.encoder, config.tuned_layers)

    def encode(self, passages: PassageBatch) -> Tensor:
        """float32[T, W]: encoder vectors of the passages, minus the mean of the training texts."""
        encoder_vectors = passages.encoder_vectors
        if encoder_vectors is None:
            assert self.encoder is not None and passages.token_ids is not None and passages.mask is not None
            features = {"input_ids": passages.token_ids, "attention_mask": passages.mask}
            encoder_vectors = encoding.encode_batch(self.encoder, features)  # type: ignore[arg-type]
        return encoder_vectors - self.head.mean


class UserTower(TextTower):
    """The user tower: embeds a user from chunks and numeric features."""

    def __init__(self, encoder_width: int, config: ModelConfig, num_features: int):
        super().__init__(config.user_model_name, encoder_width, config, num_features, config.metadata_dim)
        self.pooling = AttentionPooling(encoder_width, config.attention_heads) if config.use_attention_pooling else None

    def forward(self, passages: PassageBatch, users: UserBatch) -> Tensor:
        """float32[B, E], of length 1; 0 for a user without chunks."""
        return self.embed(self.encode(passages), users)

    def embed(self, encoded: Tensor, users: UserBatch) -> Tensor:
        """Like `forward`, from encoded passages, float32[T, W], as `encode` returns them."""
        chunks = encoded[users.chunks.clamp(min=0)]
        if self.pooling is None:
            weight = users.mask.float() / users.mask.sum(1, keepdim=True).clamp(min=1)
            pooled = torch.einsum("bc,bcw->bw", weight, chunks)
        else:
            pooled = self.pooling(chunks, users.mask, users.age)
        return self.head(torch.cat([pooled, users.words], 1), users.numeric_features) * users.mask.any(1, keepdim=True)


class StatementTower(TextTower):
    """The statement tower (`item` in settings and files): embeds a statement from text, context and features."""

    def __init__(self, encoder_width: int, config: ModelConfig, num_features: int):
        super().__init__(config.item_model_name, encoder_width, config, num_features, config.item_metadata_dim)
        self.context = nn.Parameter(torch.tensor(0.5))

    def forward(self, passages: PassageBatch, statements: StatementBatch) -> Tensor:
        """float32[S, E], of length 1."""
        encoded = self.encode(passages)
        context = encoded[statements.context.clamp(min=0)] * (statements.context >= 0)[:, None]
        text_and_context = encoded[statements.text] + self.context * context
        return self.head(torch.cat([text_and_context, statements.words], 1), statements.numeric_features)


class Temperature(nn.Module):
    """A learned temperature between MIN_TEMPERATURE and MAX_TEMPERATURE: a sigmoid on the logarithmic scale."""

    def __init__(self, initial: float):
        super().__init__()
        fraction = math.log(initial / MIN_TEMPERATURE) / math.log(MAX_TEMPERATURE / MIN_TEMPERATURE)
        self.logit = nn.Parameter(torch.tensor(math.log(fraction / (1 - fraction))))

    def forward(self) -> Tensor:
        """float32[]."""
        return MIN_TEMPERATURE * (MAX_TEMPERATURE / MIN_TEMPERATURE) ** self.logit.sigmoid()


class UniversalUserEmbedding(nn.Module):
    """Both towers, and the temperature of their softmax."""

    def __init__(self, config: ModelConfig, encoder_widths: tuple[int, int], num_features: tuple[int, int]):
        """encoder_widths, num_features: for users, then statements."""
        super().__init__()
        self.user = UserTower(encoder_widths[0], config, num_features[0])
        self.item = StatementTower(encoder_widths[1], config, num_features[1])
        self.temperature = Temperature(config.temperature)

    @torch.no_grad()
    def initialise(self, users: Tensor, statements: Tensor) -> None:
        """Sets the means and axes of both heads, from training texts.

        users, statements: float32[n, W + X] each, encoder and word vectors. Each side has its own mean, because the
        difference of the means only tells users' texts from statements. If the encoders have different widths, each
        tower gets its own axes.
        """
        normalised = []
        tower: TextTower
        for tower, inputs in ((self.user, users), (self.item, statements if len(statements) else users)):
            encoded, words = inputs.split([tower.head.encoder_width, inputs.shape[1] - tower.head.encoder_width], 1)
            if len(inputs):
                tower.head.mean.copy_(encoded.mean(0))
            normalised.append(tower.head.normalise_blocks(torch.cat([encoded - tower.head.mean, words], 1)))
        common = torch.cat(normalised) if normalised[0].shape[1] == normalised[1].shape[1] else None
        for tower, inputs in zip((self.user, self.item), normalised, strict=True):
            if tower.head.axes is not None:
                tower.head.axes.copy_(principal_axes(inputs if common is None else common, tower.head.out_width))


def principal_axes(rows: Tensor, out: int) -> Tensor:
    """float32[D, out]: the leading principal axes of rows, float32[n, D], out < D; unit axes if n is 0."""
    if not len(rows):
        return torch.eye(rows.shape[1], out)
    _, _, v = torch.linalg.svd(rows.double().T @ rows.double())
    axes = v[:out].T
    axes = axes * torch.where(axes.gather(0, axes.abs().argmax(0, keepdim=True)) < 0, -1, 1)  # deterministic signs
    return axes.float()


def _unfreeze(encoder: nn.Module, layers: int | str) -> None:
    """Makes only the last `layers` layers of the encoder trainable, or "all"."""
    encoder.requires_grad_(layers == "all")
    if layers == "all":
        return
    stack = max((module for module in encoder.modules() if isinstance(module, nn.ModuleList)), key=len)
    assert isinstance(layers, int)
    for block in list(stack)[-layers:]:
        block.requires_grad_(True)
