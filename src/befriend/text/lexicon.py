"""Words, hashed and weighted: what a text says in terms that an encoder never learned, as a dense vector.

TF-IDF over hashed words (Weinberger et al. 2009), folded into a few hundred columns with signs, which keeps inner
products but for noise of 1 / sqrt(columns).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_array  # type: ignore[import-untyped]

BUCKETS = 2**18


@dataclass(frozen=True)
class Lexicon:
    """How rare words are among the texts of training."""

    rarity: np.ndarray
    """float32[BUCKETS], inverse document frequency"""
    width: int
    """columns of a vector"""

    @classmethod
    def of(cls, texts: Sequence[str], width: int) -> Self:
        counts = _counts(texts) if width and len(texts) else None
        seen = np.zeros(BUCKETS) if counts is None else np.bincount(counts.indices, minlength=BUCKETS)
        return cls(
            np.log((1 + len(texts)) / (1 + seen)).astype(np.float32) if width else np.zeros(0, np.float32), width
        )

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """float32[n, width], of length 1, or 0 for texts without a word."""
        if not self.width or not len(texts):
            return np.zeros((len(texts), self.width), np.float32)
        words = self.words(texts)
        out = np.zeros((len(texts), self.width), np.float32)
        row = np.repeat(np.arange(len(texts)), np.diff(words.indptr))
        np.add.at(out, (row, words.indices % self.width), words.data)
        length = np.linalg.norm(out, axis=1, keepdims=True)
        return out / np.where(length > 0, length, 1)

    def words(self, texts: Sequence[str]) -> csr_array:
        """float64[n, BUCKETS], sparse: TF-IDF, of logarithms of counts; words that training lacks are the rarest."""
        found = _counts(texts)
        found.data = np.sign(found.data) * (1 + np.log(np.abs(found.data))) * self.rarity[found.indices]
        return found


def _counts(texts: Sequence[str]) -> csr_array:
    """float64[n, BUCKETS]: how often each word stands in each text, signed by its hash."""
    from sklearn.feature_extraction.text import HashingVectorizer  # type: ignore[import-untyped]

    vectorizer: Any = HashingVectorizer(n_features=BUCKETS, stop_words="english", norm=None)
    counts = vectorizer.transform(texts).tocsr()
    counts.eliminate_zeros()  # two words of one bucket and opposite signs
    return counts
