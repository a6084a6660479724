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
        seen = np.bincount(counts(texts).indices, minlength=BUCKETS) if width and len(texts) else np.zeros(BUCKETS)
        return cls(
            np.log((1 + len(texts)) / (1 + seen)).astype(np.float32) if width else np.zeros(0, np.float32), width
        )

    def vectors(self, counts: csr_array) -> np.ndarray:
        """float32[n, width], of length 1, or 0 for rows without a word. counts: as of `counts`, or sums of rows."""
        from scipy.sparse import csr_array

        if not self.width:
            return np.zeros((counts.shape[0], 0), np.float32)
        words = self.weighed(counts)
        folded = csr_array((words.data, words.indices % self.width, words.indptr), (counts.shape[0], self.width))
        out = folded.astype(np.float32).toarray()  # adds up what falls together
        length = np.linalg.norm(out, axis=1, keepdims=True)
        return out / np.where(length > 0, length, 1)

    def weighed(self, counts: csr_array) -> csr_array:
        """float64[n, BUCKETS], sparse: TF-IDF, of logarithms of counts; words that training lacks are the rarest."""
        found = counts.copy()
        found.eliminate_zeros()  # two words of one bucket and opposite signs
        found.data = np.sign(found.data) * (1 + np.log(np.abs(found.data))) * self.rarity[found.indices]
        return found


def counts(texts: Sequence[str]) -> csr_array:
    """float64[n, BUCKETS]: how often each word stands in each text, signed by its hash."""
    from scipy.sparse import csr_array
    from sklearn.feature_extraction.text import HashingVectorizer  # type: ignore[import-untyped]

    vectorizer: Any = HashingVectorizer(n_features=BUCKETS, stop_words="english", norm=None)
    found = csr_array(vectorizer.transform(texts) if len(texts) else (0, BUCKETS))
    found.eliminate_zeros()  # two words of one bucket and opposite signs
    return found
