"""Vectors of texts that a frozen encoder has read before, so that each text is read once.

A folder of parts in safetensors, each with the digests of some texts and their vectors. A run that was killed finds
what it had done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from befriend import files

AT_ONCE = 2048  # texts of a part
DIGEST = 16  # bytes


class Cache:
    """The vectors of one encoder, for texts up to one length."""

    def __init__(self, folder: Path):
        self.folder = folder

    def get(self, texts: Sequence[str], encode: Callable[[Sequence[str]], np.ndarray]) -> np.ndarray:
        """float32[n, D]: vectors of texts, n > 0; those that are not here are made by `encode`, and kept."""
        digests = np.array([hashlib.sha256(text.encode()).digest()[:DIGEST] for text in texts], f"S{DIGEST}")
        keys, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
        found: list[tuple[np.ndarray, np.ndarray]] = []  # places among the keys, and vectors
        missing = np.ones(len(keys), bool)
        for known, vectors in self._parts():
            place = np.searchsorted(keys, known).clip(max=len(keys) - 1)
            here = keys[place] == known
            found.append((place[here], vectors[here]))
            missing[place[here]] = False
        todo = np.flatnonzero(missing)
        todo = todo[np.argsort([len(texts[first[k]]) for k in todo], kind="stable")]  # of like length go together
        for low in range(0, len(todo), AT_ONCE):
            place = todo[low : low + AT_ONCE]
            vectors = encode([texts[first[k]] for k in place])
            self._keep(keys[place], vectors)
            found.append((place, vectors))
        out = np.zeros((len(keys), found[-1][1].shape[1]), np.float32)
        for place, vectors in found:
            out[place] = vectors
        return out[inverse]

    def _parts(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                part = load_file(path)
                yield part["digests"].view(f"S{DIGEST}").ravel(), part["vectors"]
            except (SafetensorError, KeyError, OSError, ValueError):
                files.remove(path)  # what cannot be read is made anew

    def _keep(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        from safetensors.numpy import save_file

        digests = keys.view(np.uint8).reshape(len(keys), DIGEST)
        name = hashlib.sha256(digests.tobytes()).hexdigest()[:DIGEST]
        with files.atomic(self.folder / f"{name}.safetensors") as path:
            save_file({"digests": digests, "vectors": np.ascontiguousarray(vectors, np.float32)}, path)
