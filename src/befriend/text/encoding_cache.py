"""Cache of text vectors from a frozen encoder, so that each text is encoded once.

A folder of safetensors files, each with the digests of some texts and their vectors. A run that was killed finds in it
what it had encoded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from befriend import files

AT_ONCE = 2048  # texts per file
DIGEST = 16  # bytes


class EncodingCache:
    """The vectors of one encoder, for texts up to one length."""

    def __init__(self, folder: Path):
        self.folder = folder

    def get(self, texts: Sequence[str], encode: Callable[[Sequence[str]], np.ndarray]) -> np.ndarray:
        """float32[n, D]: vectors of texts, n > 0. Vectors that are missing are computed by `encode` and stored."""
        digests = np.array([hashlib.sha256(text.encode()).digest()[:DIGEST] for text in texts], f"S{DIGEST}")
        keys, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
        vectors_by_index: list[tuple[np.ndarray, np.ndarray]] = []  # indices into keys, and their vectors
        missing = np.ones(len(keys), bool)
        for stored_keys, vectors in self._stored():
            index = np.searchsorted(keys, stored_keys).clip(max=len(keys) - 1)
            is_match = keys[index] == stored_keys
            vectors_by_index.append((index[is_match], vectors[is_match]))
            missing[index[is_match]] = False
        todo = np.flatnonzero(missing)
        todo = todo[np.argsort([len(texts[first[k]]) for k in todo], kind="stable")]  # similar lengths together
        for start in range(0, len(todo), AT_ONCE):
            index = todo[start : start + AT_ONCE]
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
                yield tensors["digests"].view(f"S{DIGEST}").ravel(), tensors["vectors"]
            except (SafetensorError, KeyError, OSError, ValueError):
                files.remove(path)

    def _store(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        from safetensors.numpy import save_file

        digests = keys.view(np.uint8).reshape(len(keys), DIGEST)
        name = hashlib.sha256(digests.tobytes()).hexdigest()[:DIGEST]
        with files.atomic(self.folder / f"{name}.safetensors") as path:
            save_file({"digests": digests, "vectors": np.ascontiguousarray(vectors, np.float32)}, path)
