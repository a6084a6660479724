"""A text is read once; what was hashed keeps its meaning."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from befriend.text.cache import Cache


def test_a_text_is_read_once_also_by_another_process(tmp_path: Path) -> None:
    asked: list[str] = []

    def encode(texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        return np.array([[len(text), ord(text[0])] for text in texts], np.float32)

    first = Cache(tmp_path).get(["aa", "b", "aa"], encode)  # type: ignore[arg-type]
    again = Cache(tmp_path).get(["b", "ccc", "aa"], encode)  # type: ignore[arg-type]
    assert first.tolist() == [[2, 97], [1, 98], [2, 97]] and again.tolist() == [[1, 98], [3, 99], [2, 97]]
    assert sorted(asked) == ["aa", "b", "ccc"]


def test_a_part_that_cannot_be_read_is_made_anew(tmp_path: Path) -> None:
    def encode(texts: list[str]) -> np.ndarray:
        return np.ones((len(texts), 2), np.float32)

    Cache(tmp_path).get(["a"], encode)  # type: ignore[arg-type]
    (part,) = tmp_path.iterdir()
    part.write_bytes(b"half")
    assert Cache(tmp_path).get(["a"], encode).tolist() == [[1, 1]]  # type: ignore[arg-type]
