"""Numbers about a user's chunks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from befriend.text import ModelConfig
from befriend.text.chunks import UserChunk, UserData
from befriend.text.corpus import USER_NUMBERS, Corpus, encoder_sides


def test_platforms_with_a_common_prefix_are_different_platforms(tmp_path: Path) -> None:
    config = ModelConfig(use_user_metadata=True)
    corpus = Corpus(config, *encoder_sides(config, tmp_path))
    names = ("profile-bio", "profile-about", "profile-bio", "", "profile")
    user = corpus.person(UserData("a", [UserChunk(f"text {k}", name) for k, name in enumerate(names)]))
    (numbers,) = corpus.user_numbers([user])
    assert np.isclose(np.expm1(numbers[USER_NUMBERS.index("platforms")]), 4)
