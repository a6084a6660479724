"""Numeric features of a user's chunks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from befriend.text import ModelConfig
from befriend.text.chunks import UserChunk, UserData
from befriend.text.corpus import BUILT_IN_USER_FEATURES, Corpus, encoder_sides


def test_platforms_with_a_common_prefix_are_different_platforms(tmp_path: Path) -> None:
    config = ModelConfig(use_user_metadata=True)
    corpus = Corpus(config, *encoder_sides(config, tmp_path))
    names = ("profile-bio", "profile-about", "profile-bio", "", "profile")
    user = corpus.chunked_user(UserData("a", [UserChunk(f"text {k}", name) for k, name in enumerate(names)]))
    (features,) = corpus.user_features([user])
    assert np.isclose(np.expm1(features[BUILT_IN_USER_FEATURES.index("platforms")]), 4)
