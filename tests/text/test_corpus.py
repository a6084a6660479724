"""What is counted of a user's chunks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from befriend.text import ModelConfig
from befriend.text.corpus import USER_NUMBERS, Corpus, sides
from befriend.text.data import UserChunk, UserData


def test_platforms_whose_names_begin_alike_are_different_platforms(tmp_path: Path) -> None:
    config = ModelConfig(use_user_metadata=True)
    corpus = Corpus(config, *sides(config, tmp_path))
    names = ("profile-bio", "profile-about", "profile-bio", "", "profile")
    person = corpus.person(UserData("a", [UserChunk(f"text {k}", name) for k, name in enumerate(names)]))
    (numbers,) = corpus.user_numbers([person])
    assert np.isclose(np.expm1(numbers[USER_NUMBERS.index("platforms")]), 4)
