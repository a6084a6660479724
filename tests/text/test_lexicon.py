"""Words: how rare they are, how often somebody uses them, and as a dense vector."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from befriend.text import ModelConfig
from befriend.text.corpus import sides
from befriend.text.lexicon import Lexicon, counts


def test_rare_words_weigh_more_than_common_ones() -> None:
    lexicon = Lexicon.of(["tea kettle", "tea pot", "tea cup"], 512)
    kettle, both, tea = lexicon.vectors(counts(["kettle", "tea kettle", "tea"]))
    assert np.linalg.norm(both) == pytest.approx(1, abs=1e-6)
    assert both @ kettle > 0.9 > both @ tea


def test_a_text_without_words_is_0() -> None:
    assert not Lexicon.of(["tea"], 8).vectors(counts(["", "the"])).any()


def test_words_that_fall_into_one_column_add_up() -> None:
    folded = Lexicon.of(["kettle", "pot"], 1).vectors(counts(["kettle", "pot", "kettle pot"]))
    assert np.abs(folded).ravel()[:2].tolist() == [1, 1] and abs(folded[2, 0]) in (0, 1)


def test_words_are_counted_over_all_texts_of_a_user(tmp_path: Path) -> None:
    side, _ = sides(ModelConfig(user_model_name="random", item_model_name="random", tuned_layers=1), tmp_path)
    rows = np.array([side.place(text) for text in ("kettle kettle", "kettle", "pot")])
    alone = np.array([side.place("kettle")]), np.array([side.place("pot")])
    side.read(Lexicon.of(["kettle", "pot"], 4096))  # both as rare
    together, kettle, pot = side.words([rows, *alone])
    often, once = 1 + math.log(3), 1.0
    length = math.hypot(often, once)
    assert [together @ kettle, together @ pot] == pytest.approx([often / length, once / length])
