"""Word vectors: dense TF-IDF vectors of hashed words, for rare terms that an encoder does not know.

Words are hashed into buckets (Weinberger et al. 2009), weighted by TF-IDF, and folded into a few hundred signed
columns, which preserves inner products up to noise of order 1 / sqrt(columns).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_array  # type: ignore[import-untyped]

BUCKETS = 2**18  # of the hash


@dataclass(frozen=True)
class HashedTfidf:
    """Inverse document frequencies of the training texts, and the width of the vectors."""

    idf: np.ndarray
    """float32[BUCKETS], inverse document frequency"""
    width: int
    """number of columns of a vector; 0: no word vectors"""

    @classmethod
    def of(cls, texts: Sequence[str], width: int) -> Self:
        """Fits the inverse document frequencies to training texts; width 0: no word vectors."""
        document_frequency = (
            np.bincount(word_counts(texts).indices, minlength=BUCKETS) if width and len(texts) else np.zeros(BUCKETS)
        )
        return cls(
            np.log((1 + len(texts)) / (1 + document_frequency)).astype(np.float32)
            if width
            else np.zeros(0, np.float32),
            width,
        )

    def vectors(self, counts: csr_array) -> np.ndarray:
        """float32[n, width], of length 1; 0 for rows without a word. counts: rows of `word_counts`, or sums of rows."""
        from scipy.sparse import csr_array

        if not self.width:
            return np.zeros((counts.shape[0], 0), np.float32)
        words = self.tfidf(counts)
        folded = csr_array((words.data, words.indices % self.width, words.indptr), (counts.shape[0], self.width))
        out = folded.astype(np.float32).toarray()  # sums words of the same column
        length = np.linalg.norm(out, axis=1, keepdims=True)
        return out / np.where(length > 0, length, 1)

    def tfidf(self, counts: csr_array) -> csr_array:
        """float64[n, BUCKETS], sparse: TF-IDF with logarithmic counts; words not in training have the highest IDF."""
        weighted = counts.copy()
        weighted.eliminate_zeros()  # two words of one bucket and opposite signs
        weighted.data = np.sign(weighted.data) * (1 + np.log(np.abs(weighted.data))) * self.idf[weighted.indices]
        return weighted


def word_counts(texts: Sequence[str]) -> csr_array:
    """float64[n, BUCKETS], sparse: how often each word occurs in each text, signed by its hash."""
    from scipy.sparse import csr_array
    from sklearn.feature_extraction.text import HashingVectorizer  # type: ignore[import-untyped]

    vectorizer: Any = HashingVectorizer(n_features=BUCKETS, stop_words="english", norm=None)
    counts = csr_array(vectorizer.transform(texts) if len(texts) else (0, BUCKETS))
    counts.eliminate_zeros()  # two words of one bucket and opposite signs
    return counts
