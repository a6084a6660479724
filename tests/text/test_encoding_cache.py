"""The cache of encoded texts: each text is encoded once."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from befriend.text.encoding_cache import EncodingCache


def test_a_text_is_encoded_once_across_caches_of_the_same_folder(tmp_path: Path) -> None:
    encoded: list[str] = []

    def encode(texts: list[str]) -> np.ndarray:
        encoded.extend(texts)
        return np.array([[len(text), ord(text[0])] for text in texts], np.float32)

    first = EncodingCache(tmp_path).get(["aa", "b", "aa"], encode)  # type: ignore[arg-type]
    second = EncodingCache(tmp_path).get(["b", "ccc", "aa"], encode)  # type: ignore[arg-type]
    assert first.tolist() == [[2, 97], [1, 98], [2, 97]] and second.tolist() == [[1, 98], [3, 99], [2, 97]]
    assert sorted(encoded) == ["aa", "b", "ccc"]


def test_texts_of_a_damaged_file_are_encoded_again(tmp_path: Path) -> None:
    def encode(texts: list[str]) -> np.ndarray:
        return np.ones((len(texts), 2), np.float32)

    EncodingCache(tmp_path).get(["a"], encode)  # type: ignore[arg-type]
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"half")
    assert EncodingCache(tmp_path).get(["a"], encode).tolist() == [[1, 1]]  # type: ignore[arg-type]
