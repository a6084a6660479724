"""Users and statements as arrays: distinct texts, and for each user and statement the rows of their texts."""

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

BUILT_IN_USER_FEATURES = ("chunks", "words", "days", "platforms")
BUILT_IN_STATEMENT_FEATURES = ("words", "context", "users")


@dataclass
class EncoderSide:
    """The distinct texts of all users, or of all statements, with their word counts and encoder vectors."""

    name: str
    """name of the encoder"""
    length: int
    """maximum number of tokens of a text"""
    is_tuned: bool
    """whether the encoder is trained, so that it has to encode the texts in every step"""
    cache: Path
    """folder of the caches of encoder vectors"""
    texts: list[str] = field(default_factory=list)
    counts: csr_array = field(default_factory=lambda: csr_array((0, BUCKETS)))
    """float64[T, BUCKETS], word counts of each indexed text"""
    lexicon: HashedTfidf = field(default_factory=lambda: HashedTfidf.of([], 0))
    """TF-IDF weights of words"""
    encoder_vectors: np.ndarray | None = None
    """float32[T, W], encoder vectors of the indexed texts; None if the encoder is trained"""
    _rows: dict[str, int] = field(default_factory=dict)

    def add_text(self, text: str) -> int:
        """The row of a text in `texts`, where it is added if it is new."""
        if text not in self._rows:
            self._rows[text] = len(self.texts)
            self.texts.append(text)
        return self._rows[text]

    def index_new_texts(self, lexicon: HashedTfidf) -> None:
        """Counts words of the texts added since the last call, and encodes them unless the encoder is trained."""
        self.lexicon = lexicon
        new = self.texts[self.num_indexed :]
        new_counts = word_counts(new) if lexicon.width else csr_array((len(new), BUCKETS))
        self.counts = vstack([self.counts, new_counts], format="csr")
        if not self.is_tuned:
            encoder_vectors = self.vectors(new)
            self.encoder_vectors = (
                encoder_vectors
                if self.encoder_vectors is None
                else np.concatenate([self.encoder_vectors, encoder_vectors])
            )

    @property
    def num_indexed(self) -> int:
        """Number of texts whose words were counted."""
        return int(self.counts.shape[0])

    def words(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        """float32[n, X]: a word vector for each of n groups of texts, from the word counts of the group.

        rows: n times int64, rows of the texts of a group.
        """
        indices = np.concatenate([np.zeros(0, np.int64), *rows])
        indptr = np.concatenate([[0], np.cumsum([len(group) for group in rows])])
        groups = csr_array((np.ones(len(indices)), indices, indptr), (len(rows), self.num_indexed))
        return self.lexicon.vectors(groups @ self.counts)

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """float32[n, W], of length 1; from the cache if possible, else from the encoder."""
        if not texts:
            return np.zeros((0, self.width), np.float32)
        device = encoding.device().type
        if device == "cpu":  # CPUs that round differently have separate caches
            device += f"-{torch.backends.cpu.get_cpu_capability().lower()}-{kernels.pinned_digest()}"
        folder = self.cache / f"{encoding.encoder_digest(self.name).replace('/', '--')}-{self.length}-{device}"
        return EncodingCache(folder).get(texts, lambda missing: encoding.encode_all(self.encoder, missing))

    @functools.cached_property
    def encoder(self) -> encoding.SentenceTransformer:
        return encoding.load_encoder(self.name, self.length)

    @functools.cached_property
    def width(self) -> int:
        """Width of the encoder's vectors."""
        if self.encoder_vectors is not None and len(self.encoder_vectors):
            return self.encoder_vectors.shape[1]
        return encoding.encoder_width(self.encoder)

    def passages(self, rows: np.ndarray) -> PassageBatch:
        """A batch of the texts in `rows`, int64[n]."""
        if self.encoder_vectors is not None:
            return PassageBatch(torch.from_numpy(self.encoder_vectors[rows]))
        features = encoding.tokenize_texts(self.encoder, [self.texts[k] for k in rows])
        return PassageBatch(None, features["input_ids"], features["attention_mask"])


def encoder_sides(config: ModelConfig, cache: Path) -> tuple[EncoderSide, EncoderSide]:
    """The texts of users and of statements, both still empty."""
    is_tuned = config.tuned_layers != 0
    max_tokens = max(config.max_statement_length, config.max_context_length)
    return (
        EncoderSide(config.user_model_name, config.max_chunk_length, is_tuned, cache),
        EncoderSide(config.item_model_name, max_tokens, is_tuned, cache),
    )


@dataclass(frozen=True)
class ChunkedUser:
    """A user's chunks, the newest first."""

    rows: np.ndarray
    """int64[C], rows of the chunks among the texts of the user side"""
    timestamps: np.ndarray
    """float64[C], UTC seconds; 0 where unknown"""
    words: np.ndarray
    """float64[C], number of words"""
    platform: np.ndarray
    """int64[C], hash of the platform"""
    numeric_features: np.ndarray
    """float32[m], the user's own metadata"""

    def select(self, chosen: np.ndarray) -> ChunkedUser:
        """The user with only these chunks. chosen: int64[c], ascending."""
        return ChunkedUser(
            self.rows[chosen], self.timestamps[chosen], self.words[chosen], self.platform[chosen], self.numeric_features
        )


class Corpus:
    """Makes arrays and batches of users and statements, as the towers read them."""

    def __init__(
        self,
        config: ModelConfig,
        user_side: EncoderSide,
        statement_side: EncoderSide,
        metadata: tuple[Sequence[str], Sequence[str]] = ((), ()),
        statement_counts: Mapping[str, int] | None = None,
    ):
        """metadata: names of the metadata of users and of statements; statement_counts: statement -> number of training
        users of whom it is true."""
        self.config, self.user_side, self.statement_side = config, user_side, statement_side
        self.user_metadata_names, self.statement_metadata_names = metadata
        self.statement_counts = statement_counts or {}

    def chunked_user(self, user: UserData) -> ChunkedUser:
        """The newest `num_chunks_per_user` chunks of a user; their texts are added to the user side."""
        chunks = sorted(user.chunks, key=lambda chunk: (-(chunk.utc_second or 0), chunk.text))
        chunks = chunks[: self.config.num_chunks_per_user]
        metadata = [user.metadata.get(name, 0.0) for name in self.user_metadata_names]
        return ChunkedUser(
            np.array([self.user_side.add_text(chunk.text) for chunk in chunks], np.int64),
            np.array([chunk.utc_second or 0 for chunk in chunks], np.float64),
            np.array([len(chunk.text.split()) for chunk in chunks], np.float64),
            np.array([platform_hash(chunk.platform) for chunk in chunks], np.int64),
            np.array(metadata, np.float32),
        )

    def statement(self, statement: str | Statement) -> tuple[int, int, np.ndarray]:
        """(row of the text, row of the context or -1 without one, float32[M] numeric features).

        The texts are added to the statement side.
        """
        s = as_statement(statement)
        text = self._truncated(s.text, self.config.max_statement_length)
        context = self._truncated(s.context, self.config.max_context_length)
        features = [len(s.text.split()), bool(s.context), self.statement_counts.get(" | ".join(s.key), 0)]
        numeric_features = (
            np.log1p(np.array(features, np.float32)) if self.config.use_item_metadata else np.zeros(0, np.float32)
        )
        metadata = np.array([s.metadata.get(name, 0.0) for name in self.statement_metadata_names], np.float32)
        return (
            self.statement_side.add_text(text),
            self.statement_side.add_text(context) if context else -1,
            np.concatenate([numeric_features, metadata]) if self.config.use_item_metadata else numeric_features,
        )

    def _truncated(self, text: str, max_tokens: int) -> str:
        """The first `max_tokens` tokens of a text. A text with at most `max_tokens` characters is not tokenized."""
        if len(text) <= max_tokens:
            return text
        (offsets,) = self._tokenizer.offsets([text])
        return text if len(offsets) <= max_tokens else text[: offsets[max_tokens][0]].strip()

    @functools.cached_property
    def _tokenizer(self) -> encoding.TokenOffsets:
        return encoding.TokenOffsets(self.statement_side.name)

    def users(self, users: Sequence[ChunkedUser], rows: np.ndarray | None = None) -> UserBatch:
        """A batch of users. rows: int64[T], ascending, the texts of the batch of passages; None: all texts."""
        max_chunks = max((len(user.rows) for user in users), default=0)
        shape = len(users), max(max_chunks, 1)
        chunks, mask, age = np.zeros(shape, np.int64), np.zeros(shape, bool), np.zeros(shape, np.float32)
        for k, user in enumerate(users):
            n = len(user.rows)
            chunks[k, :n] = user.rows if rows is None else np.searchsorted(rows, user.rows)
            mask[k, :n] = True
            if n:
                age[k, :n] = np.log1p((user.timestamps.max() - user.timestamps) / DAY)
        numeric_features = self.user_features(users)
        words = self.user_side.words([user.rows for user in users])
        return UserBatch(*(torch.from_numpy(x) for x in (chunks, mask, age, words, numeric_features)))

    def statements(
        self, encoded: Sequence[tuple[int, int, np.ndarray]], rows: np.ndarray | None = None
    ) -> StatementBatch:
        """A batch of statements. encoded: as `statement` returns them; rows: as for `users`."""
        text, context = (np.array([entry[k] for entry in encoded], np.int64) for k in (0, 1))
        words = self.statement_side.words([np.array([k for k in entry[:2] if k >= 0], np.int64) for entry in encoded])
        if rows is not None:
            text = np.searchsorted(rows, text)
            context = np.where(context >= 0, np.searchsorted(rows, context), -1)
        numeric_features = self.statement_features(encoded)
        return StatementBatch(*(torch.from_numpy(x) for x in (text, context, words, numeric_features)))

    def user_features(self, users: Sequence[ChunkedUser]) -> np.ndarray:
        """float32[n, M], numeric features."""
        numeric_features = [_user_features(user) for user in users] if self.user_width else []
        return np.stack(numeric_features) if numeric_features else np.zeros((len(users), self.user_width), np.float32)

    def statement_features(self, encoded: Sequence[tuple[int, int, np.ndarray]]) -> np.ndarray:
        """float32[n, M], numeric features. encoded: statements as `statement` returns them."""
        return np.stack([entry[2] for entry in encoded]) if encoded else np.zeros((0, self.statement_width), np.float32)

    @property
    def user_width(self) -> int:
        return len(BUILT_IN_USER_FEATURES) + len(self.user_metadata_names) if self.config.use_user_metadata else 0

    @property
    def statement_width(self) -> int:
        return (
            len(BUILT_IN_STATEMENT_FEATURES) + len(self.statement_metadata_names)
            if self.config.use_item_metadata
            else 0
        )


def platform_hash(platform: str) -> int:
    """A hash of a platform's name that is the same in every process."""
    return int.from_bytes(hashlib.sha256(platform.encode()).digest()[:7], "big")


def _user_features(user: ChunkedUser) -> np.ndarray:
    """float32[M]: logarithms of BUILT_IN_USER_FEATURES, then the user's own metadata."""
    if not len(user.rows):
        return np.concatenate([np.zeros(len(BUILT_IN_USER_FEATURES), np.float32), user.numeric_features])
    days = (user.timestamps.max() - user.timestamps.min()) / DAY
    features = [len(user.rows), user.words.sum(), days, len(np.unique(user.platform))]
    return np.concatenate([np.log1p(np.array(features, np.float32)), user.numeric_features])
