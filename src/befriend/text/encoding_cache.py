"""Cache of text vectors from a frozen encoder, so that each text is encoded once.

A folder of safetensors files, each with the digests of some texts and their vectors. If a run is killed, the next run
reuses the vectors that are already in the cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from befriend import files

TEXTS_PER_FILE = 2048
DIGEST_BYTES = 16


class EncodingCache:
    """The vectors of one encoder, for texts up to one length."""

    def __init__(self, folder: Path):
        self.folder = folder

    def get(self, texts: Sequence[str], encode: Callable[[Sequence[str]], np.ndarray]) -> np.ndarray:
        """float32[n, D]: vectors of texts, n > 0. Vectors that are missing are computed by `encode` and stored."""
        digests = np.array(
            [hashlib.sha256(text.encode()).digest()[:DIGEST_BYTES] for text in texts], f"S{DIGEST_BYTES}"
        )
        keys, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
        vectors_by_index: list[tuple[np.ndarray, np.ndarray]] = []  # indices into keys, and their vectors
        is_missing = np.ones(len(keys), bool)
        for stored_keys, vectors in self._stored():
            index = np.searchsorted(keys, stored_keys).clip(max=len(keys) - 1)
            is_match = keys[index] == stored_keys
            vectors_by_index.append((index[is_match], vectors[is_match]))
            is_missing[index[is_match]] = False
        missing_index = np.flatnonzero(is_missing)
        missing_index = missing_index[
            np.argsort([len(texts[first[k]]) for k in missing_index], kind="stable")
        ]  # similar lengths together
        for start in range(0, len(missing_index), TEXTS_PER_FILE):
            index = missing_index[start : start + TEXTS_PER_FILE]
            vectors = encode([texts[first[k]] for k in index])
            self._store(keys[index], vectors)
            vectors_by_index.append((index, vectors))
        out = np.zeros((len(keys), vectors_by_index[-1][1].shape[1]), np.float32)
        for index, vectors in vectors_by_index:
            out[index] = vectors
        return out[inverse]

    def _stored(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(digests, vectors) of each file; an unreadable file is removed, so that its texts are encoded again."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                tensors = load_file(path)
                yield tensors["digests"].view(f"S{DIGEST_BYTES}").ravel(), tensors["vectors"]
            except (SafetensorError, KeyError, OSError, ValueError):
                files.remove(path)

    def _store(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        from safetensors.numpy import save_file

        digests = keys.view(np.uint8).reshape(len(keys), DIGEST_BYTES)
        name = hashlib.sha256(digests.tobytes()).hexdigest()[:DIGEST_BYTES]
        with files.atomic(self.folder / f"{name}.safetensors") as path:
            save_file({"digests": digests, "vectors": np.ascontiguousarray(vectors, np.float32)}, path)
