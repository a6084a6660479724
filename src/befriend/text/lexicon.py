"""Word vectors: dense TF-IDF over hashed words, for terms that an encoder never learned.

Words are hashed (Weinberger et al. 2009), weighted by TF-IDF, and folded into a few hundred signed columns, which
preserves inner products up to noise of 1 / sqrt(columns).
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
class HashedTfidf:
    """How rare words are among the training texts."""

    rarity: np.ndarray
    """float32[BUCKETS], inverse document frequency"""
    width: int
    """columns of a vector"""

    @classmethod
    def of(cls, texts: Sequence[str], width: int) -> Self:
        """Fits the inverse document frequencies to training texts; width 0: no word vectors."""
        texts_with = (
            np.bincount(word_counts(texts).indices, minlength=BUCKETS) if width and len(texts) else np.zeros(BUCKETS)
        )
        return cls(
            np.log((1 + len(texts)) / (1 + texts_with)).astype(np.float32) if width else np.zeros(0, np.float32), width
        )

    def vectors(self, counts: csr_array) -> np.ndarray:
        """float32[n, width], of length 1; 0 for rows without a word. counts: of `word_counts`, or sums of its rows."""
        from scipy.sparse import csr_array

        if not self.width:
            return np.zeros((counts.shape[0], 0), np.float32)
        words = self.weighed(counts)
        folded = csr_array((words.data, words.indices % self.width, words.indptr), (counts.shape[0], self.width))
        out = folded.astype(np.float32).toarray()  # adds up words of the same column
        length = np.linalg.norm(out, axis=1, keepdims=True)
        return out / np.where(length > 0, length, 1)

    def weighed(self, counts: csr_array) -> csr_array:
        """float64[n, BUCKETS], sparse: TF-IDF with logarithmic counts; unseen words are the rarest."""
        weighted = counts.copy()
        weighted.eliminate_zeros()  # two words of one bucket and opposite signs
        weighted.data = np.sign(weighted.data) * (1 + np.log(np.abs(weighted.data))) * self.rarity[weighted.indices]
        return weighted


def word_counts(texts: Sequence[str]) -> csr_array:
    """float64[n, BUCKETS], sparse: how often each word occurs in each text, signed by its hash."""
    from scipy.sparse import csr_array
    from sklearn.feature_extraction.text import HashingVectorizer  # type: ignore[import-untyped]

    vectorizer: Any = HashingVectorizer(n_features=BUCKETS, stop_words="english", norm=None)
    counts = csr_array(vectorizer.transform(texts) if len(texts) else (0, BUCKETS))
    counts.eliminate_zeros()  # two words of one bucket and opposite signs
    return counts
