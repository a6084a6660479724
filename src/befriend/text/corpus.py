"""Users and statements as arrays: each distinct text once, and who has which."""

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
from befriend.text import encoder as encoding
from befriend.text.cache import Cache
from befriend.text.data import DAY, Statement, UserData, as_statement
from befriend.text.lexicon import BUCKETS, Lexicon, counts
from befriend.text.towers import Passages, Statements, Users

if TYPE_CHECKING:
    from befriend.text.settings import ModelConfig

USER_NUMBERS = ("chunks", "words", "days", "platforms")
ITEM_NUMBERS = ("words", "context", "users")


@dataclass
class Side:
    """One side's distinct texts, and how they are read."""

    name: str
    """of the encoder"""
    length: int
    """most tokens of a text"""
    tuned: bool
    """whether the encoder learns, so that it reads in every step"""
    cache: Path
    """folder of caches"""
    texts: list[str] = field(default_factory=list)
    counts: csr_array = field(default_factory=lambda: csr_array((0, BUCKETS)))
    """float64[T, BUCKETS], the words of each text that was read"""
    lexicon: Lexicon = field(default_factory=lambda: Lexicon.of([], 0))
    """how they are weighed"""
    dense: np.ndarray | None = None
    """float32[T, W]; None where the encoder reads in every step"""
    _place: dict[str, int] = field(default_factory=dict)

    def place(self, text: str) -> int:
        """Of a text, which is added if it is new."""
        if text not in self._place:
            self._place[text] = len(self.texts)
            self.texts.append(text)
        return self._place[text]

    def read(self, lexicon: Lexicon) -> None:
        """What is known of the texts that were added since the last time."""
        self.lexicon = lexicon
        new = self.texts[self.known :]
        found = counts(new) if lexicon.width else csr_array((len(new), BUCKETS))
        self.counts = vstack([self.counts, found], format="csr")
        if not self.tuned:
            dense = self.vectors(new)
            self.dense = dense if self.dense is None else np.concatenate([self.dense, dense])

    @property
    def known(self) -> int:
        """Texts that were read."""
        return int(self.counts.shape[0])

    def words(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        """float32[n, X]: what some texts say together, int64 each: words are counted over all of them."""
        which = np.concatenate([np.zeros(0, np.int64), *rows])
        begin = np.concatenate([[0], np.cumsum([len(own) for own in rows])])
        together = csr_array((np.ones(len(which)), which, begin), (len(rows), self.known))
        return self.lexicon.vectors(together @ self.counts)

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """float32[n, W], of length 1, from the cache as far as it has them; the encoder is loaded only if needed."""
        if not texts:
            return np.zeros((0, self.width), np.float32)
        kind = encoding.device().type
        if kind == "cpu":  # what rounds in another way has a cache of its own
            kind += f"-{torch.backends.cpu.get_cpu_capability().lower()}-{kernels.held()}"
        folder = self.cache / f"{encoding.digest(self.name).replace('/', '--')}-{self.length}-{kind}"
        return Cache(folder).get(texts, lambda some: encoding.encode_all(self.encoder, some))

    @functools.cached_property
    def encoder(self) -> encoding.SentenceTransformer:
        return encoding.load(self.name, self.length)

    @functools.cached_property
    def width(self) -> int:
        """Of what the encoder says."""
        if self.dense is not None and len(self.dense):
            return self.dense.shape[1]
        return encoding.width(self.encoder)

    def passages(self, rows: np.ndarray) -> Passages:
        """Of some texts, int64[n]."""
        if self.dense is not None:
            return Passages(torch.from_numpy(self.dense[rows]))
        found = encoding.tokens(self.encoder, [self.texts[k] for k in rows])
        return Passages(None, found["input_ids"], found["attention_mask"])


def sides(config: ModelConfig, cache: Path) -> tuple[Side, Side]:
    """Of users and of statements."""
    tuned = config.tuned_layers != 0
    most = max(config.max_statement_length, config.max_context_length)
    return (
        Side(config.user_model_name, config.max_chunk_length, tuned, cache),
        Side(config.item_model_name, most, tuned, cache),
    )


@dataclass(frozen=True)
class Person:
    """A user's chunks, the newest first."""

    rows: np.ndarray
    """int64[C], places among the texts"""
    second: np.ndarray
    """float64[C], UTC seconds; 0 where none is known"""
    words: np.ndarray
    """float64[C]"""
    platform: np.ndarray
    """int64[C]"""
    numbers: np.ndarray
    """float32[m], their own metadata"""

    def only(self, chosen: np.ndarray) -> Person:
        return Person(self.rows[chosen], self.second[chosen], self.words[chosen], self.platform[chosen], self.numbers)


class Corpus:
    """What a model reads."""

    def __init__(
        self,
        config: ModelConfig,
        user_side: Side,
        item_side: Side,
        metadata: tuple[Sequence[str], Sequence[str]] = ((), ()),
        common: Mapping[str, int] | None = None,
    ):
        """metadata: names of the numbers that users and statements come with; common: statement -> users in training
        who have it."""
        self.config, self.user_side, self.item_side = config, user_side, item_side
        self.user_names, self.item_names = metadata
        self.common = common or {}

    def person(self, user: UserData) -> Person:
        chunks = sorted(user.chunks, key=lambda chunk: (-(chunk.second or 0), chunk.text))
        chunks = chunks[: self.config.num_chunks_per_user]
        own = [user.metadata.get(name, 0.0) for name in self.user_names]
        return Person(
            np.array([self.user_side.place(chunk.text) for chunk in chunks], np.int64),
            np.array([chunk.second or 0 for chunk in chunks], np.float64),
            np.array([len(chunk.text.split()) for chunk in chunks], np.float64),
            np.array([hash_of(chunk.platform) for chunk in chunks], np.int64),
            np.array(own, np.float32),
        )

    def statement(self, statement: str | Statement) -> tuple[int, int, np.ndarray]:
        """Places of a statement's text and context (-1 without one), and its numbers."""
        s = as_statement(statement)
        text = self._within(s.text, self.config.max_statement_length)
        context = self._within(s.context, self.config.max_context_length)
        own = [len(s.text.split()), bool(s.context), self.common.get(" | ".join(s.key), 0)]
        numbers = np.log1p(np.array(own, np.float32)) if self.config.use_item_metadata else np.zeros(0, np.float32)
        more = np.array([s.metadata.get(name, 0.0) for name in self.item_names], np.float32)
        return (
            self.item_side.place(text),
            self.item_side.place(context) if context else -1,
            np.concatenate([numbers, more]) if self.config.use_item_metadata else numbers,
        )

    def _within(self, text: str, most: int) -> str:
        """The first so many tokens; what nobody could exceed is not counted."""
        if len(text) <= most:
            return text
        (offsets,) = self._words.offsets([text])
        return text if len(offsets) <= most else text[: offsets[most][0]].strip()

    @functools.cached_property
    def _words(self) -> encoding.Words:
        return encoding.Words(self.item_side.name)

    def users(self, people: Sequence[Person], rows: np.ndarray | None = None) -> Users:
        """rows: int64[T], ascending, the texts of the passages that go with it; None: all of them."""
        most = max((len(person.rows) for person in people), default=0)
        shape = len(people), max(most, 1)
        chunks, mask, age = np.zeros(shape, np.int64), np.zeros(shape, bool), np.zeros(shape, np.float32)
        for k, person in enumerate(people):
            n = len(person.rows)
            chunks[k, :n] = person.rows if rows is None else np.searchsorted(rows, person.rows)
            mask[k, :n] = True
            if n:
                age[k, :n] = np.log1p((person.second.max() - person.second) / DAY)
        numbers = self.user_numbers(people)
        words = self.user_side.words([person.rows for person in people])
        return Users(*(torch.from_numpy(x) for x in (chunks, mask, age, words, numbers)))

    def statements(self, found: Sequence[tuple[int, int, np.ndarray]], rows: np.ndarray | None = None) -> Statements:
        """Of what `statement` gave; rows: as in `users`."""
        text, context = (np.array([one[k] for one in found], np.int64) for k in (0, 1))
        words = self.item_side.words([np.array([k for k in one[:2] if k >= 0], np.int64) for one in found])
        if rows is not None:
            text = np.searchsorted(rows, text)
            context = np.where(context >= 0, np.searchsorted(rows, context), -1)
        numbers = self.item_numbers(found)
        return Statements(*(torch.from_numpy(x) for x in (text, context, words, numbers)))

    def user_numbers(self, people: Sequence[Person]) -> np.ndarray:
        """float32[n, M]."""
        known = [_numbers(person) for person in people] if self.user_width else []
        return np.stack(known) if known else np.zeros((len(people), self.user_width), np.float32)

    def item_numbers(self, found: Sequence[tuple[int, int, np.ndarray]]) -> np.ndarray:
        """float32[n, M], of what `statement` gave."""
        return np.stack([one[2] for one in found]) if found else np.zeros((0, self.item_width), np.float32)

    @property
    def user_width(self) -> int:
        return len(USER_NUMBERS) + len(self.user_names) if self.config.use_user_metadata else 0

    @property
    def item_width(self) -> int:
        return len(ITEM_NUMBERS) + len(self.item_names) if self.config.use_item_metadata else 0


def hash_of(platform: str) -> int:
    """A number that is the same in every process, and another one for another name."""
    return int.from_bytes(hashlib.sha256(platform.encode()).digest()[:7], "big")


def _numbers(person: Person) -> np.ndarray:
    if not len(person.rows):
        return np.concatenate([np.zeros(len(USER_NUMBERS), np.float32), person.numbers])
    days = (person.second.max() - person.second.min()) / DAY
    own = [len(person.rows), person.words.sum(), days, len(np.unique(person.platform))]
    return np.concatenate([np.log1p(np.array(own, np.float32)), person.numbers])
