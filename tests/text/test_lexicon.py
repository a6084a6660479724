"""Word vectors: rarity of words, counts per user, and folding into dense columns."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from befriend.text import ModelConfig
from befriend.text.corpus import encoder_sides
from befriend.text.lexicon import HashedTfidf, word_counts


def test_rare_words_weigh_more_than_common_ones() -> None:
    lexicon = HashedTfidf.of(["tea kettle", "tea pot", "tea cup"], 512)
    kettle, tea_kettle, tea = lexicon.vectors(word_counts(["kettle", "tea kettle", "tea"]))
    assert np.linalg.norm(tea_kettle) == pytest.approx(1, abs=1e-6)
    assert tea_kettle @ kettle > 0.9 > tea_kettle @ tea


def test_a_text_without_words_has_the_zero_vector() -> None:
    assert not HashedTfidf.of(["tea"], 8).vectors(word_counts(["", "the"])).any()


def test_words_folded_into_one_column_are_added_with_their_signs() -> None:
    folded = HashedTfidf.of(["kettle", "pot"], 1).vectors(word_counts(["kettle", "pot", "kettle pot"]))
    kettle, pot, both = folded.ravel().tolist()
    assert (abs(kettle), abs(pot)) == (1, 1)
    assert both == np.sign(kettle + pot)  # 0 if the signs differ: both words are equally rare


def test_words_are_counted_over_all_texts_of_a_user(tmp_path: Path) -> None:
    side, _ = encoder_sides(ModelConfig(user_model_name="random", item_model_name="random", tuned_layers=1), tmp_path)
    rows = np.array([side.add_text(text) for text in ("kettle kettle", "kettle", "pot")])
    single = np.array([side.add_text("kettle")]), np.array([side.add_text("pot")])
    side.index_new_texts(HashedTfidf.of(["kettle", "pot"], 4096))  # both words equally rare
    user, kettle, pot = side.words([rows, *single])
    kettle_weight, pot_weight = 1 + math.log(3), 1.0
    length = math.hypot(kettle_weight, pot_weight)
    assert [user @ kettle, user @ pot] == pytest.approx([kettle_weight / length, pot_weight / length])
