"""Users and statements as arrays: each distinct text once, and which user or statement has which texts."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse import csr_array, vstack  # type: ignore[import-untyped]

from befriend import kernels
from befriend.data.event_log import DAY
from befriend.text import text_encoder as encoding
from befriend.text.chunks import Statement, UserData, as_statement
from befriend.text.encoding_cache import EncodingCache
from befriend.text.lexicon import BUCKETS, HashedTfidf, word_counts
from befriend.text.towers import PassageBatch, StatementBatch, UserBatch

if TYPE_CHECKING:
    from befriend.text.text_settings import ModelConfig

USER_NUMBERS = ("chunks", "words", "days", "platforms")
ITEM_NUMBERS = ("words", "context", "users")


@dataclass
class EncoderSide:
    """The distinct texts of one side, users or statements, and how they are encoded."""

    name: str
    """name of the encoder"""
    length: int
    """maximum number of tokens of a text"""
    tuned: bool
    """whether the encoder is trained, so that it has to run in every step"""
    cache: Path
    """folder of the encoding caches"""
    texts: list[str] = field(default_factory=list)
    counts: csr_array = field(default_factory=lambda: csr_array((0, BUCKETS)))
    """float64[T, BUCKETS], word counts of each text that was read"""
    lexicon: HashedTfidf = field(default_factory=lambda: HashedTfidf.of([], 0))
    """weights of the words"""
    dense: np.ndarray | None = None
    """float32[T, W], encoder vectors; None where the encoder runs in every step"""
    _rows: dict[str, int] = field(default_factory=dict)

    def row_of(self, text: str) -> int:
        """Row of a text in `texts`; a new text is added."""
        if text not in self._rows:
            self._rows[text] = len(self.texts)
            self.texts.append(text)
        return self._rows[text]

    def read(self, lexicon: HashedTfidf) -> None:
        """Counts the words of the texts added since the last call, and encodes them unless the encoder is trained."""
        self.lexicon = lexicon
        new = self.texts[self.known :]
        new_counts = word_counts(new) if lexicon.width else csr_array((len(new), BUCKETS))
        self.counts = vstack([self.counts, new_counts], format="csr")
        if not self.tuned:
            dense = self.vectors(new)
            self.dense = dense if self.dense is None else np.concatenate([self.dense, dense])

    @property
    def known(self) -> int:
        """Number of texts that were read."""
        return int(self.counts.shape[0])

    def words(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        """float32[n, X]: the word vector of each group of texts, whose words are counted together.

        rows: int64 each, the texts of each group.
        """
        indices = np.concatenate([np.zeros(0, np.int64), *rows])
        indptr = np.concatenate([[0], np.cumsum([len(group) for group in rows])])
        groups = csr_array((np.ones(len(indices)), indices, indptr), (len(rows), self.known))
        return self.lexicon.vectors(groups @ self.counts)

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """float32[n, W], of length 1, from the cache where it has them; the encoder is loaded only if it is needed."""
        if not texts:
            return np.zeros((0, self.width), np.float32)
        device = encoding.device().type
        if device == "cpu":  # a CPU that rounds differently has a cache of its own
            device += f"-{torch.backends.cpu.get_cpu_capability().lower()}-{kernels.pinned_digest()}"
        folder = self.cache / f"{encoding.encoder_digest(self.name).replace('/', '--')}-{self.length}-{device}"
        return EncodingCache(folder).get(texts, lambda missing: encoding.encode_all(self.encoder, missing))

    @functools.cached_property
    def encoder(self) -> encoding.SentenceTransformer:
        return encoding.load_encoder(self.name, self.length)

    @functools.cached_property
    def width(self) -> int:
        """Width of the encoder's vectors."""
        if self.dense is not None and len(self.dense):
            return self.dense.shape[1]
        return encoding.encoder_width(self.encoder)

    def passages(self, rows: np.ndarray) -> PassageBatch:
        """The texts in these rows, int64[n], as a batch."""
        if self.dense is not None:
            return PassageBatch(torch.from_numpy(self.dense[rows]))
        features = encoding.tokenize_texts(self.encoder, [self.texts[k] for k in rows])
        return PassageBatch(None, features["input_ids"], features["attention_mask"])


def encoder_sides(config: ModelConfig, cache: Path) -> tuple[EncoderSide, EncoderSide]:
    """(side of users, side of statements)."""
    tuned = config.tuned_layers != 0
    max_tokens = max(config.max_statement_length, config.max_context_length)
    return (
        EncoderSide(config.user_model_name, config.max_chunk_length, tuned, cache),
        EncoderSide(config.item_model_name, max_tokens, tuned, cache),
    )


@dataclass(frozen=True)
class ChunkedUser:
    """A user's chunks, the newest first."""

    rows: np.ndarray
    """int64[C], rows of the chunks among the texts of the user side"""
    second: np.ndarray
    """float64[C], UTC seconds; 0 where unknown"""
    words: np.ndarray
    """float64[C], number of words"""
    platform: np.ndarray
    """int64[C], hash of the platform"""
    numbers: np.ndarray
    """float32[m], the user's own metadata"""

    def only(self, chosen: np.ndarray) -> ChunkedUser:
        """The user with these chunks alone. chosen: int64[c], ascending."""
        return ChunkedUser(
            self.rows[chosen], self.second[chosen], self.words[chosen], self.platform[chosen], self.numbers
        )


class Corpus:
    """Makes arrays and batches of users and statements, as the towers read them."""

    def __init__(
        self,
        config: ModelConfig,
        user_side: EncoderSide,
        item_side: EncoderSide,
        metadata: tuple[Sequence[str], Sequence[str]] = ((), ()),
        common: Mapping[str, int] | None = None,
    ):
        """metadata: names of the metadata of users and of statements; common: statement -> number of training users
        of whom it is true."""
        self.config, self.user_side, self.item_side = config, user_side, item_side
        self.user_names, self.item_names = metadata
        self.common = common or {}

    def person(self, user: UserData) -> ChunkedUser:
        """The newest `num_chunks_per_user` chunks of a user; their texts join the user side."""
        chunks = sorted(user.chunks, key=lambda chunk: (-(chunk.second or 0), chunk.text))
        chunks = chunks[: self.config.num_chunks_per_user]
        metadata = [user.metadata.get(name, 0.0) for name in self.user_names]
        return ChunkedUser(
            np.array([self.user_side.row_of(chunk.text) for chunk in chunks], np.int64),
            np.array([chunk.second or 0 for chunk in chunks], np.float64),
            np.array([len(chunk.text.split()) for chunk in chunks], np.float64),
            np.array([hash_of(chunk.platform) for chunk in chunks], np.int64),
            np.array(metadata, np.float32),
        )

    def statement(self, statement: str | Statement) -> tuple[int, int, np.ndarray]:
        """(row of the text, row of the context or -1 without one, float32[M] numbers); the texts join the item side."""
        s = as_statement(statement)
        text = self._truncated(s.text, self.config.max_statement_length)
        context = self._truncated(s.context, self.config.max_context_length)
        figures = [len(s.text.split()), bool(s.context), self.common.get(" | ".join(s.key), 0)]
        numbers = np.log1p(np.array(figures, np.float32)) if self.config.use_item_metadata else np.zeros(0, np.float32)
        metadata = np.array([s.metadata.get(name, 0.0) for name in self.item_names], np.float32)
        return (
            self.item_side.row_of(text),
            self.item_side.row_of(context) if context else -1,
            np.concatenate([numbers, metadata]) if self.config.use_item_metadata else numbers,
        )

    def _truncated(self, text: str, max_tokens: int) -> str:
        """The first `max_tokens` tokens. A text with no more characters than that needs no counting."""
        if len(text) <= max_tokens:
            return text
        (offsets,) = self._tokenizer.offsets([text])
        return text if len(offsets) <= max_tokens else text[: offsets[max_tokens][0]].strip()

    @functools.cached_property
    def _tokenizer(self) -> encoding.TokenOffsets:
        return encoding.TokenOffsets(self.item_side.name)

    def users(self, users: Sequence[ChunkedUser], rows: np.ndarray | None = None) -> UserBatch:
        """rows: int64[T], ascending, the texts in the batch of passages that goes with this one; None: all texts."""
        max_chunks = max((len(user.rows) for user in users), default=0)
        shape = len(users), max(max_chunks, 1)
        chunks, mask, age = np.zeros(shape, np.int64), np.zeros(shape, bool), np.zeros(shape, np.float32)
        for k, user in enumerate(users):
            n = len(user.rows)
            chunks[k, :n] = user.rows if rows is None else np.searchsorted(rows, user.rows)
            mask[k, :n] = True
            if n:
                age[k, :n] = np.log1p((user.second.max() - user.second) / DAY)
        numbers = self.user_numbers(users)
        words = self.user_side.words([user.rows for user in users])
        return UserBatch(*(torch.from_numpy(x) for x in (chunks, mask, age, words, numbers)))

    def statements(
        self, encoded: Sequence[tuple[int, int, np.ndarray]], rows: np.ndarray | None = None
    ) -> StatementBatch:
        """encoded: statements as `statement` returns them; rows: as in `users`."""
        text, context = (np.array([entry[k] for entry in encoded], np.int64) for k in (0, 1))
        words = self.item_side.words([np.array([k for k in entry[:2] if k >= 0], np.int64) for entry in encoded])
        if rows is not None:
            text = np.searchsorted(rows, text)
            context = np.where(context >= 0, np.searchsorted(rows, context), -1)
        numbers = self.item_numbers(encoded)
        return StatementBatch(*(torch.from_numpy(x) for x in (text, context, words, numbers)))

    def user_numbers(self, users: Sequence[ChunkedUser]) -> np.ndarray:
        """float32[n, M]."""
        numbers = [_numbers(user) for user in users] if self.user_width else []
        return np.stack(numbers) if numbers else np.zeros((len(users), self.user_width), np.float32)

    def item_numbers(self, encoded: Sequence[tuple[int, int, np.ndarray]]) -> np.ndarray:
        """float32[n, M]. encoded: statements as `statement` returns them."""
        return np.stack([entry[2] for entry in encoded]) if encoded else np.zeros((0, self.item_width), np.float32)

    @property
    def user_width(self) -> int:
        return len(USER_NUMBERS) + len(self.user_names) if self.config.use_user_metadata else 0

    @property
    def item_width(self) -> int:
        return len(ITEM_NUMBERS) + len(self.item_names) if self.config.use_item_metadata else 0


def hash_of(platform: str) -> int:
    """A hash of the platform's name that is the same in every process."""
    return int.from_bytes(hashlib.sha256(platform.encode()).digest()[:7], "big")


def _numbers(user: ChunkedUser) -> np.ndarray:
    """float32[M]: logarithms of USER_NUMBERS, then the user's own metadata."""
    if not len(user.rows):
        return np.concatenate([np.zeros(len(USER_NUMBERS), np.float32), user.numbers])
    days = (user.second.max() - user.second.min()) / DAY
    figures = [len(user.rows), user.words.sum(), days, len(np.unique(user.platform))]
    return np.concatenate([np.log1p(np.array(figures, np.float32)), user.numbers])
